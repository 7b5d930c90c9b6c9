"""Whatever docs/paper.md names exists: symbols, files and tests."""

import ast
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

from ccpml import method

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`((?:ccpml\.|src/|tests/)[\w./:]+)`", PAGE)))


@pytest.mark.parametrize("name", NAMES)
def test_it_exists(name):
    path, _, test = name.partition("::")
    if name.startswith("ccpml."):
        assert resolve_name(name) is not None
    elif test:
        code = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert test in {node.name for node in ast.walk(code) if isinstance(node, ast.FunctionDef)}
    else:
        assert (ROOT / path).exists()


def test_each_part_of_the_method_is_on_the_page():
    parts = set(method.__all__) - {"PairLoss", "gather_batch"}  # the paper has neither
    named = {name.rpartition(".")[2] for name in NAMES}
    assert parts <= named
    assert len(NAMES) > 60

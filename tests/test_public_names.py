import re
import subprocess
import sys
from pathlib import Path

import pytest

import ccpml

REFERENCE = Path(__file__).parents[1] / "docs" / "reference.md"


@pytest.mark.parametrize("name", ccpml.__all__)
def test_every_public_name_can_be_imported(name):
    value = getattr(ccpml, name)
    assert value.__doc__
    assert value.__name__ == name
    assert name in dir(ccpml)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ccpml' has no attribute 'Nonsense'"):
        _ = ccpml.Nonsense


def test_the_reference_lists_every_public_name():
    listed = re.findall(r"^::: ccpml\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(ccpml.__all__)


def test_import_loads_no_large_library():
    code = "import sys, ccpml; print({'torch', 'lightning', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

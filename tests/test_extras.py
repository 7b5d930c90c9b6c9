"""What pip installs, in the messages about packages that are missing."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import ccpml
from ccpml.extras import MissingExtraError, require_extra
from ccpml.runs.loggers.names import LOGGERS

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
INSTALLED = {name: {re.split(r"[<>=\[]", each)[0] for each in packages} for name, packages in EXTRAS.items()}


def calls() -> list[tuple[list[str], str]]:
    """Packages and extra of each call of `require_extra` whose arguments are written out."""
    found = [
        ([ast.literal_eval(word) for word in call.args[1].elts], ast.literal_eval(call.args[2]))
        for file in Path(ccpml.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "require_extra" and len(call.args) == 3
        if isinstance(call.args[1], ast.List)
    ]
    return [*found, *((list(packages), name) for name, packages in LOGGERS.items() if packages)]


def test_each_package_is_named_as_pip_knows_it_and_belongs_to_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.extras.find_spec", lambda name: None)
    assert len(calls()) > 8
    for packages, extra in calls():
        with pytest.raises(MissingExtraError) as caught:
            require_extra("this", packages, extra)
        names, named = re.search(r"; pip install (.+) \(the extra (\w+) of ccpml\)$", str(caught.value)).groups()
        assert named == extra
        own = {name.replace("_", "-").removesuffix("-skinny") for name in INSTALLED[extra]}
        assert set(names.split()) == own


@pytest.mark.parametrize("folder", ["src", "docs", "README.md"])
def test_no_text_advises_to_install_ccpml_from_an_index(folder: str) -> None:
    place = ROOT / folder
    files = [place] if place.is_file() else [*place.rglob("*.py"), *place.rglob("*.md")]
    assert not [file for file in files if re.search(r"pip install ['\"]?ccpml", file.read_text())]

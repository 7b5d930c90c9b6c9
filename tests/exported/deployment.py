"""The packages with which exported models run, and a process that has no others."""

import re
import sys
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements-deploy.txt"

_RUN = """
import sys

REFUSED = set({refused!r}) - set(sys.modules)  # those that came before are of pip

class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse)
from ccpml.cli import main

for words in {commands!r}:
    code = main(words)
    if code:
        sys.exit(code)
assert not REFUSED.intersection(sys.modules)
"""


def listed() -> list[Requirement]:
    """The requirements of the file."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def installed_with(requirements: list[Requirement]) -> set[str]:
    """The distributions that pip installs for requirements, with those that they need."""
    found, left = set[str](), [each.name for each in requirements]
    while left:
        name = canonicalize_name(left.pop())
        if name not in found:
            found.add(name)
            needed = map(Requirement, requires(name) or ())
            left += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@cache
def refused_modules() -> set[str]:
    """The modules of this environment that one with the listed packages alone has not."""
    allowed = installed_with(listed()) | {"ccpml"}
    known = packages_distributions()
    return {
        module
        for module, names in known.items()
        if re.fullmatch(r"\w+", module) and not allowed.intersection(map(canonicalize_name, names))
    }


def deployed(*commands: list[str]) -> list[str]:
    """The command of a process that runs commands of ccpml, one after the other, without other packages."""
    code = _RUN.format(refused=sorted(refused_modules()), commands=[list(map(str, words)) for words in commands])
    return [sys.executable, "-c", code]

"""The built wheel is complete: the README's code, the command line and a small training run from it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import ROOT, blocks

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(command: list[str], **options) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the wheel without a network and install it into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}", str(ROOT)])
    [wheel] = folder.glob("ccpml-*.whl")
    run([*PIP, "install", "--no-deps", "--no-index", "--no-compile", f"--target={folder / 'site'}", str(wheel)])
    return folder / "site"


@pytest.fixture
def python(site, tmp_path):
    """Run Python in an empty folder, with the installed wheel first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return lambda *arguments: run([sys.executable, *arguments], cwd=tmp_path, env=environment)


def test_contains_the_package_alone(site):
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"ccpml", "bin"}
    source = ROOT / "src"
    suffixes = {".yaml", ".typed", ".zip", ".txt"}
    data = [path.relative_to(source) for path in source.rglob("*.*") if path.suffix in suffixes]
    assert len(data) > 5
    for path in data:
        assert (site / path).is_file(), path


def test_readme_code(python, site):
    code = "\n".join(blocks(ROOT / "README.md", "python"))
    assert code
    assert python("-c", f"{code}\nimport ccpml\nprint(ccpml.__file__)").splitlines()[-1] == f"{site}/ccpml/__init__.py"


def test_version(python, site):
    assert f"Version: {python('-m', 'ccpml.cli', '--version').split()[-1]}\n" in next(
        site.glob("ccpml-*.dist-info/METADATA")
    ).read_text(encoding="utf-8")


def test_the_photographs_and_their_license(python, site):
    assert "1,944 images of 81 classes" in python("-m", "ccpml.cli", "data", "check", "groceries")
    [information] = site.glob("ccpml-*.dist-info")
    text = (information / "METADATA").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0 AND MIT\n" in text
    for name in re.findall(r"^License-File: (.*)$", text, re.MULTILINE):
        assert (information / "licenses" / name).is_file()
    assert "groceries.LICENSE.txt" in text


def test_train(python, tmp_path):
    """On the embedded glyphs, with the settings of a preset."""
    options = "--loss triplet --max-steps 2 --validate-every 2 --pool-size 2 --proxies-per-class 2 --image-size 28"
    python("-m", "ccpml.cli", "train", "glyphs", *options.split(), "--run", "run")
    assert (tmp_path / "run" / "scores.json").is_file()

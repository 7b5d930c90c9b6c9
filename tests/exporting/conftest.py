"""A run of two steps, with its data."""

from pathlib import Path

import pytest

from ccpml import train
from tests.toy import quick_settings, toy_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("toy") / "photos")


@pytest.fixture(scope="session")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, which no test changes."""
    path = tmp_path_factory.mktemp("runs") / "mugs"
    train(quick_settings(data=f"folder:{folder}", max_steps=2), path, progress=False)
    return path

"""A toy folder, flags of a run of seconds, and such a run."""

from pathlib import Path

import pytest

from ccpml.cli import main
from tests.toy import QUICK, toy_folder

FLAGS = [f"--{name}={value}" for name, value in QUICK.items()]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def flags() -> list[str]:
    return list(FLAGS)


@pytest.fixture(scope="session")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ccpml.report.write.SECTIONS", ())  # pictures take most of the time
        assert main(["train", f"folder:{folder}", *FLAGS, "--run", str(path)]) == 0
    return path

"""Fixtures for all tests: golden vectors, a fixed seed, one thread per worker."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import preloaded as preloaded_processes

HERE = Path(__file__).parent
GOLDEN = {"reduced": HERE / "golden", "full": HERE.parents[1] / "shared" / "golden"}

torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's background jobs inherit this
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup: still ignored here, not in processes of the tests
    signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.fixture(scope="session", params=[name for name, folder in GOLDEN.items() if folder.is_dir()])
def golden(request: pytest.FixtureRequest) -> Callable[[str], dict[str, np.ndarray]]:
    """Load results of the authors' code by name: those in the repository, and the full set where it is available."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN[request.param] / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start Python processes as forks of one that has imported the libraries."""
    monkeypatch.setattr(subprocess, "Popen", preloaded_processes.Popen)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write reports without pictures, here and in preloaded processes."""
    monkeypatch.setattr("ccpml.report.write.SECTIONS", ())
    monkeypatch.setenv(preloaded_processes.NO_PICTURES, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device found"))

"""The run directory: its files, and reading them again."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import Tensor

from ccpml.files import load_yaml, write_yaml
from ccpml.runs.settings import ResolvedSettings
from ccpml.runs.values import read_values

__all__ = ["RunDirectory", "RunExistsError", "UnfinishedRunError"]


class RunExistsError(FileExistsError):
    """Something exists where a run directory would be created."""


class UnfinishedRunError(FileNotFoundError):
    """A run has no scores or no weights yet."""


class RunDirectory:
    """The files of a run in the directory ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "experiment.yaml"  # the settings that reproduce the run
        self.metrics_file = path / "metrics.csv"  # one row per validation
        self.scores_file = path / "scores.json"  # written when the run is finished
        self.weights_file = path / "checkpoints" / "best.safetensors"  # network and criterion at the best validation
        self.state_file = path / "checkpoints" / "last.ckpt"  # what a resumed run needs; loads with weights_only=True
        self.instances = path / "instances"  # one file per instance: samples and proxies for the pictures
        self.embeddings = path / "embeddings"  # of the splits, by the best weights
        self.report_file = path / "report.html"
        self.images_file = path / "images.sha256"  # a digest of which images of which classes are in which split

    @classmethod
    def require_free(cls, path: Path) -> None:
        """Check that a run directory can be created at ``path``.

        Raises:
            RunExistsError: If something already exists there.
        """
        if path.exists() and not (path.is_dir() and set(path.iterdir()) == set(_leftovers(path))):
            kind = "a run" if cls(path).settings_file.is_file() else "a file or folder"
            raise RunExistsError(f"{path}: {kind} already exists")

    @classmethod
    def create(cls, path: Path, settings: ResolvedSettings) -> "RunDirectory":
        """Create the directory of a new run, where nothing may exist."""
        cls.require_free(path)
        run = cls(path)
        for leftover in _leftovers(path):
            leftover.unlink()
        write_yaml(run.settings_file, settings.as_dict())
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open the directory of an existing run.

        Raises:
            FileNotFoundError: If ``path`` is not a run directory.
        """
        run = cls(path)
        if not run.settings_file.is_file():
            raise FileNotFoundError(f"{path}: not a run directory ({run.settings_file.name} not found)")
        return run

    @contextmanager
    def locked(self, timeout: float = 20.0) -> Iterator[None]:
        """Keep other processes from training this run; the lock of a process that dies is released.

        Another process that may be about to stop is waited for, ``timeout`` seconds.
        """
        try:
            with FileLock(self.path / ".lock", timeout=timeout):
                yield
        except Timeout:
            raise RuntimeError(
                f"{self.path}: another process is training this run; wait until it ends, or stop it"
            ) from None

    @property
    def finished(self) -> bool:
        """Whether the run was trained and scored to its end."""
        return self.scores_file.is_file()

    def settings(self) -> ResolvedSettings:
        """Read the settings.

        Raises:
            ValueError: If the file does not hold the settings of a run.
        """
        try:
            values = load_yaml(self.settings_file)
            if not isinstance(values, dict):
                raise ValueError(f"expected settings by name, got {type(values).__name__}")
            return ResolvedSettings.from_dict(read_values(values))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.settings_file}: not the settings of a run: {error}") from error

    def scores(self) -> dict[str, Any]:
        """Read the scores of a finished run.

        Raises:
            UnfinishedRunError: If the run is not finished.
            ValueError: If the file is damaged.
        """
        if not self.finished:
            raise UnfinishedRunError(f"{self.path}: the run is not finished")
        try:
            scores: dict[str, Any] = json.loads(self.scores_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.scores_file}: damaged ({error}); remove it and resume the run") from error
        return scores

    def metrics(self) -> list[dict[str, float]]:
        """Read the rows of ``metrics.csv`` as numbers by column, without empty cells.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.metrics_file.is_file():
            return []
        try:
            with self.metrics_file.open(encoding="utf-8", newline="") as file:
                return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.metrics_file}: damaged: {error}") from error

    def last_metrics(self) -> dict[str, float]:
        """Return the last row of ``metrics.csv``; empty if there is none, or the file cannot be read."""
        try:
            return (self.metrics() or [{}])[-1]
        except (OSError, ValueError):
            return {}

    def weights(self) -> dict[str, Tensor]:
        """Read the best weights: the network's under ``model.``, the criterion's under ``criterion.``.

        Raises:
            UnfinishedRunError: If there are none yet.
            ValueError: If the file is damaged.
        """
        if not self.weights_file.is_file():
            raise UnfinishedRunError(f"{self.path}: the run has no weights yet")
        try:
            return load_file(self.weights_file)
        except Exception as error:  # whatever safetensors raises on a damaged file
            raise ValueError(f"{self.weights_file}: damaged, cannot be read as safetensors ({error})") from error

    def check_state(self) -> Path | None:
        """Return the checkpoint to resume from, None if the run must start from the beginning.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.state_file.is_file():
            return None
        try:
            torch.load(self.state_file, map_location="meta", weights_only=True)
        except Exception as error:  # whatever torch raises on a damaged file
            raise ValueError(
                f"{self.state_file}: damaged; remove it, and resuming restarts the run from the beginning"
            ) from error
        return self.state_file


def _leftovers(path: Path) -> list[Path]:
    """Return the temporary files of a process that was killed while it created the directory."""
    return list(path.glob(".experiment.*.tmp.yaml"))

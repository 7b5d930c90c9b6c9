"""The run directory: what lies where, and reading it again."""

import csv
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ccpml.files import write_text
from ccpml.runs.locks import try_lock
from ccpml.runs.settings import Experiment

__all__ = ["RunDirectory"]


class RunDirectory:
    """The files of a run.

    Args:
        path: The directory.

    Attributes:
        experiment_file: ``experiment.yaml``, the config that reproduces the run.
        metrics_file: ``metrics.csv``, a row for each validation as it came.
        scores_file: ``scores.json``, written when the run is finished.
        weights_file: ``checkpoints/best.safetensors``, network and criterion at the best validation score.
        state_file: ``checkpoints/last.ckpt``, all that a resumed run needs; loads with ``weights_only=True``.
        instances: A file for each instance that converged: what the pictures show of it.
        embeddings: Embeddings of the splits by the best weights.
        report_file: ``report.html``.
        images_file: ``images.sha256``, a digest of which images of which classes are in which split.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment_file = path / "experiment.yaml"
        self.metrics_file = path / "metrics.csv"
        self.scores_file = path / "scores.json"
        self.weights_file = path / "checkpoints" / "best.safetensors"
        self.state_file = path / "checkpoints" / "last.ckpt"
        self.instances = path / "instances"
        self.embeddings = path / "embeddings"
        self.report_file = path / "report.html"
        self.images_file = path / "images.sha256"

    @staticmethod
    def require_free(path: Path) -> None:
        """Check that a new run can lie at ``path``.

        Raises:
            FileExistsError: If there is something already.
        """
        if path.is_dir() and len(_leftovers(path)) == len(list(path.iterdir())):
            return
        if path.exists():
            a_run = (path / "experiment.yaml").is_file()
            way_out = f"go on with that run by --resume {path}, or " if a_run else ""
            raise FileExistsError(f"{path}: there is something already; {way_out}choose another place with --run")

    @classmethod
    def create(cls, path: Path, experiment: Experiment) -> "RunDirectory":
        """Make the directory of a new run.

        Raises:
            FileExistsError: If there is something at ``path`` already.
        """
        cls.require_free(path)
        run = cls(path)
        for leftover in _leftovers(path):
            leftover.unlink()
        write_text(run.experiment_file, yaml.safe_dump(experiment.as_dict(), sort_keys=False, allow_unicode=True))
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open the directory of an existing run.

        Raises:
            FileNotFoundError: If there is no run at ``path``.
        """
        run = cls(path)
        if not run.experiment_file.is_file():
            raise FileNotFoundError(f"{path}: no run is there (no {run.experiment_file.name})")
        return run

    @contextmanager
    def locked(self, patience: float = 20.0) -> Iterator[None]:
        """Keep other processes from training this run; a process that dies, however, lets go of it.

        Args:
            patience: For how many seconds to wait until another one, perhaps about to stop, lets go.

        Raises:
            RuntimeError: If another process goes on training it.
        """
        deadline = time.monotonic() + patience
        while (lock := try_lock(self.path / ".lock")) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.path}: another process trains this run; wait until it ends, or stop it")
            time.sleep(0.2)
        with lock:
            yield

    @property
    def finished(self) -> bool:
        """Whether the run was trained and scored to its end."""
        return self.scores_file.is_file()

    def experiment(self) -> Experiment:
        """Read the experiment.

        Raises:
            ValueError: If the file is not one of ours.
        """
        try:
            values = yaml.safe_load(self.experiment_file.read_text(encoding="utf-8"))
            known = {field.name for field in fields(Experiment)}
            if not isinstance(values, dict) or values.keys() - known:
                unknown = sorted(values.keys() - known) if isinstance(values, dict) else type(values).__name__
                raise ValueError(f"unknown settings {unknown}")
            return Experiment(**values)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ValueError(f"{self.experiment_file}: not the settings of a run: {error}") from error

    def scores(self) -> dict[str, Any]:
        """Read the scores of a finished run.

        Raises:
            FileNotFoundError: If the run is not finished.
        """
        if not self.finished:
            raise FileNotFoundError(
                f"{self.path}: the run is not finished; go on with ccpml train --resume {self.path}"
            )
        try:
            scores: dict[str, Any] = json.loads(self.scores_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.scores_file}: damaged ({error}); remove it and --resume the run") from error
        return scores

    def metrics(self) -> list[dict[str, float]]:
        """Read the rows of ``metrics.csv``, numbers by column; empty cells are left out."""
        if not self.metrics_file.is_file():
            return []
        try:
            with self.metrics_file.open(encoding="utf-8", newline="") as file:
                return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.metrics_file}: damaged: {error}") from error

    def weights(self) -> dict[str, Tensor]:
        """Read the best weights: the network's under ``model.``, the criterion's under ``criterion.``.

        Raises:
            FileNotFoundError: If there are none yet.
            ValueError: If the file is damaged.
        """
        if not self.weights_file.is_file():
            raise FileNotFoundError(f"{self.path}: no weights yet; go on with ccpml train --resume {self.path}")
        try:
            return load_file(self.weights_file)
        except Exception as error:  # whatever a damaged file raises
            raise ValueError(f"{self.weights_file}: damaged, cannot be read as safetensors ({error})") from error

    def check_state(self) -> Path | None:
        """Give the state from which to go on, None if the run must begin anew.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.state_file.is_file():
            return None
        try:
            torch.load(self.state_file, map_location="meta", weights_only=True)
        except Exception as error:  # whatever a damaged file raises
            raise ValueError(f"{self.state_file}: damaged; remove it to begin the run anew by --resume") from error
        return self.state_file


def _leftovers(path: Path) -> list[Path]:
    """Give the temporary files of a process that was killed as it made the directory."""
    return list(path.glob(".experiment.*.tmp.yaml"))

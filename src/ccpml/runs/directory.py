"""The run directory: its files, and reading them again."""

import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ccpml.artifacts import expand_home, mismatch, path_kind
from ccpml.files import (
    WriteError,
    check_readable,
    digest_of,
    load_json,
    load_yaml,
    waiting_lock,
    write_json,
    write_yaml,
)
from ccpml.models.tensor_file import read_tensors
from ccpml.progress import print_note
from ccpml.runs.ranges import REMOVED
from ccpml.runs.record import RunRecord, read_fingerprint
from ccpml.runs.settings import ResolvedSettings
from ccpml.runs.values import read_values
from ccpml.system_errors import raise_shortage

__all__ = ["RECORD_KEY", "RunDirectory", "RunExistsError", "RunRecord", "UnfinishedRunError"]

_SCORES = (("validation", "map_at_r"), ("validation", "step"), ("test", "map_at_r"))

RECORD_KEY = "ccpml_record"
"""Key of the training state that holds the digest of the run's record."""


class RunExistsError(FileExistsError):
    """A run exists where one would be created."""


class PathTakenError(FileExistsError):
    """Something else exists where a run directory would be created."""


class UnfinishedRunError(FileNotFoundError):
    """A run has no scores or no weights yet."""


class RunDirectory:
    """The files of a run in the directory ``path``; it serves as that path, too."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path = expand_home(path)
        self.settings_file = path / "experiment.yaml"  # the settings that reproduce the run
        self.choices_file = path / "choices.json"  # the settings that were chosen for the images, and why
        self.metrics_file = path / "metrics.csv"  # one row per validation
        self.scores_file = path / "scores.json"  # written when the run is finished
        self.weights_file = path / "checkpoints" / "best.safetensors"  # network and criterion at the best validation
        self.state_file = path / "checkpoints" / "last.ckpt"  # what a resumed run needs; loads with weights_only=True
        self.instances = path / "instances"  # one file per instance: samples and proxies for the pictures
        self.embeddings = path / "embeddings"  # of the splits, by the best weights
        self.report_file = path / "report.html"
        self.record_file = path / "record.json"  # the settings and the classes that the run was started with
        self.loggers_file = path / "loggers.json"  # where loggers with runs of their own have written, such as MLflow
        self.lock_file = path / ".lock"  # held while a process creates or trains the run
        self.images_file = path / "images.sha256"  # a digest of which images of which classes are in which split

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def require_free(cls, path: Path) -> None:
        """Check that a run directory can be created at ``path``.

        Raises:
            RunExistsError: If there is a run.
            PathTakenError: If something else exists there.
        """
        if path.exists() and not (path.is_dir() and set(path.iterdir()) == set(_leftovers(path))):
            if cls(path).settings_file.is_file():
                raise RunExistsError(f"{path}: a run already exists")
            raise PathTakenError(f"{path}: {path_kind(path)} already exists")

    @classmethod
    def create(cls, path: Path, settings: ResolvedSettings, choices: Mapping[str, Any] | None = None) -> "RunDirectory":
        """Create the directory of a new run, where nothing may exist; the settings come last.

        Of two processes that create the same run at the same moment, the second finds it taken.
        """
        cls.require_free(path)
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run.lock_file.touch()
        except OSError as error:
            raise WriteError(error.errno, error.strerror, str(run.settings_file)) from error
        with run.locked():
            cls.require_free(path)
            for leftover in set(_leftovers(path)) - {run.lock_file}:
                leftover.unlink()
            if choices is not None:
                write_json(run.choices_file, choices)
            write_yaml(run.settings_file, settings.as_dict())
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunDirectory":
        """Open the directory of an existing run.

        Raises:
            FileNotFoundError: If ``path`` is not a run directory.
        """
        run = cls(path)
        if not run.settings_file.is_file():
            raise FileNotFoundError(mismatch(run.path, "a run directory", run.settings_file.name))
        for file in vars(run).values():
            is_folder = file in {run.path, run.instances, run.embeddings}
            if file.exists() and file.is_dir() != is_folder:
                expected, got = ("a folder", "a file") if is_folder else ("a file", "a folder")
                raise ValueError(f"{file}: expected {expected}, got {got}; remove it or restore it from a copy")
        return run

    @contextmanager
    def locked(self, timeout: float = 20.0) -> Iterator[None]:
        """Keep other processes from training this run; the lock of a process that dies is released.

        Another process that may be about to stop is waited for, ``timeout`` seconds.
        """
        try:
            busy = f"{self.path}: another process is training this run"
            with waiting_lock(FileLock(self.lock_file), busy, timeout):
                yield
        except Timeout:
            raise RuntimeError(
                f"{self.path}: another process is training this run; wait until it ends, or stop it"
            ) from None

    @property
    def finished(self) -> bool:
        """Whether the run was trained and scored to its end."""
        return self.scores_file.is_file()

    @property
    def has_lost_record(self) -> bool:
        """Whether the run has no record, although it was trained with one: its training state or scores tell."""
        if self.record_file.exists():
            return False
        try:
            return self.state_file.exists() or (self.finished and "record_digest" in load_json(self.scores_file))
        except (OSError, ValueError, TypeError):  # damaged scores, which are named where they are read
            return False

    def settings(self) -> ResolvedSettings:
        """Read the settings.

        Raises:
            ValueError: If the file does not hold the settings of a run, or was edited since the run was started.
        """
        check_readable(self.settings_file, "restore it from a copy, or start a new run")
        record = self.record() if self.record_file.exists() else None
        try:
            values = load_yaml(self.settings_file)
            if not isinstance(values, dict):
                got = {NoneType: "nothing", list: "a list"}.get(type(values), "one value")
                raise ValueError(f"expected settings by name, got {got}")
            settings = ResolvedSettings.from_dict(read_values(values))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self.settings_file}: not the settings of a run: {error}; restore it from a copy, use the ccpml that "
                "wrote it, or start a new run"
            ) from error
        if record is not None:
            record.check_settings(settings.flat(), self.settings_file)
        if removed := [name for name in REMOVED if name in values]:
            _note_once(f"{self.settings_file}: {', '.join(removed)}: no longer a setting, and without effect here")
        return settings

    def choices(self) -> dict[str, list[str]]:
        """Read the settings that were chosen for the images, under ``chosen``, and what is unusual, under ``notes``.

        Raises:
            ValueError: If the file is damaged or lost.
        """
        digest = self.record().choices if self.record_file.exists() else ""
        if not self.choices_file.exists() and not digest:
            return {"chosen": [], "notes": []}
        way_out = "restore it from a copy; without it, the report does not list the settings that were chosen"
        check_readable(self.choices_file, way_out)
        try:
            content = load_json(self.choices_file)
            choices = {name: [str(line) for line in content[name]] for name in ("chosen", "notes")}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{self.choices_file}: damaged ({error}); {way_out}") from error
        if digest not in {"", digest_of(choices)}:
            raise ValueError(f"{self.choices_file}: damaged (wrong digest); {way_out}")
        return choices

    def scores(self) -> dict[str, Any]:
        """Read the scores of a finished run.

        Raises:
            UnfinishedRunError: If the run is not finished.
            ValueError: If the file is damaged, or of another run.
        """
        if not self.finished:
            raise UnfinishedRunError(f"{self.path}: the run is not finished ({self.scores_file.name} not found)")
        way_out = "remove it and resume the run, which writes it again"
        check_readable(self.scores_file, way_out)
        try:
            scores: dict[str, Any] = load_json(self.scores_file)
            numbers = [scores["steps"], *(scores[name][key] for name, key in _SCORES)]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.scores_file}: damaged ({error}); {way_out}") from error
        except (KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else "expected scores by name"
            raise ValueError(f"{self.scores_file}: not the scores of a finished run ({reason}); {way_out}") from error
        if not all(type(number) in {int, float} for number in numbers):
            raise ValueError(f"{self.scores_file}: not the scores of a finished run; {way_out}")
        content = {name: value for name, value in scores.items() if name != "digest"}
        is_older = not content.keys() & {"record_digest", "metrics_digest"}  # than digests
        if scores.get("digest", digest_of(content) if is_older else "none") != digest_of(content):
            raise ValueError(f"{self.scores_file}: damaged (wrong digest); {way_out}")
        if "record_digest" not in content:
            _note_once(
                f"{self.scores_file}: written by an older ccpml; whether it was changed since, or is of another run, "
                f"is not known; to compute the scores again, {way_out}"
            )
        elif self.record_file.exists() and content["record_digest"] != self.record().digest:
            raise ValueError(f"{self.scores_file}: scores of another run; {way_out}")
        return content

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """Write the scores of a finished run, with digests of them, of its record, metrics and embeddings."""
        digests = {
            "record_digest": self.record().digest,
            "metrics_digest": digest_of(_without_times(self.metrics())),
            "embeddings_digests": {file.stem: _file_digest(file) for file in sorted(self.embeddings.glob("*.npz"))},
        }
        content = {**scores, **digests}
        write_json(self.scores_file, {**content, "digest": digest_of(content)})

    def metrics(self) -> list[dict[str, float]]:
        """Read the rows of ``metrics.csv`` as numbers by column, without empty cells.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.metrics_file.exists():
            return []
        check_readable(self.metrics_file, self.rewrite(self.metrics_file))
        try:
            text = self.metrics_file.read_bytes().decode("utf-8")
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            missing = {"step", "map_at_r"} - set(reader.fieldnames or ())
            if missing or not text.endswith("\n"):
                reason = f"no column {sorted(missing)[0]}" if missing else "its last line is cut off"
                raise ValueError(reason)
            # The value of a cell that a row lacks is None, and no number.
            return [{name: float(cell) for name, cell in row.items() if cell != ""} for row in reader]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{self.metrics_file}: damaged ({error}); {self.rewrite(self.metrics_file)}") from error

    def finished_metrics(self, scores: Mapping[str, Any]) -> list[dict[str, float]]:
        """Read the rows of ``metrics.csv`` of a finished run.

        Raises:
            ValueError: If the file is missing, damaged, or not the one that the run with these ``scores`` has written.
        """
        rows, file = self.metrics(), self.metrics_file
        last, digest = int(rows[-1]["step"]) if rows else 0, scores.get("metrics_digest")
        reason = ""
        if last != scores["steps"]:
            reason = f"damaged (ends at step {last:,} of {scores['steps']:,})" if file.exists() else "not found"
        elif digest not in {None, digest_of(_without_times(rows))}:
            reason = "damaged (wrong digest)"
        if reason:
            raise ValueError(f"{file}: {reason}; {self.rewrite(file)}")
        return rows

    def check_embeddings(self, file: Path) -> None:
        """Check that a file of embeddings is that which the run has written, if its scores tell.

        Raises:
            ValueError: If it is of another run, or was changed.
        """
        try:
            known = self.scores().get("embeddings_digests", {}).get(file.stem)
        except (OSError, ValueError, AttributeError):  # no scores, or damaged ones, which are named where they are read
            return
        if known is not None and known != _file_digest(file):
            raise ValueError(f"{file}: damaged, or of another run (wrong digest); {self.rewrite(file)}")

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
            ValueError: If the file is damaged, of another run, or lost.
        """
        if not self.weights_file.is_file():
            if self.finished or self.state_file.is_file():
                raise ValueError(f"{self.weights_file}: not found; {self._retrain}")
            raise UnfinishedRunError(f"{self.path}: the run has no weights yet")
        weights, metadata = read_tensors(self.weights_file, self._retrain)
        if metadata.get("record", digest := self.record().digest if metadata else "") != digest:
            raise ValueError(f"{self.weights_file}: weights of another run; {self._retrain}")
        return weights

    def check_state(self) -> Path | None:
        """Return the checkpoint to resume from, None if the run must start from the beginning.

        Raises:
            ValueError: If the file is damaged or of another run, or the best weights so far are lost.
        """
        if not self.state_file.is_file():
            return None
        way_out = "remove it, and resuming restarts the run from the beginning"
        check_readable(self.state_file, way_out)
        try:
            with zipfile.ZipFile(self.state_file) as archive:
                damaged = archive.testzip()  # torch does not compare checksums
            state = None if damaged else torch.load(self.state_file, map_location="meta", weights_only=True)
        except Exception as error:  # whatever torch raises on a damaged file
            raise_shortage(error)
            raise ValueError(f"{self.state_file}: damaged; {way_out}") from error
        if damaged:
            raise ValueError(f"{self.state_file}: damaged (wrong checksum); {way_out}")
        state = state if isinstance(state, dict) else {}
        if not {RECORD_KEY, "state_dict", "optimizer_states", "loops", "callbacks"} <= state.keys():
            raise ValueError(f"{self.state_file}: not the training state of a run; {way_out}")
        if state[RECORD_KEY] != self.record().digest:
            raise ValueError(f"{self.state_file}: training state of another run; {way_out}")
        self.weights()
        return self.state_file

    def record(self) -> RunRecord:
        """Read what the run was started with.

        Raises:
            ValueError: If the file is missing or damaged.
        """
        return RunRecord.read(self.record_file)

    def fingerprint(self) -> str:
        """Read the digest of the images that the run was started with.

        Raises:
            ValueError: If the file is missing, damaged, or of another run.
        """
        return read_fingerprint(self.images_file, self.record())

    def rewrite(self, file: Path) -> str:
        """How to get a file of a finished run again that its checkpoints suffice for."""
        files = [each for each in (file, self.scores_file) if each.exists()]
        return f"remove {' and '.join(map(str, files))}, and resume the run, which writes it again"

    @property
    def _retrain(self) -> str:
        """How to get lost weights or scores again: the result is the same."""
        files = [file for file in (self.scores_file, self.state_file) if file.is_file()]
        return f"remove {' and '.join(map(str, files))}, and resume the run, which trains it again"


def _without_times(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return rows of metrics without what differs between two runs with the same result."""
    return [{name: float(value) for name, value in row.items() if name != "seconds"} for row in rows]


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _leftovers(path: Path) -> list[Path]:
    """Return the files of a process that was killed, or is at work, while it creates the directory."""
    patterns = (".lock", ".experiment.*.tmp.yaml", ".choices.*.tmp.json", "choices.json")
    return [file for pattern in patterns for file in path.glob(pattern)]


@cache
def _note_once(text: str) -> None:
    """Print a note, once in a process: settings are read by many steps of a verb."""
    print_note(text)

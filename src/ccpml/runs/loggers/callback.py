"""Log the course of a training. The state that a run resumes from holds all of it, so that each logger gets it once."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from ccpml.files import check_readable, check_version, load_json, write_json
from ccpml.runs.callbacks import Recorder, Stopped
from ccpml.runs.directory import RunDirectory
from ccpml.runs.loggers.logger import LoggerError, Place, RunLogger, logger_class
from ccpml.runs.loggers.quiet import quiet
from ccpml.runs.settings import ResolvedSettings

__all__ = ["Logging"]

_VERSION = 1


class Logging(Checkpoint):  # so that Lightning runs it after what writes checkpoints
    """Log losses of steps and scores of validations once they are saved; as a context manager, open the loggers.

    What is not saved is not logged, as a resumed run makes those steps again. What a logger lacks, because it is new or
    failed before, follows from the saved history. The callback that writes checkpoints runs before this one.

    Args:
        run: The run directory.
        settings: The settings of the run.
        recorder: It has the history, and knows up to which step it is saved.
    """

    def __init__(self, run: RunDirectory, settings: ResolvedSettings, recorder: Recorder) -> None:
        self.run, self.settings, self.recorder = run, settings, recorder
        places = read_places(run.loggers_file)
        self.loggers: list[RunLogger] = [
            logger_class(name)(run.path, places.get(name, {})) for name in settings.loggers()
        ]
        self._others = {name: place for name, place in places.items() if name not in settings.loggers()}

    def __enter__(self) -> "Logging":
        settings = {**self.settings.flat(), "run": str(self.run.path.resolve())}
        try:
            with quiet():
                for logger in self.loggers:
                    logger.open(settings)
        except LoggerError as error:
            self._close("failed")
            file = self.run.settings_file
            raise LoggerError(f"{error}; see to it, or change logger in {file}, and resume the run") from error
        self._write_places()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log_saved()
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        self._close("success" if error is None else "stopped" if stopped else "failed")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what loggers lack of a resumed run, or the score of the start."""
        self._log_saved()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what has been saved."""
        self._log_saved()

    def log_scores(self, scores: Mapping[str, Any]) -> None:
        """Log the scores of a finished run: those of the test classes, and the best on the validation classes."""
        self._log_saved()
        named = {"test": "test", "test_last": "test_last", "features": "features", "validation": "best"}
        flat = {
            f"{word}/{name}": float(value)
            for part, word in named.items()
            for name, value in scores.get(part, {}).items()
            if isinstance(value, int | float)
        }
        for logger in self.loggers:
            logger.log_scores(flat, scores["steps"])

    def _log_saved(self) -> None:
        """Log the saved history: a row for each step, with what a validation measured after it."""
        if not any(logger.is_open for logger in self.loggers):
            return
        rows: dict[int, dict[str, float]] = {}
        losses = self.recorder.step_losses.tolist()
        first = self.recorder.last_step - len(losses) + 1
        rows |= {step: {"step_loss": loss} for step, loss in enumerate(losses, first)}
        for row in self.recorder.rows:
            rows.setdefault(int(row["step"]), {}).update({name: row[name] for name in row if name != "step"})
        history = [(step, rows[step]) for step in sorted(rows) if step <= self.recorder.saved_step]
        for logger in self.loggers:
            logger.log_history(history)
        self._write_places()

    def _close(self, status: str) -> None:
        for logger in self.loggers:
            logger.close(status)

    def _write_places(self) -> None:
        """Write where the loggers with runs of their own have written."""
        places = {logger.kind: logger.place for logger in self.loggers if "id" in logger.place}
        if places:
            write_json(self.run.loggers_file, {"version": _VERSION, "loggers": {**self._others, **places}})


def read_places(file: Path) -> dict[str, Place]:
    """Read where the loggers of a run have written; empty if there is no file.

    Raises:
        ValueError: If the file is damaged, or of a newer version of ccpml.
    """
    if not file.exists():
        return {}
    way_out = "remove it, and resuming the run logs it again, as a new one"
    check_readable(file, way_out)
    try:
        content = load_json(file)
        check_version(file, content.get("version"), _VERSION)
        return {
            name: {"where": str(place["where"]), "id": str(place["id"]), "step": int(place.get("step", -1))}
            for name, place in content["loggers"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: damaged ({error}); {way_out}") from error

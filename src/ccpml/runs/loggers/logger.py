"""Lightning's loggers as a run uses them: opened when training starts, and never a reason for it to stop."""

import os
import re
import socket
import sys
import threading
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tqdm import tqdm

from ccpml.system_errors import in_words

__all__ = ["LoggerError", "Place", "RunLogger", "logger_class"]

_PROJECT: Final = "ccpml"

Place = dict[str, Any]
"""Where a logger has written, as `loggers.json` keeps it: ``where``, ``id`` of its run there, and the last ``step``."""

_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # instead of minutes, for which training would wait
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
"""Variables that are set unless they already are: no reports to the makers, and no long waits."""


class LoggerError(RuntimeError):
    """A logger cannot be opened."""


class RunLogger(Logger):
    """One of Lightning's loggers, for a run.

    It is opened by `open` in the main process; on other ranks it does nothing. What fails in between ends it with a
    note. Each value is logged once: what is known of earlier processes is in ``place``.

    Args:
        path: The run directory.
        place: Where the logger has written before; empty for a new one.
    """

    kind: ClassVar[str]

    def __init__(self, path: Path, place: Place) -> None:
        super().__init__()
        self.path, self.place = path, place
        self._logger: Logger | None = None

    @property
    def step(self) -> int:
        """Last step that is logged; −1 if none is."""
        return int(self.place.get("step", -1))

    @property
    def is_open(self) -> bool:
        """Whether something can be logged."""
        return self._logger is not None

    def open(self, settings: Mapping[str, Any]) -> None:
        """Open the logger; a new run there gets the settings.

        Raises:
            LoggerError: If it cannot be opened and never was; it is a note if it was.
        """
        is_new = not self.place
        try:
            with _no_warnings():
                self._logger = self._open(settings)
        except Exception as error:
            if is_new:
                self.place.clear()
                raise LoggerError(f"logger {self.kind}: cannot be opened ({self._reason(error)})") from error
            self._fail(error)

    def log_history(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log values by step, in order; those of steps that are logged already are left out."""
        new = [(step, row) for step, row in rows if step > self.step]
        if new and self._attempt(lambda: self._write(new)):
            self.place["step"] = new[-1][0]

    def log_scores(self, scores: Mapping[str, float], step: int) -> None:
        """Log the scores of a finished run."""
        self._attempt(lambda: self._write([(step, scores)]))

    def close(self, status: str) -> None:
        """End the logger; ``status`` is success, stopped or failed."""
        self._attempt(lambda: self._close(status))
        self._logger = None

    @abstractmethod
    def _open(self, settings: Mapping[str, Any]) -> Logger:
        """Return Lightning's logger, with the settings logged; update ``place``."""

    def _write(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        assert self._logger is not None
        for step, row in rows:
            self._logger.log_metrics(dict(row), step)
        self._logger.save()

    def _further(self, metrics: Mapping[str, float], step: int | None) -> None:
        assert self._logger is not None
        self._logger.log_metrics(dict(metrics), step)

    def _close(self, status: str) -> None:
        assert self._logger is not None
        self._logger.finalize("success" if status == "success" else "failed")

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Do something with the open logger; return whether that was possible."""
        if self._logger is None:
            return False
        try:
            with _no_warnings():
                action()
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _reason(self, error: Exception) -> str:
        """Return the gist of an error; one of the system names the folder of the logger if it names no file."""
        if type(error) is OSError and error.filename is None and error.errno:
            error.filename = str(self.path / self.kind)
        return _one_line(error)

    def _fail(self, error: Exception) -> None:
        self._logger = None
        text = f"note: logger {self.kind}: {self._reason(error)}; training continues without it"
        tqdm.write(text, file=sys.stderr)

    # What Lightning and further callbacks call.

    @property
    def name(self) -> str | None:
        """Name of the logger."""
        return self.kind

    @property
    def version(self) -> str | None:
        """Identifier of the run there, if it has one."""
        return self.place.get("id")

    @property
    def save_dir(self) -> str | None:
        """The run directory."""
        return str(self.path)

    @property
    def experiment(self) -> Any:
        """The object of the library; None while the logger is not open."""
        return getattr(self._logger, "experiment", None)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what a further callback measures; Lightning's own copies of the scores are in the history already."""
        further = {name: value for name, value in metrics.items() if name not in _LOGGED_BY_LIGHTNING}
        if further:
            self._attempt(lambda: self._further(further, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave out what Lightning finds: `open` logs the settings."""


_LOGGED_BY_LIGHTNING: Final = frozenset({"epoch", "map_at_r", "precision_at_1", "r_precision"})


def _without_writers(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a hook for errors of threads that leaves out TensorBoard's writers, whose errors reach their logger."""

    def print_others(error: Any) -> None:
        if not type(error.thread).__module__.startswith("tensorboard."):
            hook(error)

    return hook if getattr(hook, "__name__", "") == print_others.__name__ else print_others


class _TensorBoard(RunLogger):
    """Event files in ``tensorboard/``. Those of a resumed run begin again, and viewers drop the earlier ones."""

    kind = "tensorboard"

    def _open(self, settings: Mapping[str, Any]) -> Logger:
        logger = TensorBoardLogger(
            self.path, name="tensorboard", version="", default_hp_metric=False, purge_step=self.step + 1
        )
        logger.log_hyperparams(dict(settings))
        self._settings = dict(settings)
        threading.excepthook = _without_writers(threading.excepthook)
        _ = logger.experiment  # opens the file
        return logger

    def log_scores(self, scores: Mapping[str, float], step: int) -> None:
        """Log the scores, beside the settings for the view of hyperparameters."""
        self._attempt(lambda: self._tensorboard().log_hyperparams(self._settings, dict(scores), step))

    def _tensorboard(self) -> TensorBoardLogger:
        assert isinstance(self._logger, TensorBoardLogger)
        return self._logger


class _Csv(RunLogger):
    """``csv/metrics.csv``, which a resumed run writes again from the beginning."""

    kind = "csv"

    def _open(self, settings: Mapping[str, Any]) -> Logger:
        logger = CSVLogger(self.path, name="csv", version="")
        logger.log_hyperparams(dict(settings))
        logger.save()
        return logger


class _Wandb(RunLogger):
    """A run of Weights & Biases: on its server if the environment has a key or a mode, else in ``wandb/``.

    Files of a run that is offline hold the whole history, also after a resume: the last one replaces those before.
    """

    kind = "wandb"

    def _open(self, settings: Mapping[str, Any]) -> Logger:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        if mode != "online" or self.place.get("where") != mode:
            self.place["step"] = -1
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=os.environ.get("WANDB_NAME") or self.path.name,
            dir=self.path.resolve(),  # its process may be one that started in another folder
            id=self.place.get("id"),
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            mode="offline" if mode == "offline" else None,
            config=dict(settings),
            settings=wandb.Settings(console="off", finish_timeout=60.0),
        )
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self.place |= {"where": mode, "id": run.id}
        return WandbLogger(experiment=run)

    def _close(self, status: str) -> None:
        self.experiment.finish(exit_code=0 if status == "success" else 1)


class _MLflow(RunLogger):
    """A run of MLflow: on the server of MLFLOW_TRACKING_URI, else in the database ``mlflow/mlflow.db``."""

    kind = "mlflow"

    def _open(self, settings: Mapping[str, Any]) -> Logger:
        from lightning.pytorch.loggers import MLFlowLogger

        uri, folder = os.environ.get("MLFLOW_TRACKING_URI"), self.path.resolve() / "mlflow"
        where = re.sub(r"//[^/@]*@", "//", uri) if uri else ""  # no password
        if where != self.place.get("where", where):
            self.place.clear()
        if not uri:
            folder.mkdir(exist_ok=True)
        logger = MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT,
            run_name=self.path.name,
            tracking_uri=uri or f"sqlite:///{folder / 'mlflow.db'}",
            artifact_location=None if uri else (folder / "artifacts").as_uri(),
            run_id=self.place.get("id"),
        )
        if self.place:
            logger.experiment.update_run(logger.run_id, status="RUNNING")
        else:
            logger.log_hyperparams(dict(settings))
        self.place |= {"where": where, "id": logger.run_id}
        if not uri:
            os.environ.pop("MLFLOW_TRACKING_URI", None)  # set by MLflow, and no wish of the user
        return logger

    def _write(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        import time

        from mlflow.entities import Metric

        now, most = int(time.time() * 1000), 1000  # of a request
        metrics = [Metric(name, float(value), now, step) for step, row in rows for name, value in row.items()]
        for start in range(0, len(metrics), most):
            self.experiment.log_batch(self.version, metrics=metrics[start : start + most])

    def _close(self, status: str) -> None:
        words = {"success": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
        self.experiment.set_terminated(self.version, words[status])


def logger_class(name: str) -> type[RunLogger]:
    """Return the class of a logger; the environment is prepared for the library that it imports."""
    if name in {"wandb", "mlflow"}:
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
    return {kind.kind: kind for kind in (_TensorBoard, _Csv, _Wandb, _MLflow)}[name]


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence warnings of the libraries, which are about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _one_line(error: Exception) -> str:
    """Return the gist of an error: that a server cannot be reached, or the first sentence of what the library says."""
    chain, seen = list[BaseException](), error.__cause__ or error.__context__
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    unreachable = [
        each for each in (error, *chain) if isinstance(each, ConnectionError | TimeoutError | socket.gaierror)
    ]
    if unreachable:
        return f"its server cannot be reached: {unreachable[-1].strerror or _first_sentence(unreachable[-1])}"
    if isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno"):
        return in_words(error)
    return _first_sentence(error)


def _first_sentence(error: BaseException) -> str:
    text = re.split(r"(?<=[.!?]) ", " ".join(str(error).split()), maxsplit=1)[0].rstrip(". ") or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160].rpartition(' ')[0]} ..."

"""Which process trains which trial of a study: new trials, those of dead processes, and those of lost machines."""

import contextlib
import datetime
import math
import platform
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import lightning as L
import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from ccpml.runs.callbacks import Observer
from ccpml.tuning.study import Search, Study, suggest

__all__ = ["ClaimedTrial", "Watcher", "claim_trial"]

_HEARTBEAT_SECONDS = 20.0
_LOST_AFTER_SECONDS = 300.0
"""Seconds without a heartbeat after which a trial of another machine is lost."""

MAX_DEATHS = 3
"""Processes that may die after the same step of a trial before it fails."""


class Watcher(Observer):
    """Report the validations of a trial to its study, and stop a trial that is pruned.

    Attributes:
        warmup: Validations before the trial can be pruned.
        chosen: Why settings of the trial that were left open have their values.
        data_digest: Digest of the data of the trials.
        pruned: Whether the trial was pruned.
        scores: The reported scores by step, including those before a resume.
    """

    def __init__(self, trial: optuna.Trial, warmup: int, chosen: Sequence[str] = (), data_digest: str = "") -> None:
        self.trial = trial
        self.warmup = warmup
        self.chosen = chosen
        self.data_digest = data_digest
        frozen = trial.storage.get_trial(trial._trial_id)
        self.pruned = "pruned_at" in frozen.user_attrs
        self.scores = dict(frozen.intermediate_values)

    def report(self, step: int, score: float, last: bool = False) -> bool:
        """Report a validation, unless that was done before a resume; return whether to stop.

        ``last`` is whether training ends here anyway.
        """
        if step not in self.scores:
            self.trial.report(score, step)
            self.scores[step] = score
        if not last and len([at for at in self.scores if at <= step]) > self.warmup and self.trial.should_prune():
            self.trial.set_user_attr("pruned_at", step)
            self.pruned = True
        return self.pruned

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the validation, and stop training if the trial is pruned."""
        last = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or math.inf)
        if self.report(trainer.global_step, float(trainer.callback_metrics["map_at_r"]), last):
            trainer.should_stop = True


class ClaimedTrial:
    """A trial that this process trains. As a context manager it sends heartbeats, and releases the claim at the end.

    Args:
        trial: The trial of Optuna.
        values: Its values by field.
        lock: The acquired lock of the trial, which keeps other processes from claiming it.
        resumed: Whether another process started the trial.
    """

    def __init__(self, trial: optuna.Trial, values: dict[str, Any], lock: FileLock, resumed: bool) -> None:
        self.trial = trial
        self.values = values
        self.resumed = resumed
        self.number = trial.number
        self._lock = lock
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._send_heartbeats, daemon=True)

    def __enter__(self) -> "ClaimedTrial":
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heartbeat.join()
        self._lock.release()

    def finish(self, state: TrialState, score: float | None = None, **notes: Any) -> None:
        """Write the end of the trial, with user attributes, unless another machine has declared it lost."""
        try:
            for name, value in notes.items():
                self.trial.set_user_attr(name, value)
            self.trial.study.tell(self.trial, score, state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if not self.trial.storage.get_trial(self.trial._trial_id).state.is_finished():
                raise

    def _send_heartbeats(self) -> None:
        while not self._ended.wait(_HEARTBEAT_SECONDS):
            with contextlib.suppress(Exception):  # the storage may be back at the next heartbeat
                self.trial.set_user_attr("alive", time.time())


def claim_trial(search: Search, study: Study) -> ClaimedTrial | None:
    """Return the next trial to train: one whose process died, or else a new one; None if the study has enough."""
    with search.locked("claim"):
        if search.storage is not None:  # otherwise all processes share the folder and its locks
            _requeue_lost(study)
        for frozen in study.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            reclaimed = _reclaim(search, study, frozen)
            if reclaimed is not None:
                return reclaimed
        trials = study.optuna.get_trials(deepcopy=False)
        started = [each for each in trials if each.state != TrialState.WAITING and "lost" not in each.user_attrs]
        return _claim(search, study, study.optuna.ask()) if len(started) < search.trials else None


def _reclaim(search: Search, study: Study, frozen: FrozenTrial) -> ClaimedTrial | None:
    """Claim a running trial of this folder if its process is dead; fail it if that has happened too often."""
    folder_id = frozen.user_attrs.get("folder_id")
    if folder_id != study.folder_id and not (folder_id is None and search.storage is None):
        return None
    # Locks show whether a process of this machine is alive; heartbeats, one of another machine.
    if frozen.user_attrs.get("host", platform.node()) != platform.node() and not _is_silent(frozen):
        return None
    claimed = _claim(search, study, optuna.Trial(study.optuna, frozen._trial_id), resumed=True)
    if claimed is None:
        return None
    step = max(frozen.intermediate_values, default=0)
    last_step, deaths = frozen.user_attrs.get("died", [step, 0])
    deaths = deaths + 1 if last_step == step else 1
    if frozen.user_attrs.get("stopped"):
        deaths = 0
        claimed.trial.set_user_attr("stopped", False)
    claimed.trial.set_user_attr("died", [step, deaths])
    if deaths >= MAX_DEATHS:
        reason = f"its process was killed {deaths} times after step {step}; is the memory too small?"
        with claimed:
            claimed.finish(TrialState.FAIL, reason=reason)
        return None
    return claimed


def _claim(search: Search, study: Study, trial: optuna.Trial, resumed: bool = False) -> ClaimedTrial | None:
    lock = search.lock(f"trial-{trial.number:04d}")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    if resumed and trial.storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
        lock.release()  # it ended after it was listed
        return None
    marks = {"alive": time.time(), "host": platform.node(), "run": str(search.path(trial.number).resolve())}
    for name, value in {**marks, "folder_id": study.folder_id}.items():
        trial.set_user_attr(name, value)
    return ClaimedTrial(trial, suggest(trial, search.space), lock, resumed)


def _is_silent(frozen: FrozenTrial) -> bool:
    """Whether the process of a trial has sent no heartbeat for a long time."""
    if "alive" in frozen.user_attrs:
        return bool(time.time() - frozen.user_attrs["alive"] > _LOST_AFTER_SECONDS)
    started = frozen.datetime_start  # local time, perhaps of another time zone
    return started is not None and datetime.datetime.now() - started > datetime.timedelta(days=2)


def _requeue_lost(study: Study) -> None:
    """Fail the trials of lost machines, and queue their values again."""
    for frozen in study.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("folder_id") == study.folder_id or not _is_silent(frozen):
            continue
        host = frozen.user_attrs.get("host", "its machine")
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another machine did it
            trial = optuna.Trial(study.optuna, frozen._trial_id)
            trial.set_user_attr("lost", True)
            minutes = f"{_LOST_AFTER_SECONDS / 60:.0f} minutes"
            trial.set_user_attr("reason", f"no heartbeat from {host} for {minutes}; tried again")
            study.optuna.tell(frozen.number, state=TrialState.FAIL)
            study.optuna.enqueue_trial(frozen.params)

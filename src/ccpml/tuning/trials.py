"""Who trains which trial of a study: new ones, those of processes that died, those of machines that were lost."""

import contextlib
import datetime
import math
import platform
import threading
import time
from types import TracebackType
from typing import IO, Any

import lightning as L
import optuna
from optuna.trial import FrozenTrial, TrialState

from ccpml.runs.locks import LOCKS_HOLD, try_lock, waiting_lock
from ccpml.tuning.study import Search, Study, suggest

__all__ = ["Held", "Watcher", "take_trial"]

_BEAT = 20.0
_SILENCE = 300.0
"""Seconds between a process's signs of life, and without one until it is given up."""

_DEATHS = 3


class Watcher(L.Callback):
    """Report the validations of a trial to its study, and stop it where it is pruned.

    Args:
        trial: Optuna's.
        warmup: Validations that it has before it can be pruned.

    Attributes:
        pruned: Whether it was.
        scores: What was reported, by step; also before a resume.
    """

    def __init__(self, trial: optuna.Trial, warmup: int) -> None:
        self.trial = trial
        self.warmup = warmup
        frozen = trial.storage.get_trial(trial._trial_id)
        self.pruned = "pruned_at" in frozen.user_attrs
        self.scores = dict(frozen.intermediate_values)

    def see(self, step: int, score: float, last: bool = False) -> bool:
        """Report a validation.

        Args:
            step: When it was.
            score: MAP@R; after a resume it may have been reported before.
            last: Whether the training ends here anyway.

        Returns:
            Whether to stop.
        """
        if step not in self.scores:
            self.trial.report(score, step)
            self.scores[step] = score
        if not last and len([at for at in self.scores if at <= step]) > self.warmup and self.trial.should_prune():
            self.trial.set_user_attr("pruned_at", step)
            self.pruned = True
        return self.pruned

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report, and stop if told so."""
        last = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or math.inf)
        if self.see(trainer.global_step, float(trainer.callback_metrics["map_at_r"]), last):
            trainer.should_stop = True


class Held:
    """A trial that this process trains: while it is held, no other takes it.

    Args:
        trial: Optuna's.
        values: Of the fields.
        lock: The lock on it.
        resumed: Whether another process began it.

    Attributes:
        number: The trial's.
    """

    def __init__(self, trial: optuna.Trial, values: dict[str, Any], lock: IO[str], resumed: bool) -> None:
        self.trial = trial
        self.values = values
        self.resumed = resumed
        self.number = trial.number
        self._lock = lock
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Held":
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._beating.join()
        self._lock.close()

    def finish(self, state: TrialState, score: float | None = None, **notes: Any) -> None:
        """Tell the study how it ended; nothing happens if others have given it up meanwhile.

        Args:
            state: How.
            score: If it is complete.
            notes: What to write beside it.
        """
        try:
            for name, value in notes.items():
                self.trial.set_user_attr(name, value)
            self.trial.study.tell(self.trial, score, state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if not self.trial.storage.get_trial(self.trial._trial_id).state.is_finished():
                raise

    def _beat(self) -> None:
        while not self._over.wait(_BEAT):
            with contextlib.suppress(Exception):  # the storage may be back next time
                self.trial.set_user_attr("alive", time.time())


def take_trial(search: Search, study: Study) -> Held | None:
    """Give the next trial to train: one that a process left here when it died, or else a new one.

    Args:
        search: What is searched.
        study: Its study.

    Returns:
        None if there are as many as wanted.
    """
    with waiting_lock(search.lock("take")):
        if search.storage is not None:  # else all processes share the folder, and its locks
            _give_up_lost(study)
        for frozen in study.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            held = _take_up(search, study, frozen)
            if held is not None:
                return held
        trials = study.optuna.get_trials(deepcopy=False)
        if (
            sum(frozen.state != TrialState.WAITING and "lost" not in frozen.user_attrs for frozen in trials)
            >= search.trials
        ):
            return None
        return _hold(search, study, study.optuna.ask())


def _hold(search: Search, study: Study, trial: optuna.Trial, resumed: bool = False) -> Held | None:
    lock = try_lock(search.lock(f"trial-{trial.number:04d}"))
    if lock is None:
        return None
    if resumed and trial.storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
        lock.close()  # it ended between the two looks
        return None
    marks = {"alive": time.time(), "host": platform.node(), "run": str(search.path(trial.number).resolve())}
    for name, value in {**marks, "place": study.place}.items():
        trial.set_user_attr(name, value)
    return Held(trial, suggest(trial, search.space), lock, resumed)


def _take_up(search: Search, study: Study, frozen: FrozenTrial) -> Held | None:
    """Take a trial that runs no more; a lock tells, where both processes were on this machine."""
    place = frozen.user_attrs.get("place")
    if place != study.place and not (place is None and search.storage is None):
        return None
    here = LOCKS_HOLD and frozen.user_attrs.get("host", platform.node()) == platform.node()
    if not here and not _silent(frozen):
        return None
    held = _hold(search, study, optuna.Trial(study.optuna, frozen._trial_id), resumed=True)
    if held is None:
        return None
    step = max(frozen.intermediate_values, default=0)
    before = frozen.user_attrs.get("died", [step, 0])
    deaths = before[1] + 1 if before[0] == step else 1
    if frozen.user_attrs.get("stopped"):
        deaths = 0
        held.trial.set_user_attr("stopped", False)
    held.trial.set_user_attr("died", [step, deaths])
    if deaths >= _DEATHS:
        reason = f"its process was killed {deaths} times after step {step}; is the memory too small?"
        with held:
            held.finish(TrialState.FAIL, reason=reason)
        return None
    return held


def _silent(frozen: FrozenTrial) -> bool:
    """Say whether nothing was heard of a trial's process for long."""
    if "alive" in frozen.user_attrs:
        return bool(time.time() - frozen.user_attrs["alive"] > _SILENCE)
    begun = frozen.datetime_start  # by the clock of another time zone, perhaps
    return begun is not None and datetime.datetime.now() - begun > datetime.timedelta(days=2)


def _give_up_lost(study: Study) -> None:
    """Let trials of machines of which nothing was heard for long be tried again with the same values."""
    for frozen in study.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("place") == study.place or not _silent(frozen):
            continue
        host = frozen.user_attrs.get("host", "its machine")
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another gave it up
            trial = optuna.Trial(study.optuna, frozen._trial_id)
            trial.set_user_attr("lost", True)
            trial.set_user_attr("reason", f"nothing was heard of {host} for {_SILENCE / 60:.0f} minutes; tried again")
            study.optuna.tell(frozen.number, state=TrialState.FAIL)
            study.optuna.enqueue_trial(frozen.params)

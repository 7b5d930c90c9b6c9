"""Search settings on the validation classes: every trial is a run whose test classes are never scored."""

import csv
import gc
import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from ccpml.files import write_text
from ccpml.runs.callbacks import Stopped
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import with_values
from ccpml.tuning.study import Search, Study, open_study
from ccpml.tuning.trials import Held, Watcher, take_trial

__all__ = ["Begin", "End", "Result", "Train", "best_of", "importances", "run_search", "train_run", "write_results"]

State = Literal["complete", "pruned", "failed", "running", "waiting"]
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_HOPELESS = 3
"""So many trials that could not even begin, for one reason, and none that could: the search ends."""

Train = Callable[[Settings, Path, Watcher], float]
"""Train a trial in a run directory, or go on with it; report to the watcher; return the best validation MAP@R."""


@dataclass(frozen=True)
class Result:
    """A trial as it is now.

    Attributes:
        number: From 0.
        state: complete, pruned, failed, running (here or elsewhere) or waiting.
        values: Of the fields.
        score: Best MAP@R on the validation classes so far, None before the first.
        seconds: Of training.
        run: Its run directory, on whatever machine.
        host: That machine.
        reason: Why it failed, or could not begin.
        begun: Whether it came as far as training.
    """

    number: int
    state: State
    values: dict[str, Any]
    score: float | None = None
    seconds: float | None = None
    run: str = ""
    host: str = ""
    reason: str = ""
    begun: bool = True


@dataclass(frozen=True)
class Begin:
    """A trial begins.

    Attributes:
        number: Its number.
        values: Of the fields.
        resumed: Whether it goes on where it was left.
    """

    number: int
    values: dict[str, Any]
    resumed: bool


@dataclass(frozen=True)
class End:
    """A trial has ended.

    Attributes:
        result: How.
        results: All trials of the study.
        left: Seconds that the rest may take, None if there is none.
    """

    result: Result
    results: list[Result]
    left: float | None


def train_run(experiment: Settings, path: Path, watcher: Watcher) -> float:
    """Train a trial, or go on with it; the test classes stay unseen."""
    from ccpml.runs.train import resume, train

    _free_memory()
    if RunDirectory(path).settings_file.is_file():
        run = resume(path, test=False, callbacks=[watcher])
    else:
        run = train(experiment, path, test=False, callbacks=[watcher])
    return max(row["map_at_r"] for row in run.metrics())


def run_search(
    search: Search, watch: Callable[[Begin | End], None] = lambda event: None, train: Train = train_run
) -> list[Result]:
    """Train the trials that are missing, one after the other, and write the results after each.

    The same call goes on with a study that was stopped or killed: what is finished stays, and a trial that was in
    training goes on from its run directory. Several processes, on several machines, may share a study.

    Args:
        search: What to search.
        watch: Called when a trial begins and ends.
        train: How a trial is trained.

    Returns:
        All trials of the study, those of other machines among them.

    Raises:
        FileExistsError: If there is something else, or a study of other settings.
        ValueError: If the storage cannot be opened.
        RuntimeError: If no trial can begin.
        Stopped: If Ctrl-C was pressed.
    """
    study = open_study(search)
    begun, spent = time.monotonic(), []
    while search.timeout is None or time.monotonic() - begun < search.timeout:
        held = take_trial(search, study)
        if held is None:
            break
        with held:
            watch(Begin(held.number, held.values, held.resumed))
            started = time.monotonic()
            _run(search, held, train)
        spent.append(time.monotonic() - started)
        results = read_results(search, study)
        write_results(search, results)
        left = _seconds_left(search, results, spent, time.monotonic() - begun)
        watch(End(results[held.number], results, left))
        _require_hope(results)
    results = read_results(search, study)
    write_results(search, results)
    return results


def _run(search: Search, held: Held, train: Train) -> None:
    """Train a trial and tell the study how it ended; only a wish to stop, or a lost storage, gets out of here."""
    path = search.path(held.number)
    try:
        experiment = with_values(search.base, held.values)
        experiment.resolved()
    except ValueError as error:
        held.finish(TrialState.PRUNED, reason=_sentence(error), begun=False)
        return
    watcher = Watcher(held.trial, search.warmup_validations)
    try:
        if path.exists() and not held.resumed:
            raise FileExistsError(f"{path}: the run of another study is there; remove it")
        score = max(watcher.scores.values()) if watcher.pruned else train(experiment, path, watcher)
        if not math.isfinite(score):
            raise ValueError(f"its validation MAP@R is {score}")
    except (Stopped, KeyboardInterrupt):
        held.trial.set_user_attr("stopped", True)
        raise
    except optuna.exceptions.StorageInternalError:
        raise
    except Exception as error:  # whatever goes wrong with one trial, the others go on
        held.finish(TrialState.FAIL, reason=_sentence(error), seconds=_seconds(path), begun=path.exists())
    else:
        if watcher.pruned:
            held.finish(TrialState.PRUNED, seconds=_seconds(path))
        else:
            held.finish(TrialState.COMPLETE, score, seconds=_seconds(path))


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())[:1000]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def _seconds(path: Path) -> float | None:
    """Give the seconds of training until a run's last validation, earlier calls included."""
    try:
        rows = RunDirectory(path).metrics()
    except (OSError, ValueError):
        return None
    return rows[-1].get("seconds") if rows else None


def _free_memory() -> None:
    """Let go of what the trial before has left, perhaps one that failed for want of memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _seconds_left(search: Search, results: Sequence[Result], spent: Sequence[float], passed: float) -> float | None:
    there = sum(result.state not in {"waiting", "running"} and not _tried_again(result) for result in results)
    left = max(0, search.trials - there) * sum(spent) / len(spent)
    if search.timeout is not None:
        left = min(left, search.timeout - passed)
    return left if left > 0 else None


def _tried_again(result: Result) -> bool:
    return result.reason.endswith("; tried again")


def _require_hope(results: Sequence[Result]) -> None:
    """End a search none of whose trials can begin: the images cannot be read, say.

    Raises:
        RuntimeError: If so.
    """
    ended = [result for result in results if result.state not in {"waiting", "running"}]
    reasons = {result.reason for result in ended}
    failed = all(result.state == "failed" and not result.begun for result in ended)
    if failed and len(reasons) == 1 and len(ended) >= _HOPELESS:
        raise RuntimeError(f"{len(ended)} trials could not begin: {reasons.pop()}")


def read_results(search: Search, study: Study) -> list[Result]:
    """Read all trials of a study."""
    return [_result(search, frozen) for frozen in study.optuna.get_trials(deepcopy=False)]


def _result(search: Search, frozen: FrozenTrial) -> Result:
    notes = frozen.user_attrs
    scores = [value for value in frozen.intermediate_values.values() if math.isfinite(value)]
    score = frozen.value if frozen.state == TrialState.COMPLETE else max(scores, default=None)
    return Result(
        number=frozen.number,
        state=_STATES[frozen.state],
        values={field.name: frozen.params[field.name] for field in search.space if field.name in frozen.params},
        score=score,
        seconds=notes.get("seconds"),
        run=notes.get("run", ""),
        host=notes.get("host", ""),
        reason=notes.get("reason", ""),
        begun=notes.get("begun", True),
    )


def best_of(results: Sequence[Result]) -> Result | None:
    """Give the best of the trials that were trained to their end, the first of equals; None if there is none."""
    complete = [result for result in results if result.state == "complete" and result.score is not None]
    return max(complete, key=lambda result: (result.score or 0.0, -result.number), default=None)


def importances(search: Search) -> dict[str, float]:
    """Give Optuna's estimate of how much each field matters, the largest first; empty with fewer than ten trials."""
    study = open_study(search).optuna
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 10 or len(search.space) < 2 or len({trial.value for trial in complete}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)


def write_results(search: Search, results: Sequence[Result]) -> None:
    """Write ``trials.csv``, and ``best.yaml``, which ``ccpml train --config`` takes."""
    names = [field.name for field in search.space]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["number", "state", *names, "map_at_r", "seconds", "host", "run", "reason"])
    for result in results:
        values = [result.values.get(name, "") for name in names]
        rest = ["" if value is None else value for value in (result.score, result.seconds)]
        writer.writerow([result.number, result.state, *values, *rest, result.host, result.run, result.reason])
    write_text(search.out / "trials.csv", text.getvalue())
    best = best_of(results)
    if best is not None:
        content = yaml.safe_dump(_settings(search, best).as_dict(), sort_keys=False, allow_unicode=True)
        write_text(search.out / "best.yaml", content)


def _settings(search: Search, result: Result) -> Settings:
    """Give the settings of a trial: as its run has them, where that lies here."""
    run = RunDirectory(search.path(result.number))
    if run.settings_file.is_file():
        return run.settings()
    return with_values(search.base, result.values).resolved()

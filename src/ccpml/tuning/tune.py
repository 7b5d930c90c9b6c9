"""Search settings on the validation classes: each trial is a run whose test classes are never scored."""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from ccpml.data.class_records import DataChangedError, MixedDataError
from ccpml.data.sources.benchmarks import BenchmarkNotFoundError
from ccpml.data.sources.source import SourceNotFoundError
from ccpml.files import NewerVersionError
from ccpml.runs.callbacks import Stopped
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import DataMovedError, find_images, read_facts
from ccpml.runs.settings import ResolvedSettings
from ccpml.system_errors import is_refused, shortage_in_words
from ccpml.tuning.results import Result, read_results, write_results
from ccpml.tuning.search_space import with_values
from ccpml.tuning.study import Search, Study, StudyExistsError, open_study, storage_errors
from ccpml.tuning.trials import ClaimedTrial, Watcher, claim_trial

__all__ = ["Train", "TrialEnded", "TrialStarted", "run_search", "train_trial"]

MAX_STARTUP_FAILURES = 3
"""Number of trials that fail before training, all for the same reason, after which the search ends."""

Train = Callable[[ResolvedSettings, Path, Watcher], float]
"""Train or resume a trial in a run directory, report to the watcher, and return the best validation MAP@R."""


class TrialsFailedError(RuntimeError):
    """All trials failed before training, for one reason."""


@dataclass(frozen=True)
class TrialStarted:
    """The event that a trial starts, or that it resumes because another process started it."""

    number: int
    values: dict[str, Any]
    resumed: bool


@dataclass(frozen=True)
class TrialEnded:
    """The event that a trial has ended.

    Attributes:
        result: The trial.
        results: All trials of the study.
        seconds_left: Estimated seconds of the remaining trials, None if there are none.
    """

    result: Result
    results: list[Result]
    seconds_left: float | None


def train_trial(settings: ResolvedSettings, path: Path, watcher: Watcher) -> float:
    """Train or resume a trial; the test classes are not scored."""
    from ccpml.runs.train import resume, train

    gc.collect()  # the previous trial may have failed for lack of memory
    torch.cuda.empty_cache()
    if RunDirectory(path).settings_file.is_file():
        run = resume(path, test=False, callbacks=[watcher])
    else:
        digest = watcher.data_digest
        run = train(settings, path, test=False, callbacks=[watcher], chosen=watcher.chosen, data_digest=digest)
    return max(row["map_at_r"] for row in run.metrics())


def run_search(
    search: Search,
    watch: Callable[[TrialStarted | TrialEnded], None] = lambda event: None,
    train: Train = train_trial,
) -> list[Result]:
    """Train the missing trials one after the other, and write the results after each.

    The same call resumes a study that was stopped or killed: finished trials are kept, and an unfinished trial resumes
    from its run directory. Several processes, on several machines, may share a study.

    ``watch`` is called when a trial starts and when it ends.

    Returns:
        All trials of the study, including those of other machines.

    Raises:
        StudyExistsError: If the folder or the storage holds something else, or a study with other settings or data.
        ValueError: If the storage cannot be opened.
        RuntimeError: If no trial can start.
        MixedDataError: If the data change meanwhile; the trial under way resumes once they are restored.
        DataMovedError: If the data of a study are no longer there.
        OSError: If the system refuses, as a full disk does; the trial under way resumes.
        Stopped: After Ctrl-C.
    """
    try:
        now = read_facts(search.base)  # before anything is written
        study = open_study(search)
        with storage_errors(search):
            facts = replace(study.facts(lambda: now), digest=now.digest)
            return _search(replace(search, facts=facts), study, watch, train)
    except SourceNotFoundError as error:
        if isinstance(error, BenchmarkNotFoundError | DataMovedError) or not (search.out / "study.yaml").is_file():
            raise
        raise DataMovedError.of(error, search.out) from error


def _search(
    search: Search, study: Study, watch: Callable[[TrialStarted | TrialEnded], None], train: Train
) -> list[Result]:
    _check_started_trials(search, study)
    started, durations = time.monotonic(), []
    while search.timeout is None or time.monotonic() - started < search.timeout:
        claimed = claim_trial(search, study)
        if claimed is None:
            break
        with claimed:
            watch(TrialStarted(claimed.number, claimed.values, claimed.resumed))
            trial_started = time.monotonic()
            _run_trial(search, claimed, train)
        durations.append(time.monotonic() - trial_started)
        results = read_results(search, study)
        write_results(search, results)
        left = _seconds_left(search, results, durations, time.monotonic() - started)
        watch(TrialEnded(results[claimed.number], results, left))
        _check_startup_failures(results)
    results = read_results(search, study)
    write_results(search, results)
    return results


def _check_started_trials(search: Search, study: Study) -> None:
    """Check that the images are those that the trials of an earlier call were started with, on this machine.

    A damaged or lost record of a trial that has ended, whose result the study has, or another run in its place, stops
    no other trial.
    """
    runs = [RunDirectory(path) for path in sorted(search.out.glob("trial-*"))]
    runs = [run for run in runs if run.record_file.is_file() or run.has_lost_record]
    source = find_images(search.base) if runs else None
    results = {search.path(result.number): result for result in read_results(search, study)}
    for run in runs:
        try:
            record = run.record()
            if run.path in results:
                record.check_started_with(results[run.path].values, run.record_file)
            changes = record.changes(source) if source is not None else None
        except NewerVersionError:
            raise
        except ValueError as error:
            if run.path in results and results[run.path].ended:
                continue
            way_out = f"restore it from a copy, or remove {run.path} to train the trial from the beginning"
            raise ValueError(f"{str(error).partition('; ')[0]}; {way_out}") from error
        if changes:
            raise StudyExistsError(
                f"{search.base.data}: expected the data that {run.path} was started with, got {changes}; restore them, "
                "or start another study"
            )


def _run_trial(search: Search, claimed: ClaimedTrial, train: Train) -> None:
    """Train a trial and write its end to the study. Raises only if stopped or refused, or if the storage is lost."""
    path, run = search.path(claimed.number), RunDirectory(search.path(claimed.number))
    try:
        open_settings = with_values(search.base, claimed.values)
        settings = open_settings.resolved(search.facts)
    except ValueError as error:
        claimed.finish(TrialState.PRUNED, reason=_describe(error), started=False)
        return
    chosen = [str(choice) for choice in open_settings.choices(search.facts) if choice.why]
    digest = "" if search.facts is None else search.facts.digest
    watcher = Watcher(claimed.trial, search.warmup_validations, chosen, digest)
    try:
        if path.exists() and not claimed.resumed:
            raise FileExistsError(f"{path}: already exists, from another study; remove it")
        score = max(watcher.scores.values()) if watcher.pruned else train(settings, path, watcher)
        if not math.isfinite(score):
            raise ValueError(f"validation MAP@R: expected a finite number, got {score}")
    except (Stopped, KeyboardInterrupt):
        claimed.trial.set_user_attr("stopped", True)
        raise
    except optuna.exceptions.StorageInternalError:
        raise
    except Exception as error:  # a failed trial must not end the search
        if is_refused(error) or not _has_data(search, error):  # it would be the end of all others too
            claimed.trial.set_user_attr("stopped", True)
            raise
        seconds = run.last_metrics().get("seconds")
        claimed.finish(TrialState.FAIL, reason=_describe(error), seconds=seconds, started=path.exists())
    else:
        state, final = (TrialState.PRUNED, None) if watcher.pruned else (TrialState.COMPLETE, score)
        claimed.finish(state, final, seconds=run.last_metrics().get("seconds"))


def _has_data(search: Search, error: Exception) -> bool:
    """Whether a trial failed although the images are there and have not changed."""
    try:
        find_images(search.base)
    except (ValueError, OSError):
        return False
    return not isinstance(error, DataChangedError | MixedDataError)


def _describe(error: Exception) -> str:
    if shortage := shortage_in_words(error):
        return shortage
    text = " ".join(str(error).split())[:1000]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def _seconds_left(
    search: Search, results: Sequence[Result], durations: Sequence[float], elapsed: float
) -> float | None:
    ended = sum(result.ended and not result.lost for result in results)
    left = max(0, search.trials - ended) * sum(durations) / len(durations)
    if search.timeout is not None:
        left = min(left, search.timeout - elapsed)
    return left if left > 0 else None


def _check_startup_failures(results: Sequence[Result]) -> None:
    """Raise TrialsFailedError if all trials failed before training for the same reason, such as unreadable images."""
    ended = [result for result in results if result.ended]
    reasons = {result.reason for result in ended}
    failed = all(result.state == "failed" and not result.started for result in ended)
    if failed and len(reasons) == 1 and len(ended) >= MAX_STARTUP_FAILURES:
        raise TrialsFailedError(f"{len(ended)} trials failed before training: {reasons.pop()}")

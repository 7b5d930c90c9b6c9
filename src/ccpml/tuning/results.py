"""The trials of a search as they are now: read from the study, compared, and written as ``trials.csv``."""

import csv
import io
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ccpml.files import check_readable, write_text, write_yaml
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import with_values
from ccpml.tuning.study import Search, Study, open_study

__all__ = ["Result", "best_of", "damaged_runs", "importances", "is_tied", "read_results", "write_results"]


@dataclass(frozen=True)
class Result:
    """A trial as it is now.

    Attributes:
        state: complete, pruned, failed, running (here or on another machine) or waiting.
        score: Best MAP@R on the validation classes so far; None before the first validation.
        seconds: Seconds of training.
        run: Run directory, on the machine ``host``.
        reason: Why the trial failed or was refused.
        started: Whether training started.
        lost: Whether its machine was lost, so that its values are tried again.
    """

    number: int
    state: str
    values: dict[str, Any]
    score: float | None = None
    seconds: float | None = None
    run: str = ""
    host: str = ""
    reason: str = ""
    started: bool = True
    lost: bool = False

    @property
    def ended(self) -> bool:
        """Whether the trial is over."""
        return self.state not in {"waiting", "running"}


def read_results(search: Search, study: Study) -> list[Result]:
    """Return all trials of a study."""
    return [_result(search, frozen) for frozen in study.optuna.get_trials(deepcopy=False)]


def _result(search: Search, frozen: FrozenTrial) -> Result:
    notes = frozen.user_attrs
    scores = [value for value in frozen.intermediate_values.values() if math.isfinite(value)]
    return Result(
        number=frozen.number,
        state="failed" if frozen.state == TrialState.FAIL else frozen.state.name.lower(),
        values={field.name: frozen.params[field.name] for field in search.space if field.name in frozen.params},
        score=frozen.value if frozen.state == TrialState.COMPLETE else max(scores, default=None),
        **{name: notes[name] for name in ("seconds", "run", "host", "reason", "started", "lost") if name in notes},
    )


def best_of(results: Sequence[Result]) -> Result | None:
    """Return the best complete trial, the first one of a tie; None if no trial is complete."""
    complete = [result for result in results if result.state == "complete" and result.score is not None]
    return max(complete, key=lambda result: (result.score or 0.0, -result.number), default=None)


def is_tied(results: Sequence[Result]) -> bool:
    """Whether several trials are complete, with different values, and all have the same score."""
    complete = [result for result in results if result.state == "complete" and result.score is not None]
    return len({result.score for result in complete}) == 1 and len({str(result.values) for result in complete}) > 1


def importances(search: Search) -> dict[str, float]:
    """Return Optuna's importance of each field, largest first; empty with fewer than ten complete trials."""
    study = open_study(search).optuna
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 10 or len(search.space) < 2 or len({trial.value for trial in complete}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)


def damaged_runs(search: Search, results: Sequence[Result]) -> dict[int, str]:
    """Return what is wrong with the runs of ended trials, by their numbers; the study has their scores all the same."""
    best, problems = best_of(results), dict[int, str]()
    for result in results:
        run = RunDirectory(search.path(result.number))
        try:
            if result is best:
                _settings(search, result)
            elif result.ended and (run.record_file.exists() or run.has_lost_record):
                run.record().check_started_with(result.values, run.record_file)
                check_readable(run.settings_file, "restore it from a copy")
        except ValueError as error:
            problems[result.number] = str(error)
    return problems


def write_results(search: Search, results: Sequence[Result]) -> None:
    """Write ``trials.csv``, and ``best.yaml``, the settings of the best trial, unless its run is damaged."""
    names = [field.name for field in search.space]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["number", "state", *names, "map_at_r", "seconds", "host", "run", "reason"])
    for result in results:
        values = [result.values.get(name, "") for name in names]
        measured = ["" if value is None else value for value in (result.score, result.seconds)]
        here = search.path(result.number)  # where a study that has moved has it now
        run = str(here.absolute()) if here.is_dir() else result.run
        writer.writerow([result.number, result.state, *values, *measured, result.host, run, result.reason])
    write_text(search.out / "trials.csv", text.getvalue())
    best = best_of(results)
    if best is not None:
        with suppress(ValueError):  # `damaged_runs` tells
            write_yaml(search.out / "best.yaml", _settings(search, best).as_dict())


def _settings(search: Search, result: Result) -> Settings:
    """Return the settings of a trial, from its run directory if that is on this machine.

    Raises:
        ValueError: If the directory has lost them, they are damaged, or it holds another run.
    """
    run = RunDirectory(search.path(result.number))
    if run.settings_file.exists() or run.record_file.exists() or run.has_lost_record:
        run.record().check_started_with(result.values, run.record_file)
        return run.settings()
    return with_values(search.base, result.values).resolved(search.facts)

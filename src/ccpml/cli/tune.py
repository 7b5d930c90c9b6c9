"""``ccpml tune``: search settings on the validation classes."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ccpml.allocator import keep_freed_memory
from ccpml.artifacts import expand_home, not_found
from ccpml.cli.common.commas import is_number
from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import UsageError, add_resume_note, advise_to_resume, report_stop
from ccpml.cli.common.settings_parser import (
    Parsed,
    SettingsParser,
    check_settings,
    note_default_data,
    note_without_effect,
)
from ccpml.data_name import DataName
from ccpml.extras import require_extra
from ccpml.progress import print_note
from ccpml.runs.defaults import RUN_SETTINGS
from ccpml.system_errors import is_refused
from ccpml.tuning.search_space import SEARCHES, Field, search_space

if TYPE_CHECKING:
    from ccpml.tuning.results import Result
    from ccpml.tuning.study import Search
    from ccpml.tuning.tune import TrialEnded, TrialStarted


def run(arguments: list[str]) -> int:
    """Search settings: train trials, write their table, the best settings and pictures."""
    parsed, space = parse(arguments)
    check_settings(parsed.settings, parsed.files, _folder(parsed) / "study.yaml")
    note_without_effect(parsed, varied=[field.name for field in space])
    require_extra("tune", ["optuna"], "tune")
    command, kept = ["tune", *arguments], f"finished trials are kept in {_folder(parsed)}; "
    advise_to_resume(command, _folder(parsed) / "study.yaml", kept)
    announce_libraries()
    keep_freed_memory()
    search = _search(parsed, space)

    from ccpml.data.class_records import MixedDataError
    from ccpml.report.tuning import draw_search
    from ccpml.runs.callbacks import Stopped
    from ccpml.runs.images import DataMovedError
    from ccpml.tuning.results import damaged_runs, importances
    from ccpml.tuning.tune import run_search

    try:
        results = run_search(search, lambda event: _report(search, event))
        importance = importances(search)
        pictures = draw_search(search, results, importance)
    except (Stopped, KeyboardInterrupt) as stopped:
        return report_stop(stopped, command, kept)
    except (OSError, RuntimeError, MixedDataError, DataMovedError) as error:
        if isinstance(error, MixedDataError | DataMovedError) or is_refused(error):
            add_resume_note(error, command)
        raise
    damaged = damaged_runs(search, results)
    _print_summary(search, results, importance, pictures, damaged)
    if damaged:
        return 1
    trained = [result for result in results if result.state not in {"waiting", "running"}]
    return 1 if trained and all(result.state == "failed" for result in trained) else 0


def parse(arguments: list[str]) -> tuple[Parsed, tuple[Field, ...]]:
    """Parse the arguments: options with settings, and the search space."""
    parser = SettingsParser(
        "tune",
        "Search settings on the validation classes; the test classes are not used.",
        "ccpml tune <data> --search <field>=<low>..<high>[:log] [options]",
        left_open=RUN_SETTINGS,
    )
    text = "a numeric setting and its values; may be repeated"
    metavar = "FIELD=LOW..HIGH[:log]|FIELD=VALUE,VALUE"
    parser.option("search", (list[str],), text, [], is_number, action="append", metavar=metavar)
    parser.option("preset", SEARCHES, "a search that comes with the package")
    parser.option("trials", (int,), "trials in the whole study (default: 50)", 50)
    parser.option("timeout", (float,), "seconds after which no trial starts")
    parser.option("out", (str,), "folder (default: runs/tune/<data>-<loss>-<method>)")
    parser.option("study", (str,), "name of the study (default: <data>-<loss>-<method>)")
    text = "URL of Optuna's storage, which several machines may share (default: <out>/study.db)"
    parser.option("storage", (str,), text)
    text = "median stops trials that are worse than the median of the others (default: median)"
    parser.option("pruner", ("median", "none"), text, "median")
    parser.option("startup_trials", (int,), "complete trials before the first is pruned (default: 5)", 5)
    parser.option("warmup_validations", (int,), "validations before a trial can be pruned (default: 10)", 10)
    parsed = parser.parse(arguments)
    note_default_data(parsed)
    try:
        return parsed, search_space(parsed.settings, parsed.options.search, parsed.options.preset)
    except ValueError as error:
        raise UsageError(error) from error


def _name(parsed: Parsed) -> str:
    settings = parsed.settings
    return f"{DataName.parse(settings.data).label}-{settings.loss}-{settings.method}"


def _folder(parsed: Parsed) -> Path:
    return expand_home(parsed.options.out or Path("runs", "tune", _name(parsed)))


def _search(parsed: Parsed, space: tuple[Field, ...]) -> "Search":
    from ccpml.tuning.study import Search

    options, settings = parsed.options, parsed.settings
    own = ("storage", "trials", "timeout", "pruner", "startup_trials", "warmup_validations")
    name = options.study or _name(parsed)
    try:
        return Search(settings, space, _folder(parsed), name, **{each: getattr(options, each) for each in own})
    except ValueError as error:
        raise UsageError(error) from error


def _report(search: "Search", event: "TrialStarted | TrialEnded") -> None:
    """Print a line when a trial starts or ends."""
    from ccpml.tuning.results import best_of
    from ccpml.tuning.tune import TrialStarted

    if isinstance(event, TrialStarted):
        line = f"trial {event.number} {'resumes' if event.resumed else 'starts'}: {_values(event.values)}"
    else:
        result, best = event.result, best_of(event.results)
        ended = sum(other.state not in {"waiting", "running"} for other in event.results)
        line = f"trial {result.number} {result.state}, {ended} of {search.trials} ended: {_values(result.values)}: "
        line += result.reason or f"MAP@R {result.score:.4f}"
        line += f" (best {best.score:.4f}, trial {best.number})" if best is not None else ""
        line += f", about {tqdm.format_interval(event.seconds_left)} left" if event.seconds_left else ""
    print(line, file=sys.stderr, flush=True)


def _print_summary(
    search: "Search",
    results: "Sequence[Result]",
    importance: Mapping[str, float],
    pictures: Sequence[Path],
    damaged: Mapping[int, str],
) -> None:
    from ccpml.tuning.results import best_of, is_tied

    states = [result.state for result in results]
    counted = [f"{states.count(state)} {state}" for state in sorted(set(states), key=states.index)]
    print(f"trials     {len(results)}: {', '.join(counted)}" if results else "trials     none")
    best = best_of(results)
    if best is not None:
        print(f"best       trial {best.number}: MAP@R {best.score:.4f} on the validation classes")
        print(f"           {_values(best.values)}")
        if is_tied(results):
            print_note("all complete trials have the same score, so these values are no better; train longer")
    if importance:
        print("importance " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in importance.items()))
    print(f"table      {search.out / 'trials.csv'}")
    is_whole = best is not None and best.number not in damaged
    if is_whole:
        again = ["ccpml", "train", "--config", str(search.out / "best.yaml")]
        print(f"settings   {search.out / 'best.yaml'}  ({shlex.join(again)})")
    for picture in pictures:
        print(f"picture    {picture}")
    if best is not None and is_whole:
        here = search.path(best.number)
        if here.is_dir() or best.host != platform.node():
            where = "" if here.is_dir() else f"  (on {best.host})"
            best_run = str(here if here.is_dir() else best.run)
            print(f"score it on the test classes: {shlex.join(['ccpml', 'train', '--resume', best_run])}{where}")
        else:
            print_note(f"{here}: {not_found(here, 'folder')}; to score its settings, train them again")
    for number, problem in damaged.items():
        print(f"ccpml: trial {number}: {problem}", file=sys.stderr)
    if best is not None and not is_whole:
        print(f"ccpml: {search.out / 'best.yaml'}: not written without the run of the best trial", file=sys.stderr)
    for result in results:
        if result.state == "failed":
            print(f"ccpml: trial {result.number} failed: {result.reason}", file=sys.stderr)


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )

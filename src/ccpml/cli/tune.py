"""``ccpml tune``: search settings on the validation classes."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccpml.cli.options import UsageError, check_settings, parse_settings, settings_parser
from ccpml.data_name import DataName

if TYPE_CHECKING:
    from ccpml.runs.settings import Settings
    from ccpml.tuning.results import Result
    from ccpml.tuning.search_space import Field
    from ccpml.tuning.study import Search
    from ccpml.tuning.tune import TrialEnded, TrialStarted


def tune(arguments: list[str]) -> int:
    """Search settings: train trials, write their table, the best settings and pictures."""
    parsed, settings, space = parse_tune(arguments)
    check_settings(settings)
    if find_spec("optuna") is None:
        raise ValueError("ccpml tune needs Optuna, which is not here: pip install 'ccpml[tune]'")
    search = _search(parsed, settings, space)

    from ccpml.report.tuning import draw_search
    from ccpml.runs.callbacks import Stopped
    from ccpml.tuning.results import importances
    from ccpml.tuning.tune import run_search

    try:
        results = run_search(search, lambda event: _say(search, event))
        shares = importances(search)
        pictures = draw_search(search, results, shares)
    except (Stopped, KeyboardInterrupt) as stopped:
        way_on = shlex.join(["ccpml", "tune", *arguments])
        why = f"{str(stopped) or 'interrupted'}; what is finished stays in {search.out}"
        print(f"ccpml: {why}; go on with: {way_on}", file=sys.stderr)
        return 128 + getattr(stopped, "number", 2)
    _print_summary(search, results, shares, pictures)
    trained = [result for result in results if result.state not in {"waiting", "running"}]
    return 1 if trained and all(result.state == "failed" for result in trained) else 0


def parse_tune(arguments: list[str]) -> "tuple[Any, Settings, tuple[Field, ...]]":
    """Parse the options of ``tune``: those of `Settings`, which fields vary, and how they are searched."""
    from ccpml.tuning.search_space import SEARCHES, search_space

    command = settings_parser(
        "tune",
        "Search settings on the validation classes; the test classes are never looked at.",
        "ccpml tune <data> --search <field>=<low>..<high>[:log] [options]",
    )
    absent = argparse.SUPPRESS
    command.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="FIELD=LOW..HIGH[:log]|FIELD=VALUE,VALUE",
        help="a numeric setting and its values; may be given several times",
    )
    command.add_argument("--preset", choices=SEARCHES, help="a search that comes with the package")
    command.add_argument("--trials", type=int, default=50, help="in the whole study")
    command.add_argument("--timeout", type=float, help="seconds after which no trial begins any more")
    command.add_argument("--out", default=absent, help="folder (default: runs/tune/<data>-<loss>-<method>)")
    command.add_argument("--study", default=absent, help="name of the study (default: <data>-<loss>-<method>)")
    command.add_argument(
        "--storage", default=absent, help="URL of Optuna's storage, which machines may share (default: <out>/study.db)"
    )
    command.add_argument(
        "--pruner", choices=("median", "none"), default="median", help="median stops trials that lag behind the others"
    )
    command.add_argument(
        "--startup_trials", type=int, default=5, help="complete trials before any is stopped for lagging"
    )
    command.add_argument(
        "--warmup_validations", type=int, default=10, help="validations before a trial can be stopped for lagging"
    )
    parsed, settings = parse_settings(command, arguments)
    for flag in ("out", "study", "storage"):
        if parsed.get(flag) == "":
            raise UsageError(f"--{flag}: expected a value, got nothing")
    try:
        settings.resolved()
        return parsed, settings, search_space(settings, parsed.search, parsed.preset)
    except ValueError as error:
        raise UsageError(error) from error


def _search(parsed: Any, settings: "Settings", space: "tuple[Field, ...]") -> "Search":
    from ccpml.tuning.study import Search

    name = _default_name(settings)
    try:
        return Search(
            base=settings,
            space=space,
            out=Path(parsed.get("out") or Path("runs") / "tune" / name).expanduser(),
            name=parsed.get("study") or name,
            storage=parsed.get("storage"),
            trials=parsed.trials,
            timeout=parsed.timeout,
            pruner=parsed.pruner,
            startup_trials=parsed.startup_trials,
            warmup_validations=parsed.warmup_validations,
        )
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _default_name(settings: "Settings") -> str:
    data = DataName.parse(settings.data).label
    return f"{data}-{settings.loss}-{settings.method}"


def _say(search: "Search", event: "TrialStarted | TrialEnded") -> None:
    """Write a line as a trial begins and as it ends."""
    from ccpml.tuning.results import best_of
    from ccpml.tuning.tune import TrialStarted

    if isinstance(event, TrialStarted):
        begins = "goes on" if event.resumed else "begins"
        line = f"trial {event.number} {begins}: {_values(event.values)}"
    else:
        result, best = event.result, best_of(event.results)
        ended = sum(other.state not in {"waiting", "running"} for other in event.results)
        line = f"trial {result.number} {result.state}, {ended} of {search.trials} ended: {_values(result.values)}: "
        line += result.reason or f"MAP@R {result.score:.4f}"
        line += f" (best {best.score:.4f}, trial {best.number})" if best is not None else ""
        line += f", about {_clock(event.seconds_left)} left" if event.seconds_left else ""
    print(line, file=sys.stderr, flush=True)


def _print_summary(
    search: "Search", results: "Sequence[Result]", shares: Mapping[str, float], pictures: Sequence[Path]
) -> None:
    from ccpml.tuning.results import best_of

    states = [result.state for result in results]
    counted = [f"{states.count(state)} {state}" for state in sorted(set(states), key=states.index)]
    print(f"trials    {len(results)}: {', '.join(counted)}" if results else "trials    none")
    best = best_of(results)
    if best is not None:
        print(f"best      trial {best.number}: MAP@R {best.score:.4f} on the validation classes")
        print(f"          {_values(best.values)}")
    if shares:
        print("influence " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()))
    print(f"table     {search.out / 'trials.csv'}")
    if best is not None:
        print(f"settings  {search.out / 'best.yaml'}  (ccpml train --config {search.out / 'best.yaml'})")
    for picture in pictures:
        print(f"picture   {picture}")
    if best is not None:
        here = search.path(best.number)
        where = "" if here.exists() else f"  (on {best.host})"
        run = str(here if here.exists() else best.run)
        print(f"test it once, with nothing left to choose: {shlex.join(['ccpml', 'train', '--resume', run])}{where}")
    for result in results:
        if result.state == "failed":
            print(f"ccpml: trial {result.number} failed: {result.reason}", file=sys.stderr)


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""``ccpml train``."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccpml.cli.options import UsageError, check_settings, parse_settings, require_run, settings_parser
from ccpml.data_name import DataName

if TYPE_CHECKING:
    from ccpml.runs.settings import Settings


def train(arguments: list[str]) -> int:
    """Train a run, or go on with one; write its report."""
    parsed, settings = parse_train(arguments)
    run_path, resumed = parsed.get("run"), parsed.get("resume")
    for flag, value in (("--run", run_path), ("--resume", resumed)):
        if value == "":
            raise UsageError(f"{flag}: expected a directory, got nothing")
    if resumed is not None:
        if len(arguments) > (1 if arguments[0].startswith("--resume=") else 2):
            raise UsageError("--resume goes on with a run as it was begun: it takes no data and no other options")
        path = require_run(Path(resumed))
    else:
        check_settings(settings)
        path = Path(run_path or _default_run(settings))

    from ccpml.report import write_report
    from ccpml.runs import train as training
    from ccpml.runs.callbacks import Stopped
    from ccpml.runs.processes import is_main_process

    try:
        run = training.train(settings, path) if resumed is None else training.resume(path)
    except (Stopped, KeyboardInterrupt) as stopped:
        if not (path / "experiment.yaml").is_file():
            raise KeyboardInterrupt from stopped
        way_on = shlex.join(["ccpml", "train", "--resume", str(path)])
        print(f"ccpml: {str(stopped) or 'interrupted'}; go on with: {way_on}", file=sys.stderr)
        return 128 + getattr(stopped, "number", 2)
    if not is_main_process():
        return 0
    report = write_report(run)
    _print_scores(run.scores())
    print(f"run     {run.path}\nreport  {report}")
    return 0


def parse_train(arguments: list[str]) -> tuple[Any, "Settings"]:
    """Parse the options of ``train``: those of `Settings`, from a file and from flags, and where the run lies."""
    command = settings_parser(
        "train",
        "Train on some classes, test on others, leave a run directory with a report.",
        "ccpml train <data> [options], or ccpml train --resume <run>",
    )
    absent = argparse.SUPPRESS  # these are no settings: --print_config shows them only where they are given
    command.add_argument(
        "--run", default=absent, help="run directory (default: runs/<data>-<loss>-<method>-seed<seed>)"
    )
    command.add_argument("--resume", default=absent, help="go on with the run in this directory")
    return parse_settings(command, arguments)


def _default_run(settings: "Settings") -> Path:
    name = DataName.parse(settings.data).label
    fold = "" if settings.fold == "auto" else f"-fold{settings.fold}"
    return Path("runs") / f"{name}-{settings.loss}-{settings.method}{fold}-seed{settings.seed}"


def _print_scores(scores: dict[str, Any]) -> None:
    for split, size in scores["splits"].items():
        print(f"{split:<11} {size['classes']:>6,} classes {size['images']:>8,} images")
    test = scores["test"]
    recall = "  ".join(f"R@{name.rpartition('_')[2]} {v:.4f}" for name, v in test.items() if name.startswith("recall"))
    print(f"test        MAP@R {test['map_at_r']:.4f}  P@1 {test['precision_at_1']:.4f}  P@R {test['r_precision']:.4f}")
    print(f"            {recall}  ({test['num_queries']:,} queries, {test['num_skipped']:,} left out)")
    print(f"stopped after {scores['steps']:,} steps, best on validation at {scores['validation']['step']:,}")

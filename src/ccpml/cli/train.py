"""``ccpml train``: train a run, or resume one, and write its report."""

from pathlib import Path
from typing import Any

from ccpml.allocator import keep_freed_memory
from ccpml.cli.common.hints import was_killed
from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import UsageError, add_resume_note, advise_to_resume, check_run, report_stop
from ccpml.cli.common.settings_parser import (
    Parsed,
    SettingsParser,
    check_settings,
    note_default_data,
    note_without_effect,
)
from ccpml.data_name import DataName
from ccpml.interrupts import Interrupted, exit_code
from ccpml.numbers import counted
from ccpml.progress import announce, print_note
from ccpml.runs.defaults import SATURATED, is_saturated
from ccpml.runs.settings import Settings
from ccpml.system_errors import is_refused


def run(arguments: list[str]) -> int:
    """Train a run, or resume one; write its report, and return 1 if a part of that is missing, as ``ccpml report``."""
    parsed = parse(arguments)
    options, settings = parsed.options, parsed.settings
    if options.resume is not None:
        path = check_run(Path(options.resume))
    else:
        note_default_data(parsed)
        check_settings(settings, parsed.files)
        note_without_effect(parsed)
        path = Path(options.run or _default_path(settings))

    resume, settings_file = ["train", "--resume", str(path)], path / "experiment.yaml"
    advise_to_resume(resume, settings_file)
    announce_libraries()
    keep_freed_memory()
    from ccpml.data import BadImageError
    from ccpml.report import write_report
    from ccpml.runs import train
    from ccpml.runs.callbacks import Stopped
    from ccpml.runs.directory import RunDirectory
    from ccpml.runs.processes import is_main_process, lost_contact, readers_were_told_to_end

    if options.resume is not None and (run := RunDirectory.open(path)).finished:
        run.scores()
        print(f"{path}: already finished", flush=True)
    try:
        if options.resume is None:
            train.train(settings, path)
        else:
            train.resume(path)
        if not is_main_process():
            return 0
        announce("writing the report")
        trained, problems = RunDirectory(path), list[str]()
        report = write_report(trained, problems, keep=True)
    except (Stopped, KeyboardInterrupt) as stopped:
        if not settings_file.is_file():  # nothing to resume
            raise Interrupted(exit_code(stopped) - 128) from stopped
        return report_stop(stopped, resume)
    except (OSError, BadImageError, RuntimeError) as error:
        if not is_main_process() and (lost_contact(error) or readers_were_told_to_end(error)):  # main says why
            return 1
        other = isinstance(error, RuntimeError | FileExistsError | FileNotFoundError)
        if (not other or was_killed(error) or is_refused(error)) and settings_file.is_file():
            add_resume_note(error, resume)
        raise
    _print_scores(trained.scores())
    print(f"run     {trained.path}\nreport  {report}")
    return 1 if problems else 0


def parse(arguments: list[str]) -> Parsed:
    """Parse the arguments."""
    parser = SettingsParser(
        "train",
        "Train on some classes, test on others, write a run directory with a report.",
        "ccpml train <data> [options], or ccpml train --resume <run>",
    )
    parser.option("run", (str,), "run directory (default: runs/<data>-<loss>-<method>-seed<seed>)")
    parser.option("resume", (str,), "resume the run in this directory")
    parsed = parser.parse(arguments)
    if parsed.options.resume is not None and (parsed.given or parsed.options.run is not None):
        raise UsageError("--resume: expected no data and no other options, because a run keeps its settings")
    return parsed


def _default_path(settings: Settings) -> Path:
    name = DataName.parse(settings.data).label
    fold = "" if settings.fold == "auto" else f"-fold{settings.fold}"
    return Path("runs") / f"{name}-{settings.loss}-{settings.method}{fold}-seed{settings.seed}"


def _print_scores(scores: dict[str, Any]) -> None:
    from ccpml.retrieval import describe_intervals

    for split, size in scores["splits"].items():
        print(f"{split:<11} {size['classes']:>6,} classes {size['images']:>8,} images")
    test = scores["test"]
    recall = "  ".join(f"R@{name.rpartition('_')[2]} {v:.4f}" for name, v in test.items() if name.startswith("recall"))
    print(f"test        {_three(test)}")
    print(f"            {recall}  ({counted(test['num_queries'], 'query')}, {test['num_skipped']:,} left out)")
    if intervals := describe_intervals(scores.get("intervals", {})):
        print(f"            {intervals}")
    if features := scores.get("features"):
        print(f"features    {_three(features)}  (untouched, {features['dimensions']:,}-D)")
    if is_saturated(scores):
        print_note(SATURATED)
    print(f"stopped after {counted(scores['steps'], 'step')}, best on validation at {scores['validation']['step']:,}")
    for note in scores.get("notes", []):
        print(note)


def _three(scores: dict[str, Any]) -> str:
    return f"MAP@R {scores['map_at_r']:.4f}  P@1 {scores['precision_at_1']:.4f}  P@R {scores['r_precision']:.4f}"

"""The command line: verbs, each of which imports what it needs when it is called."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

__all__ = ["main"]

_HELP = """usage: ccpml <verb> ... [--debug]

Deep metric learning with chance constraints: train embeddings that find images of things never seen in training.

verbs:
  train     train on some classes, test on others, leave a run directory with a report
  evaluate  score a run on its test classes or on other data
  embed     write a run's embeddings of some data to an .npz file
  report    write the report of a run again

data are glyphs (they come with the package), folder:<path> (a class is a leaf folder), or csv:<file>
(columns path,label[,split[,role]]).

  ccpml train glyphs                          the demonstration
  ccpml train folder:photos --loss triplet    your own images
  ccpml <verb> --help                         all options of a verb
  --debug                                     show the traceback of an error
"""


class UsageError(Exception):
    """The command line is wrong: exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from ccpml import __version__

        print(f"ccpml {__version__}")
        return 0
    try:
        if arguments[0] not in _VERBS:
            raise UsageError(f"unknown verb {arguments[0]!r}: expected one of {', '.join(_VERBS)}")
        return _VERBS[arguments[0]](arguments[1:])
    except KeyboardInterrupt:
        print("ccpml: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # the one place where errors become sentences
        if debug:
            raise
        usage = isinstance(error, UsageError | FileExistsError)
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"ccpml: error: {text}", file=sys.stderr)
        return 2 if usage else 1


def _train(arguments: list[str]) -> int:
    from ccpml.experiments.config import Experiment

    parsed = _parse_train(arguments)
    run_path, resumed = parsed.get("run"), parsed.get("resume")
    for flag, value in (("--run", run_path), ("--resume", resumed)):
        if value == "":
            raise UsageError(f"{flag}: expected a directory, got nothing")
    if resumed is not None:
        if len(arguments) > (1 if arguments[0].startswith("--resume=") else 2):
            raise UsageError("--resume goes on with a run as it was begun: it takes no data and no other options")
        path = _require_run(Path(resumed))
    else:
        try:
            experiment = Experiment(**{field.name: parsed[field.name] for field in fields(Experiment)})
        except (ValueError, TypeError) as error:
            raise UsageError(error) from error
        _require_data(experiment.data)
        if experiment.weights is not None and not Path(experiment.weights).expanduser().is_file():
            raise UsageError(f"weights: there is no file {experiment.weights}")
        path = Path(run_path or _default_run(experiment))

    from ccpml.experiments.callbacks import Stopped
    from ccpml.experiments.train import resume, train
    from ccpml.report import write_report

    try:
        run = train(experiment, path) if resumed is None else resume(path)
    except (Stopped, KeyboardInterrupt) as stopped:
        if not (path / "experiment.yaml").is_file():
            raise KeyboardInterrupt from stopped
        way_on = shlex.join(["ccpml", "train", "--resume", str(path)])
        print(f"ccpml: {str(stopped) or 'interrupted'}; go on with: {way_on}", file=sys.stderr)
        return 128 + getattr(stopped, "number", 2)
    report = write_report(run)
    _print_scores(run.scores())
    print(f"run     {run.path}\nreport  {report}")
    return 0


def _evaluate(arguments: list[str]) -> int:
    parser = _parser("evaluate", "Score a run on its test classes, or on other data.")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument(
        "data", nargs="?", help="glyphs, folder:<path> or csv:<file>; by default the run's test classes"
    )
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("-o", "--output", type=Path, help="write the scores to this JSON file too")
    options = parser.parse_args(arguments)
    _require_run(options.run)
    if options.data is not None:
        _require_data(options.data)
    if options.output is not None:
        _require_free(options.output)

    from ccpml.experiments.apply import evaluate_run
    from ccpml.experiments.files import write_json
    from ccpml.experiments.rundir import RunDirectory

    scores, size = evaluate_run(RunDirectory.open(options.run), options.data, options.skip_bad_images)
    print(f"{size}\n{scores}")
    if options.output is not None:
        write_json(options.output, {"run": str(options.run), "data": options.data, "size": size, **scores.as_dict()})
    return 0


def _embed(arguments: list[str]) -> int:
    parser = _parser("embed", "Write a run's embeddings of some data, with labels and paths, to an .npz file.")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("data", help="glyphs, folder:<path> or csv:<file>")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .npz file")
    parser.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")
    options = parser.parse_args(arguments)
    if options.output.suffix != ".npz":
        raise UsageError(f"--output: expected a file that ends in .npz, got {options.output}")
    _require_free(options.output)
    _require_run(options.run)
    _require_data(options.data)

    from ccpml.experiments.apply import embed_run
    from ccpml.experiments.rundir import RunDirectory

    count = embed_run(RunDirectory.open(options.run), options.data, options.output, options.skip_bad_images)
    print(f"{options.output}: {count:,} embeddings")
    return 0


def _report(arguments: list[str]) -> int:
    parser = _parser("report", "Write the report of a run again: report.html and its pictures.")
    parser.add_argument("run", type=Path, help="run directory")
    options = parser.parse_args(arguments)
    _require_run(options.run)

    from ccpml.experiments.rundir import RunDirectory
    from ccpml.report import write_report

    print(write_report(RunDirectory.open(options.run)))
    return 0


_VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "embed": _embed,
    "report": _report,
}


class _Parser(argparse.ArgumentParser):
    """Argparse whose errors are ours."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    return _Parser(prog=f"ccpml {verb}", description=description)


def _parse_train(arguments: list[str]) -> Any:
    """Parse the options of ``train``: those of `Experiment`, from a file and from flags."""
    import jsonargparse

    from ccpml.experiments.config import Experiment

    parser = jsonargparse.ArgumentParser(
        prog="ccpml train",
        description="Train on some classes, test on others, leave a run directory with a report.",
        exit_on_error=False,
    )
    parser.usage = "ccpml train <data> [options], or ccpml train --resume <run>; <data> is short for --data <data>"
    absent = argparse.SUPPRESS  # these are no settings: --print_config shows them only where they are given
    parser.add_argument("--config", action="config", help="YAML file of the options below; flags after it win")
    parser.add_argument("--run", default=absent, help="run directory (default: runs/<data>-<loss>-<method>-seed<seed>)")
    parser.add_argument("--resume", default=absent, help="go on with the run in this directory")
    parser.add_class_arguments(Experiment)
    try:
        return parser.parse_args(_normalized(arguments, Experiment))
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise UsageError(f"{_plain(str(error), Experiment)}; see ccpml train --help") from error


def _plain(message: str, experiment: type) -> str:
    """Say what jsonargparse says of a value that does not fit its type in our own words."""
    found = re.search(r'Parser key "(\w+)"', message)
    types = {field.name: str(field.type).replace("typing.", "") for field in fields(experiment)}
    if found is None or found[1] not in types:
        return message
    expected = re.sub(r"<class '(\w+)'>", r"\1", types[found[1]])
    expected = re.sub(r"^Optional\[(.*)\]$", r"\1 or null", expected).replace(" | None", " or null")
    return f"--{found[1]}: expected {expected}, got something else"


def _normalized(arguments: list[str], experiment: type) -> list[str]:
    """Let options be written with dashes, switches without a value, and the data without their flag."""
    switches = {f"--{field.name}" for field in fields(experiment) if field.type is bool}
    result: list[str] = []
    data: list[str] = []
    left = list(arguments)
    while left:
        flag, equals, value = left.pop(0).partition("=")
        if not flag.startswith("-"):
            data.append(flag + equals + value)
            continue
        flag = flag[:2] + flag[2:].replace("-", "_")
        if not equals and flag in switches:
            value = left.pop(0) if left[:1] in (["true"], ["false"]) else "true"
        elif not equals and flag not in {"-h", "--help", "--print_config"} and left:
            value = left.pop(0)
        elif not equals:
            result.append(flag)
            continue
        if flag == "--config" and not Path(value).is_file():
            raise UsageError(f"--config: there is no file {value}")
        if flag == "--data":
            data.append(value)
        else:
            result.append(f"{flag}={value}")
    if len(data) > 1:
        raise UsageError(f"the data are named twice: {' and '.join(data)}")
    return result + [f"--data={name}" for name in data]


def _require_data(data: str) -> None:
    """Check that data are named as they should be, and are there."""
    kind, colon, path = data.partition(":")
    if not (data == "glyphs" or (kind in {"folder", "csv"} and colon and path)):
        raise UsageError(f"unknown data {data!r}: expected glyphs, folder:<path> or csv:<file>")
    if colon and not Path(path).expanduser().exists():
        raise UsageError(f"{data}: there is no such {'folder' if kind == 'folder' else 'file'}")


def _require_free(output: Path) -> None:
    """Check that a file can be written, and would overwrite none, before the work is done."""
    if output.exists():
        raise UsageError(f"--output: {output} is there already; choose another name or remove it")
    if output.parent.exists() and not (output.parent.is_dir() and os.access(output.parent, os.W_OK)):
        raise UsageError(f"--output: {output.parent} is no folder that can be written to")


def _require_run(path: Path) -> Path:
    if not (path / "experiment.yaml").is_file():
        raise UsageError(f"{path}: no run is there (no experiment.yaml)")
    return path


def _default_run(experiment: Any) -> Path:
    kind, _, path = experiment.data.partition(":")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).expanduser().resolve().stem) if path else kind
    fold = "" if experiment.fold is None else f"-fold{experiment.fold}"
    return Path("runs") / f"{name}-{experiment.loss}-{experiment.method}{fold}-seed{experiment.seed}"


def _print_scores(scores: dict[str, Any]) -> None:
    for split, size in scores["splits"].items():
        print(f"{split:<11} {size['classes']:>6,} classes {size['images']:>8,} images")
    test = scores["test"]
    recall = "  ".join(f"R@{name.rpartition('_')[2]} {v:.4f}" for name, v in test.items() if name.startswith("recall"))
    print(f"test        MAP@R {test['map_at_r']:.4f}  P@1 {test['precision_at_1']:.4f}  P@R {test['r_precision']:.4f}")
    print(f"            {recall}  ({test['num_queries']:,} queries, {test['num_skipped']:,} left out)")
    print(f"stopped after {scores['steps']:,} steps, best on validation at {scores['validation']['step']:,}")


if __name__ == "__main__":
    sys.exit(main())

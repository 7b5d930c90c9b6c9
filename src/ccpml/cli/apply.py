"""``ccpml evaluate``, ``ccpml embed`` and ``ccpml report``: what is done with a trained run."""

import argparse
from pathlib import Path
from typing import Any

from ccpml.cli.options import UsageError, parser, require_data, require_free, require_run

_DATA = "glyphs, cub, cars196, sop, inshop, folder:<path> or csv:<file>"


def evaluate(arguments: list[str]) -> int:
    """Score a run on its test classes, or on other data."""
    command = parser("evaluate", "Score a run on its test classes, or on other data.")
    command.add_argument("run", type=Path, help="run directory")
    command.add_argument("data", nargs="?", help=f"{_DATA}; by default the run's test classes")
    _add_data_options(command)
    command.add_argument("--clusters", action="store_true", help="k-means too: NMI and AMI, k the number of classes")
    command.add_argument("-o", "--output", type=Path, help="write the scores to this JSON file too")
    options = command.parse_args(arguments)
    require_run(options.run)
    if options.data is not None:
        require_data(options.data)
    if options.output is not None:
        require_free(options.output)

    from ccpml.files import write_json
    from ccpml.runs.inference import evaluate_run

    found = evaluate_run(options.run, options.data, clusters=options.clusters, **_data_options(options))
    print(f"{found.size}\n{found.scores}")
    record = {"run": str(options.run), "data": options.data, "size": found.size, **found.scores.as_dict()}
    if found.clusters is not None:
        print(found.clusters)
        record.update(found.clusters.as_dict())
    if options.output is not None:
        write_json(options.output, record)
    return 0


def embed(arguments: list[str]) -> int:
    """Write a run's embeddings of some data."""
    command = parser("embed", "Write a run's embeddings of some data, with labels and paths, to an .npz file.")
    command.add_argument("run", type=Path, help="run directory")
    command.add_argument("data", help=_DATA)
    command.add_argument("-o", "--output", type=Path, required=True, help="the .npz file")
    _add_data_options(command)
    options = command.parse_args(arguments)
    if options.output.suffix != ".npz":
        raise UsageError(f"--output: expected a file that ends in .npz, got {options.output}")
    require_free(options.output)
    require_run(options.run)
    require_data(options.data)

    from ccpml.runs.inference import embed_run

    count = embed_run(options.run, options.data, options.output, **_data_options(options))
    print(f"{options.output}: {count:,} embeddings")
    return 0


def report(arguments: list[str]) -> int:
    """Write the report of a run again."""
    command = parser("report", "Write the report of a run again: report.html and its pictures.")
    command.add_argument("run", type=Path, help="run directory")
    options = command.parse_args(arguments)
    require_run(options.run)

    from ccpml.report import write_report
    from ccpml.runs.directory import RunDirectory

    print(write_report(RunDirectory.open(options.run)))
    return 0


def _add_data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-root", help="where cub, cars196, sop and inshop lie (default: $CCPML_DATA)")
    command.add_argument("--allow-partial", action="store_true", help="take a benchmark that is not whole")
    command.add_argument("--skip-bad-images", action="store_true", help="leave out images that cannot be read")


def _data_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "data_root": options.data_root,
        "allow_partial": options.allow_partial,
        "skip_bad": options.skip_bad_images,
    }

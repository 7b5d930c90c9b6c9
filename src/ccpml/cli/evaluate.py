"""``ccpml evaluate``: score a run on its test classes, or on other data."""

import argparse
from pathlib import Path

from ccpml.cli.options import Parser, add_data_options, check_data, check_output, check_run
from ccpml.data_name import known_names
from ccpml.progress import announce


def run(arguments: list[str]) -> int:
    """Score a run and print the scores."""
    options = vars(parse(arguments))
    path, data, output = check_run(options["path"]), options["data"], options.pop("output")
    if data is not None:
        check_data(data)
    if output is not None:
        check_output(output)

    announce("loading libraries")
    from ccpml.files import write_json
    from ccpml.runs.inference import evaluate_run

    result = evaluate_run(**options)
    print(f"{result.size}\n{result.scores}")
    record = {"run": str(path), "data": data, "size": result.size, **result.scores.as_dict()}
    if result.clusters is not None:
        print(result.clusters)
        record.update(result.clusters.as_dict())
    if output is not None:
        write_json(output, record)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog="ccpml evaluate", description="Score a run on its test classes, or on other data.")
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    parser.add_argument("data", nargs="?", help=f"{known_names()} (default: the run's test classes)")
    add_data_options(parser)
    parser.add_argument(
        "--all-classes", action="store_true", help="of other data, also score classes that the run was trained on"
    )
    parser.add_argument(
        "--clusters", action="store_true", help="also report NMI and AMI of k-means, with one cluster per class"
    )
    parser.add_argument("-o", "--output", type=Path, help="also write the scores to this JSON file")
    return parser.parse_intermixed_args(arguments)

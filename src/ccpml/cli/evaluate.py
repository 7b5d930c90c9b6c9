"""``ccpml evaluate``: score a run on its test classes, or on other data."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ccpml.cli.common.commas import check_commas, check_single
from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.models import is_model
from ccpml.cli.common.options import (
    UsageError,
    add_data_options,
    check_data_of_run,
    check_each_once,
    check_output,
    check_run,
)
from ccpml.cli.common.parser import Parser
from ccpml.cli.common.scan_options import DTYPES, RERANK
from ccpml.data_name import known_names


def run(arguments: list[str]) -> int:
    """Score a run and print the scores."""
    options = vars(parse(arguments))
    path, data, output = check_run(options["path"]), options["data"], options.pop("output")
    check_data_of_run(data, options["data_root"])
    if options["all_classes"] and data is None:
        raise UsageError("--all-classes: expected other data too; of its own, a run is scored on the test classes")
    if output is not None:
        check_output(output)

    rankings = {name: options.pop(name) for name in ("rerank", "ensemble", "dtypes")}
    for run in rankings["ensemble"]:
        check_run(run)
    check_each_once("--ensemble", [path, *rankings["ensemble"]])

    announce_libraries()
    from ccpml.files import write_json

    if any(rankings.values()):
        return _compare(options, rankings, output)
    from ccpml.retrieval import describe_intervals
    from ccpml.runs.inference import evaluate_run

    result = evaluate_run(**options)
    print(f"{result.size}\n{result.scores}")
    if intervals := describe_intervals(result.intervals):
        print(intervals)
    record = {
        "run": str(path),
        "data": data,
        "size": result.size,
        **result.scores.as_dict(),
        "intervals": result.intervals,
    }
    if result.clusters is not None:
        print(result.clusters)
        record.update(result.clusters.as_dict())
    if output is not None:
        write_json(output, record)
    return 0


def _compare(options: dict[str, Any], rankings: dict[str, Any], output: Path | None) -> int:
    """Print the scores and costs of several rankings of the same embeddings."""
    from ccpml.benchmark.text_table import TextTable
    from ccpml.files import write_json
    from ccpml.runs.inference.rankings import compare_rankings

    if options.pop("clusters"):
        raise UsageError("--clusters: expected without --rerank, --ensemble and --dtype")
    size, found = compare_rankings(**options, **rankings)
    columns = [("", name) for name in ("MAP@R", "gain", "P@1", "gain", "R@8", "ms per query", "bytes per image")]
    rows = [
        (
            each.name,
            f"{100 * each.map_at_r:.2f}",
            _gain(each.map_at_r - found[0].map_at_r) if number else "",
            f"{100 * each.precision_at_1:.2f}",
            _gain(each.precision_at_1 - found[0].precision_at_1) if number else "",
            f"{100 * each.recall_at_8:.2f}",
            f"{each.milliseconds:.3f}",
            f"{each.bytes_per_image:,}",
        )
        for number, each in enumerate(found)
    ]
    print(f"{size}\n\n{TextTable('', tuple(columns), tuple(rows)).markdown()}")
    print("scores in percent; processor time of ranking, without embedding")
    if output is not None:
        record = {"run": str(options["path"]), "data": options["data"], "size": size}
        write_json(output, {**record, "rankings": [asdict(each) for each in found]})
    return 0


def _gain(difference: float) -> str:
    return f"{100 * difference:+.2f}".replace("-", "−")


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser of names that are separated by commas."""

    def parse_names(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"expected {', '.join(known)}, separated by commas, got {name!r}")
        if len(set(names)) < len(names):
            raise argparse.ArgumentTypeError(f"expected each once, got {text}")
        return names

    return parse_names


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog="ccpml evaluate", description="Score a run on its test classes, or on other data.")
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    parser.add_argument("data", nargs="?", help=f"{known_names()} (default: the run's test classes)")
    add_data_options(parser)
    parser.add_argument(
        "--all-classes",
        action="store_true",
        help="of other data, score all classes, also those trained on",
    )
    parser.add_argument(
        "--clusters", action="store_true", help="also report NMI and AMI of k-means, with one cluster per class"
    )
    parser.add_argument(
        "--rerank",
        metavar="<names>",
        type=_names(RERANK),
        default=[],
        help=f"compare scores and cost with rankings by {', '.join(RERANK)}, separated by commas",
    )
    parser.add_argument(
        "--ensemble",
        metavar="<run>",
        type=Path,
        action="append",
        default=[],
        help="compare with another run and with the joint embeddings of both; repeatable",
    )
    parser.add_argument(
        "--dtype",
        dest="dtypes",
        metavar="<types>",
        type=_names(DTYPES[1:]),
        default=[],
        help="compare with rows of float16, int8 or both, separated by a comma",
    )
    parser.add_argument("-o", "--output", type=Path, help="also write the scores to this JSON file")
    check_commas(arguments, {"--rerank": RERANK.__contains__, "--dtype": DTYPES.__contains__})
    if arguments and not arguments[0].startswith("-"):  # the run is given, so that no other is expected
        check_single(arguments, {"--ensemble": is_model}, ["--ensemble"])
    return parser.parse_intermixed_args(arguments)

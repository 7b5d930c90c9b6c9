"""``ccpml compare``: score runs on the same unseen classes, with paired differences and queries won and lost."""

import argparse
import json
from pathlib import Path

from ccpml.cli.common.commas import check_single
from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import (
    UsageError,
    add_data_options,
    check_data_of_run,
    check_each_once,
    check_output,
    check_run,
)
from ccpml.cli.common.parser import Parser
from ccpml.data_name import DataName, known_names
from ccpml.progress import announce


def run(arguments: list[str]) -> int:
    """Compare runs, print the comparison, and write the page if requested."""
    options = vars(parse(arguments))
    paths, data, output, as_json = (options.pop(name) for name in ("paths", "data", "output", "json"))
    _check_runs(paths)
    if data is not None:
        check_data_of_run(data, options["data_root"])
    elif any(options.values()):
        raise UsageError("--data-root, --allow-partial, --skip-bad-images: expected with --data, got none")
    if output is not None:
        check_output(output)

    announce_libraries()
    from ccpml.comparison.compare import compare_runs
    from ccpml.comparison.text import text_of

    comparison = compare_runs(paths, data, **(options if data is not None else {}))
    if output is not None:
        from ccpml.comparison.page import write_page

        announce("drawing the page")
        write_page(comparison, output)
    print(json.dumps(comparison.as_dict(), ensure_ascii=False) if as_json else text_of(comparison))
    if output is not None and not as_json:
        print(f"\npage  {output}")
    return 0


def _check_runs(paths: list[Path]) -> None:
    for path in paths:
        check_run(path)
    if len(paths) < 2:
        raise UsageError(f"runs: expected two or more, got {len(paths)}; add a run to compare with {paths[0]}")
    check_each_once("runs", paths)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = (
        "Compare runs on the same classes, which none of them has seen. The first run is the reference: each other one "
        "is compared with it, query by query."
    )
    parser = Parser(prog="ccpml compare", description=text)
    parser.add_argument(
        "paths", metavar="run", type=Path, nargs="+", help="run directories; the first is the reference"
    )
    parser.add_argument(
        "--data", metavar="<data>", help=f"{known_names()} (default: the test classes that the runs have in common)"
    )
    parser.add_argument(
        *("-o", "--output"), metavar="<page>", type=Path, help="also write a page with the queries won and lost (.html)"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_data_options(parser)
    check_single(arguments, {"--data": DataName.is_valid})
    options = parser.parse_intermixed_args(arguments)
    if options.output is not None and options.output.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"--output: expected a file that ends in .html, got {options.output}")
    return options

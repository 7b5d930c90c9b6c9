"""``ccpml index``: make a folder of pictures searchable, bring an index up to date, verify or compact it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ccpml.cli.options import Parser, UsageError, check_run, report_stop
from ccpml.data_name import known_names
from ccpml.progress import announce

if TYPE_CHECKING:
    from ccpml.serving import Index
    from ccpml.serving.collect import Pictures


def run(arguments: list[str]) -> int:
    """Build an index."""
    options = parse(arguments)
    path = check_run(options.path)
    if options.output.exists():
        raise UsageError(f"--output: {options.output} already exists; choose another name or remove it")

    announce("loading libraries")
    from ccpml.data.sources.source import count_ignored
    from ccpml.runs import load_run
    from ccpml.serving import Index
    from ccpml.serving.collect import find_pictures

    found = find_pictures(options.data, options.data_root)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    if found.ignored:
        print(f"{options.data}: ignored {', '.join(count_ignored(found.ignored))}", file=sys.stderr)
    with Index.create(options.output, load_run(path)) as index:
        try:
            return _add(index, found)
        except KeyboardInterrupt as stopped:
            return report_stop(stopped, ["index", *arguments], "what was added is kept; ")


def _add(index: "Index", found: "Pictures") -> int:
    from ccpml.data.images.read import first_lines
    from ccpml.progress import progress_bar

    with progress_bar(len(found), "image", "indexing") as bar:
        added = index.add(found, bar.update)
    if added.skipped:
        lines = [f"{error.name}: {error.reason}" for error in added.skipped]
        title = f"left out {len(lines):,} unreadable images:"
        print("\n".join([title, *first_lines(lines, None)]), file=sys.stderr)
    print(f"{index.path}: {len(index):,} pictures")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog="ccpml index", description="Make pictures searchable with a run.")
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    parser.add_argument("data", help=f"a folder, a CSV file, a pattern in quotes, {known_names()}")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the index, a new directory")
    parser.add_argument("--data-root", help="folder that contains cub, cars196, sop and inshop (default: $CCPML_DATA)")
    return parser.parse_intermixed_args(arguments)

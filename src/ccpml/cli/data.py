"""``ccpml data``: check a set of images, fetch a benchmark, or cache images small."""

import os
import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path

from ccpml.cli.options import UsageError, parser, require_data, require_root

_HELP = """usage: ccpml data check|fetch|cache <data> ... [--debug]

  check   is it whole? layout, counts, checksums of the index files, and every image decoded; lists all that is wrong
  fetch   download and unpack cub or sop, or say how to get cars196 or inshop
  cache   write the images once with a shorter side of 256 pixels, so that no epoch decodes large files

<data> is cub, cars196, sop or inshop (below --data-root or $CCPML_DATA), folder:<path> or csv:<file>.
Each can be stopped at any point, and goes on from there when it is called again.

  ccpml data <action> --help                  all options of an action
"""


def data(arguments: list[str]) -> int:
    """Check, fetch or cache images."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_HELP, end="")
        return 0 if arguments else 2
    actions = {"check": _check, "fetch": _fetch, "cache": _cache}
    if arguments[0] not in actions:
        raise UsageError(f"unknown action {arguments[0]!r}: expected one of {', '.join(actions)}")
    try:
        return actions[arguments[0]](arguments[1:])
    except KeyboardInterrupt:
        way_on = shlex.join(["ccpml", "data", *arguments])
        print(f"ccpml: stopped; what is done stays; go on with: {way_on}", file=sys.stderr)
        return 130


def _check(arguments: list[str]) -> int:
    command = _parser("check", "Check that a set of images is whole: exit code 0 if it is, 1 if not.")
    options = command.parse_args(arguments)
    require_data(options.data)
    require_root(options.data, options.data_root)

    from ccpml.data.upkeep.verify import verify_source

    found = verify_source(options.data, options.data_root)
    print(f"{options.data} in {found.folder}: {', '.join(found.contents)}")
    for name, digest in found.checksums.items():
        print(f"  {name}  sha256 {digest}")
    if not found.problems:
        print("all is as it should be: every image can be read" if not found.checksums else "whole, as published")
        return 0
    print(f"{len(found.problems):,} {'thing is' if len(found.problems) == 1 else 'things are'} wrong:")
    for problem in found.problems:
        print(f"  {problem}")
    return 1


def _fetch(arguments: list[str]) -> int:
    from ccpml.data_name import BENCHMARKS

    command = _parser("fetch", "Download and unpack a benchmark, where an official address exists.")
    options = command.parse_args(arguments)
    if options.data not in BENCHMARKS:
        raise UsageError(f"{options.data!r} is no benchmark: expected one of {', '.join(BENCHMARKS)}")
    root = options.data_root or os.environ.get("CCPML_DATA")
    if not root:
        raise UsageError("where to? Give --data-root, or set CCPML_DATA")

    from ccpml.data.upkeep.fetch import fetch_benchmark

    folder = fetch_benchmark(options.data, Path(root).expanduser())
    print(f"{folder}\nnext: ccpml data check {options.data} --data-root {root}")
    return 0


def _cache(arguments: list[str]) -> int:
    command = _parser("cache", "Write a set's images once, smaller, in one packed file; training then reads that.")
    command.add_argument("--side", type=int, default=256, help="shorter side of larger images (default: 256)")
    command.add_argument("--allow-partial", action="store_true", help="take a benchmark that is not whole")
    options = command.parse_args(arguments)
    require_data(options.data)
    require_root(options.data, options.data_root)
    if options.side < 1:
        raise UsageError(f"--side: expected 1 or more, got {options.side}")

    from ccpml.data import build_cache

    print(build_cache(options.data, options.data_root, options.allow_partial, options.side))
    return 0


def _parser(action: str, description: str) -> ArgumentParser:
    command = parser(f"data {action}", description)
    command.add_argument("data", help="cub, cars196, sop, inshop, folder:<path> or csv:<file>")
    command.add_argument("--data-root", help="where benchmarks lie (default: $CCPML_DATA)")
    return command

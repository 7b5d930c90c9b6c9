"""``ccpml data``: check images, download a benchmark, or cache images in a smaller size."""

import argparse
import shlex

from ccpml.artifacts import expand_home, not_found
from ccpml.cli.common.libraries import READING, announce_libraries
from ccpml.cli.common.options import UsageError, add_data_options, check_data_root, find_data_root, report_stop
from ccpml.cli.common.parser import Parser
from ccpml.data_name import BENCHMARKS, DataName, known_names


def run(arguments: list[str]) -> int:
    """Check, download or cache images."""
    options = parse(arguments)
    try:
        return {"check": _check, "fetch": _fetch, "cache": _cache}[options.action](options)
    except KeyboardInterrupt as stopped:
        return report_stop(stopped, ["data", *arguments], "finished work is kept; ")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = "Check images, download a benchmark, or cache images in a smaller size."
    parser = Parser(prog="ccpml data", description=text)
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|fetch|cache")
    check, fetch, cache = (
        actions.add_parser(name, prog=f"ccpml data {name}", help=text, description=f"{text[0].upper()}{text[1:]}.")
        for name, text in (
            ("check", "check layout, counts and checksums, and decode each image; the exit code is 0 if all is well"),
            ("fetch", "download and unpack cub or sop, or print how to get cars196 or inshop"),
            ("cache", "write all images once in a smaller size, in a packed file that training reads instead"),
        )
    )
    for action in (check, fetch, cache):
        action.add_argument("data", help=", ".join(BENCHMARKS) if action is fetch else known_names())
        add_data_options(action, "--data-root")
    cache.add_argument("--side", type=int, default=256, help="shorter side of larger images (default: 256)")
    add_data_options(cache, "--allow-partial")
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> int:
    check_data_root(options.data, options.data_root)

    announce_libraries(needed=READING)
    from ccpml.data.images.read import first_lines
    from ccpml.data.upkeep.verify import verify_source
    from ccpml.progress import printable

    found = verify_source(options.data, options.data_root)
    place = "" if found.folder is None else f" in {found.folder}"
    print(f"{options.data}{place}: {', '.join(found.contents)}")
    for name, digest in found.checksums.items():
        print(f"  {name}  sha256 {digest}")
    for phrase in found.ignored:
        print(f"  ignored: {printable(phrase)}")
    for phrase in found.notes:
        print(f"  note: {printable(phrase)}")
    if not found.problems:
        print("complete, as published" if found.checksums else "complete: every image can be read")
        return 0
    print(f"{len(found.problems):,} problem{'s' if len(found.problems) > 1 else ''}:")
    whole = [f"  {printable(problem)}" for problem in found.problems]
    print("\n".join(whole if found.listed_in is None else first_lines(found.problems, found.listed_in)))
    return 1


def _fetch(options: argparse.Namespace) -> int:
    if options.data not in BENCHMARKS:
        raise UsageError(f"data: expected one of {', '.join(BENCHMARKS)}, got {options.data}")
    root = find_data_root(options.data, options.data_root)
    if expand_home(root).exists() and not expand_home(root).is_dir():
        raise UsageError(f"{options.data}: {root}: {not_found(expand_home(root), 'folder')}; choose another folder")

    from ccpml.data.upkeep.fetch import fetch_benchmark

    folder = fetch_benchmark(options.data, expand_home(root))
    print(f"{folder}\nnext: {shlex.join(['ccpml', 'data', 'check', options.data, '--data-root', root])}")
    return 0


def _cache(options: argparse.Namespace) -> int:
    check_data_root(options.data, options.data_root)
    if options.side < 1:
        raise UsageError(f"--side: expected at least 1, got {options.side}")
    if DataName.parse(options.data).is_built_in:
        raise UsageError(f"{options.data}: comes with ccpml, so that there is nothing to cache; expected other data")

    announce_libraries(needed=READING)
    from ccpml.data import build_cache

    print(build_cache(options.data, options.data_root, options.allow_partial, options.side))
    return 0

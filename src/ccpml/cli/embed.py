"""``ccpml embed``: write a run's embeddings of some data."""

import argparse
from pathlib import Path

from ccpml.cli.common.options import Parser, UsageError, add_data_options, check_data, check_output, check_run
from ccpml.data_name import known_names
from ccpml.progress import announce


def run(arguments: list[str]) -> int:
    """Write a run's embeddings of some data."""
    options = parse(arguments)
    if options.output.suffix != ".npz":
        raise UsageError(f"--output: expected a file that ends in .npz, got {options.output}")
    check_output(options.output)
    check_run(options.path)
    check_data(options.data)

    announce("loading libraries")
    from ccpml.runs.inference import embed_run

    count = embed_run(**vars(options))
    print(f"{options.output}: {count:,} embeddings")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = "Write a run's embeddings of some data, with labels and paths, to an .npz file."
    parser = Parser(prog="ccpml embed", description=text)
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    parser.add_argument("data", help=known_names())
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .npz file")
    add_data_options(parser)
    return parser.parse_intermixed_args(arguments)

"""``ccpml embed``: write a model's embeddings of some data."""

import argparse
from pathlib import Path

from ccpml.cli.common.libraries import EMBEDDING, announce_libraries
from ccpml.cli.common.models import MODEL_HELP, check_model, is_exported
from ccpml.cli.common.options import UsageError, add_data_options, check_data_of_run, check_output
from ccpml.cli.common.parser import Parser
from ccpml.data_name import known_names
from ccpml.extras import require_extra


def run(arguments: list[str]) -> int:
    """Write a model's embeddings of some data."""
    options = parse(arguments)
    _check_format(options.output)
    check_output(options.output)
    check_model(options.path)
    check_data_of_run(options.data, options.data_root)

    announce_libraries(needed=EMBEDDING)
    if is_exported(options.path):
        from ccpml.exported.embed import embed_data as embed
    else:
        from ccpml.runs.inference import embed_run as embed

    count = embed(**vars(options))
    print(f"{options.output}: {count:,} embeddings")
    return 0


def _check_format(output: Path) -> None:
    if output.suffix not in {".npz", ".parquet"}:
        raise UsageError(f"--output: expected a file that ends in .npz or .parquet, got {output}")
    if output.suffix == ".parquet":
        require_extra(f"--output: {output}", ["pyarrow"], "parquet")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = "Write a model's embeddings of some data, with labels and paths, to an .npz or a Parquet file."
    parser = Parser(prog="ccpml embed", description=text)
    parser.add_argument("path", metavar="run", type=Path, help=MODEL_HELP)
    parser.add_argument("data", help=known_names())
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file, .npz or .parquet")
    add_data_options(parser)
    return parser.parse_intermixed_args(arguments)

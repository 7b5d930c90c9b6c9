"""``ccpml export``: write a run in a format that other software reads."""

import argparse
import re
from pathlib import Path

from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import UsageError, check_run
from ccpml.cli.common.parser import Parser
from ccpml.exporting.targets import FORMATS, check_target, default_target
from ccpml.progress import announce, print_note


def run(arguments: list[str]) -> int:
    """Export a run; print where to, and how far the exported model is from the run."""
    options = parse(arguments)
    _check(options)

    announce_libraries()
    from ccpml.exporting.export import export_run

    found = export_run(
        options.path, options.format, options.output, license_id=options.license, repository=options.push
    )
    for note in found.notes:
        print_note(note)
    print(f"{found.path}: differs from the run by {found.difference:.1e} at most, on {found.checked_on}")
    print(f"{found.card}: model card")
    if options.push:
        from ccpml.exporting.push import push

        announce(f"uploading to {options.push}")
        print(f"{push(found.path, options.push)}: uploaded; a new repository is private until you change it")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Check everything that can be checked before the run is loaded."""
    check_run(options.path)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", options.license):
        raise UsageError(f"--license: expected an identifier such as apache-2.0 or other, got {options.license!r}")
    if options.output is None:
        options.output = default_target(options.path, options.format)
    try:
        check_target(options.output, options.format)
    except FileExistsError as error:
        raise UsageError(f"{error}; choose another with --output, or remove it") from error
    except ValueError as error:
        raise UsageError(f"--{str(error).replace('target', 'output', 1)}") from error
    if options.push is None:
        return
    if options.format != "hub":
        raise UsageError(f"--push: expected --format hub, got {options.format}")
    from ccpml.exporting.push import check_repository

    try:
        check_repository(options.push)
    except ValueError as error:
        raise UsageError(f"--push: {error}") from error


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = (
        "Write a run in a format that other software reads, after checking on images of its test classes that it gives "
        "the same embeddings. A model card is written beside it."
    )
    parser = Parser(prog="ccpml export", description=text)
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    formats = (
        "onnx: runs without torch (needs the extra export of ccpml); pt2: a program of torch.export; safetensors: the "
        "weights; hub: a folder for the Hugging Face hub"
    )
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help=formats)
    parser.add_argument("-o", "--output", type=Path, help="where to write (default: <run>/export/<name of the run>)")
    parser.add_argument("--license", default="unknown", help="license of the model, such as mit (default: unknown)")
    push = "upload the folder to the Hugging Face hub (needs huggingface_hub, and a login); a new repository is private"
    parser.add_argument("--push", metavar="user/name", help=push)
    return parser.parse_intermixed_args(arguments)

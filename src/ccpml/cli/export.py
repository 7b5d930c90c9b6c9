"""``ccpml export``: write a run in a format that other software reads."""

import argparse
import sys
from pathlib import Path

from ccpml.cli.common.options import Parser, check_run
from ccpml.progress import announce


def run(arguments: list[str]) -> int:
    """Export a run and print where to, and how far it is from the run."""
    options = parse(arguments)
    check_run(options.path)

    announce("loading libraries")
    from ccpml.exporting import export_run

    found = export_run(options.path, options.format, options.output, license_id=options.license)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{found.path}: differs from the run by {found.difference:.1e} at most, on {found.checked_on}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog="ccpml export", description="Write a run in a format that other software reads.")
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    parser.add_argument("--format", required=True, choices=("onnx", "pt2"), help="format")
    parser.add_argument("-o", "--output", type=Path, help="target (default: <run>/export/<name of the run>.<format>)")
    parser.add_argument("--license", default="unknown", help="license of the model (default: unknown)")
    return parser.parse_intermixed_args(arguments)

"""``ccpml report``: write the report of a run again."""

import argparse
from pathlib import Path

from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import check_run
from ccpml.cli.common.parser import Parser
from ccpml.progress import announce


def run(arguments: list[str]) -> int:
    """Write the report of a run again and print its path; return 1 if a part of it is missing."""
    options = parse(arguments)
    check_run(options.run)

    announce_libraries()
    from ccpml.report import write_report
    from ccpml.runs.directory import RunDirectory

    announce("writing the report")
    problems = list[str]()
    print(write_report(RunDirectory.open(options.run), problems))
    return 1 if problems else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog="ccpml report", description="Write the report of a run again: report.html and its pictures.")
    parser.add_argument("run", type=Path, help="run directory")
    return parser.parse_args(arguments)

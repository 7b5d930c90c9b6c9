"""``ccpml clean``: copies, leaks, probable label errors, outliers and badly covered classes of some data."""

import argparse
from pathlib import Path

from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import UsageError, add_data_options, check_data_of_run, check_run
from ccpml.cli.common.parser import Parser
from ccpml.data_name import DataName, known_names
from ccpml.system_errors import is_writable


def run(arguments: list[str]) -> int:
    """Find problems of some data, write a page and two tables, and print a summary."""
    options = parse(arguments)
    check_run(options.path)
    for data in (options.data, options.pool):
        if data is not None:
            check_data_of_run(data, options.data_root)
    if options.output is None:
        options.output = Path(f"{options.path.resolve().name}-{DataName.parse(options.data).label}-cleaned")
    _check_new_folder(options.output)

    announce_libraries()
    from ccpml.cleaning.page import notes_of, size_of, summary_rows
    from ccpml.cleaning.run import clean_run
    from ccpml.progress import printable

    found = clean_run(**vars(options))
    print(f"{found.data}: {size_of(found)}")
    rows = summary_rows(found)
    width = max(len(title) for title, _, _ in rows)
    for title, groups, pictures in rows:
        print(f"  {title.ljust(width)}  {groups:>6}{f'  ({pictures} pictures)' if groups != pictures else ''}")
    for note in notes_of(found):
        print(f"note: {printable(note)}")
    kept = sum(not found.fate(row).startswith("left out") for row in range(found.count))
    print(f"\npage      {options.output / 'index.html'}")
    print(f"findings  {options.output / 'findings.csv'}")
    print(f"cleaned   {options.output / 'cleaned.csv'}: {kept:,} of {found.count:,} pictures")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = (
        "Find copies of pictures, copies in more than one split, probable label errors, outliers and badly covered "
        "classes, by the embeddings of a run. Writes a folder with index.html, findings.csv, and cleaned.csv, which "
        "ccpml train reads. No file of the data is changed."
    )
    parser = Parser(prog="ccpml clean", description=text)
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    parser.add_argument("data", help=f"{known_names()}; labels are not needed")
    parser.add_argument("-o", "--output", type=Path, help="new folder (default: <run>-<data>-cleaned)")
    parser.add_argument("--pool", metavar="<data>", help="pictures to choose from for badly covered classes")
    parser.add_argument(
        "--drop",
        choices=("exact", "same"),
        default="exact",
        help="copies that cleaned.csv leaves out: with the same bytes, or the same picture (default: exact)",
    )
    parser.add_argument(
        "--relabel", action="store_true", help="write suggested labels in place of probable errors into cleaned.csv"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.9, help="score above which a label is a probable error (default: 0.9)"
    )
    add_data_options(parser, "--data-root", "--allow-partial")
    options = parser.parse_intermixed_args(arguments)
    if not 0.5 <= options.min_score < 1:
        raise UsageError(f"--min-score: expected a number from 0.5 and below 1, got {options.min_score:g}")
    return options


def _check_new_folder(output: Path) -> None:
    """Check that a folder can be created, before the work is done."""
    if output.exists() or output.is_symlink():
        raise UsageError(f"--output: {output} already exists; choose another folder or remove it")
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    if not is_writable(parent):
        raise UsageError(f"--output: {parent} is not a writable folder")

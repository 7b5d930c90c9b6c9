"""The report of a finished run."""

from pathlib import Path

from ccpml.files import write_text
from ccpml.progress import print_note, progress_bar
from ccpml.report import page
from ccpml.report.contents import Report
from ccpml.report.sections import PICTURES, SECTIONS
from ccpml.report.style import style
from ccpml.runs.directory import RunDirectory
from ccpml.system_errors import check_writable

__all__ = ["write_report"]


def write_report(run: RunDirectory, problems: list[str] | None = None, *, keep: bool = False) -> Path:
    """Write ``report.html`` and its pictures (``pictures/*.png``) into the directory of a finished run.

    The page contains its pictures and loads nothing from elsewhere. An existing report is replaced, and its pictures
    that the new one does not have are removed. Images that no longer exist are drawn as placeholders.

    Args:
        run: A finished run.
        problems: If given, a sentence is added for each part that is left out, and for data that have changed. They
            stand at the end of the page, and are printed on standard error.
        keep: Whether to leave an existing report as it is if images are missing now, which it shows.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If the run is not finished.
        ValueError: If the settings of the run cannot be read.
        WriteError: If the directory of the run cannot be written; before anything is drawn, if it is read-only.
    """
    settings, scores = run.settings(), run.scores()
    check_writable(run.report_file)
    report = Report(run, settings, scores)
    with style(report.class_names):
        sections = progress_bar(len(SECTIONS), "section", over=SECTIONS, delay=3.0)
        body = [part for section in sections for part in section(report)]
    for problem in report.problems:
        print_note(problem)
    if problems is not None:
        problems += report.problems
    if keep and report.images.missing and run.report_file.is_file():
        kept = f"{run.report_file}: left as it was, with its images and without what is new"
        print_note(f"{kept}; `ccpml report` writes it again, without these images")
        return run.report_file
    folder = run.path / "pictures"
    for picture in report.pictures:
        picture.write(folder)
    write_text(run.report_file, page.document(f"{run.path.resolve().name}: report", body))
    for name in PICTURES - {picture.name for picture in report.pictures}:
        if (folder / name).is_file():
            (folder / name).unlink()
    return run.report_file

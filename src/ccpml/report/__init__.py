"""Pictures and pages about a run."""

from pathlib import Path

from ccpml.experiments.rundir import RunDirectory


def write_report(run: RunDirectory) -> Path:
    """Give the place of the report."""
    return run.report_file

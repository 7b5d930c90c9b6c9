"""Pictures and pages about a run."""

from ccpml.report.write import write_report

__all__ = ["write_report"]

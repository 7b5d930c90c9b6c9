"""Pictures and pages about a run."""
def write_report(run): return run.report_file

"""Hints that the command line appends to errors."""

HINTS = {
    "BenchmarkExistsError": "choose another --out, or pass the settings that it started with",
    "BenchmarkNotFoundError": "pass --data-root, or download it with `ccpml data fetch`",
    "CacheError": "`ccpml data cache` builds it again",
    "IncompleteBenchmarkError": "`ccpml data check` lists all differences, --allow-partial accepts them",
    "RunExistsError": "resume it with `ccpml train --resume <run>`, or choose another directory with --run",
    "SkippableImagesError": "--skip-bad-images leaves them out",
    "StudyExistsError": "choose another --out or --study",
    "UnfinishedRunError": "resume it with `ccpml train --resume <run>`",
}
"""Hints by the name of the error's class, so that no library is imported for them."""


def hint_for(error: BaseException) -> str:
    """Return the hint for an error as the end of its sentence; empty if there is none."""
    hints = (HINTS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in HINTS)
    return next((f"; {hint}" for hint in hints), "")

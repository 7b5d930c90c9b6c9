"""Print the test scores of runs on the same data below those of the untouched features of their backbone.

Usage: ``python tools/compare_runs.py runs/demo-plain runs/demo``, as ``make demo`` does.
"""

import sys
from collections.abc import Mapping
from typing import Any

from ccpml import load_run


def main() -> None:
    """Print the table."""
    runs = [load_run(path) for path in sys.argv[1:]]
    print(f"{'test classes':<24} {'dims':>6} {'MAP@R':>8} {'P@1':>8}")
    if features := runs[-1].scores.get("features"):
        print(_row("untouched features", features["dimensions"], features))
    for run in runs:
        print(_row(f"{run.settings.loss}, {run.settings.method}", run.settings.embedding_dim, run.scores["test"]))


def _row(name: str, dimensions: int, scores: Mapping[str, Any]) -> str:
    return f"{name:<24} {dimensions:>6,} {scores['map_at_r']:>8.4f} {scores['precision_at_1']:>8.4f}"


if __name__ == "__main__":
    main()

"""Shared by all benchmarks: the machine, peak memory, rows that run in separate processes, tables."""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def machine() -> str:
    """Describe the machine and the software of all rows."""
    import torch  # environments of other libraries may lack it

    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def versions(*names: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_mib() -> float:
    """Return the peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run_row(module: str, *options: str, python: Path | str = sys.executable) -> dict[str, Any] | str:
    """Run a row in a separate process; return the JSON of its last line, or the error message."""
    command = [str(python), "-m", module, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if result.returncode:
        return (result.stderr.strip().splitlines() or [f"exit {result.returncode}"])[-1]
    row: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return row


def print_table(columns: Sequence[str], rows: Mapping[str, Sequence[str] | str]) -> None:
    """Print a Markdown table; a row that is a string explains why it has no figures."""
    print("| " + " | ".join(["", *columns]) + " |\n|" + "---|" * (len(columns) + 1))
    for title, cells in rows.items():
        filled = [cells] + [""] * (len(columns) - 1) if isinstance(cells, str) else cells
        print("| " + " | ".join([title, *filled]) + " |", flush=True)

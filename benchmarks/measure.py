"""What all benchmarks share: the machine in words, peak memory, and rows that run in a process of their own."""

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

import torch

ROOT = Path(__file__).parents[1]


def machine() -> str:
    """Give the machine and what stands under all rows, in words."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def versions(*names: str) -> dict[str, str]:
    """Give the versions of those packages that are installed here."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_mib() -> float:
    """Give the process's peak of resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run_row(module: str, *options: str, python: Path | str = sys.executable) -> dict[str, Any] | str:
    """Run a row in a process of its own, by this Python or another: its last line as JSON, or why it failed."""
    command = [str(python), "-m", module, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if result.returncode:
        return (result.stderr.strip().splitlines() or [f"exit {result.returncode}"])[-1]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def print_table(columns: Sequence[str], rows: Mapping[str, Sequence[str] | str]) -> None:
    """Print a Markdown table; a row that is one string says why it has no figures."""
    print("| " + " | ".join(["", *columns]) + " |\n|" + "---|" * (len(columns) + 1))
    for title, cells in rows.items():
        filled = [cells] + [""] * (len(columns) - 1) if isinstance(cells, str) else cells
        print("| " + " | ".join([title, *filled]) + " |", flush=True)

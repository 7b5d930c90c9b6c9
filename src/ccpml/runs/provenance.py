"""Versions, commit and hardware behind a result."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ccpml

__all__ = ["provenance"]


def provenance(device: torch.device) -> dict[str, Any]:
    """Return versions, commit and hardware; equal for two runs of the same code on the same machine."""
    packages = {name: version(name) for name in ("torch", "lightning", "numpy", "pillow")}
    return {
        "versions": {"ccpml": ccpml.__version__, "python": platform.python_version(), **packages},
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
    }


def _commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` if modified; None for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

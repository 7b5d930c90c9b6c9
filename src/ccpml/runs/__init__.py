"""One experiment: settings, run directory, inference."""

from typing import Any

__all__ = ["Run", "Settings", "load_run", "train"]

_MODULES = {"Run": "inference", "Settings": "settings", "load_run": "inference"}


def __getattr__(name: str) -> Any:  # the command line reads the settings without torch
    if name not in _MODULES:
        raise AttributeError(f"module 'ccpml.runs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"ccpml.runs.{_MODULES[name]}"), name)

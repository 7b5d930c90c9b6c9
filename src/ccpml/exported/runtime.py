"""onnxruntime, imported such that it reports nothing to its makers."""

import os
from typing import Any

__all__ = ["import_onnxruntime"]


def import_onnxruntime() -> Any:
    """Import onnxruntime and return it; from 1.29, it would send reports of its use, unless the environment says no.

    ``ORT_DISABLE_TELEMETRY`` in the environment takes precedence. It has an effect only where onnxruntime has not been
    imported before.

    Raises:
        ImportError: If it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime

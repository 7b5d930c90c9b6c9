"""Packages of the extras, which the core never needs."""

from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["MissingExtraError", "install_advice", "require_extra"]


class MissingExtraError(ModuleNotFoundError):
    """A package of an extra is not installed."""


def require_extra(what: str, packages: Sequence[str], extra: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        what: What needs them, such as a verb or the value of a setting.
        packages: Names under which they are imported.
        extra: The extra of ccpml that installs them.

    Raises:
        MissingExtraError: If one is not installed; the message names what pip installs, and the extra.

    Example:
        >>> require_extra("calibrate", ["scipy"], "none")
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"{what}: needs {', '.join(missing)}, not installed; {install_advice(missing, extra)}")


def install_advice(packages: Sequence[str], extra: str) -> str:
    """Return how packages are installed, whether ccpml itself is from an index or a clone.

    Example:
        >>> install_advice(["fastapi", "python_multipart"], "serve")
        'pip install fastapi python-multipart (the extra serve of ccpml)'
    """
    names = " ".join(name.replace("_", "-") for name in packages)
    return f"pip install {names} (the extra {extra} of ccpml)"

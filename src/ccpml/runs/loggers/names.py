"""The loggers that a run can have. Imports no torch, so that the command line starts at once."""

from collections.abc import Sequence
from typing import Final

from ccpml.extras import require_extra
from ccpml.numbers import as_tuple

__all__ = ["LOGGERS", "check_installed", "logger_names"]

LOGGERS: Final = {
    "tensorboard": (),
    "csv": (),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
"""Names of the loggers, and the packages that each needs besides those of ccpml, from the extra of its name."""


def logger_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of some loggers, given as a list or separated by commas; none stands for no logger.

    Raises:
        ValueError: If a name is unknown or given twice.

    Example:
        >>> logger_names("tensorboard, wandb"), logger_names("none")
        (('tensorboard', 'wandb'), ())
    """
    known = f"none, or one or more of {', '.join(LOGGERS)}"
    expected = f"expected {known}"
    parts = value.split(",") if isinstance(value, str) else as_tuple("logger", value, known)
    names = [str(part).strip() for part in parts]
    if names == ["none"]:
        return ()
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"logger: {expected}, got {name!r}")
    twice = {name for name in names if names.count(name) > 1}
    if twice or not names:
        raise ValueError(f"logger: {expected}, got {f'{sorted(twice)[0]} twice' if twice else 'nothing'}")
    return tuple(names)


def check_installed(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        MissingExtraError: If one is not; the message names the extra.
    """
    for name in names:
        require_extra(f"logger {name}", LOGGERS[name], name)

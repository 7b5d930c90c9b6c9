"""Silence what libraries say to programmers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence advice of Lightning and news of Optuna, on none of which a user of the command line can act."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "optuna")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", "CCPCallback: ")  # a run says it in its notes
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

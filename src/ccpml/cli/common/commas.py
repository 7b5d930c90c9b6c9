"""Options that take several values separated by commas: spaces between them are named before parsing."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from ccpml.artifacts import expand_home
from ccpml.cli.common.options import UsageError
from ccpml.data_name import DataName

__all__ = ["check_commas", "is_free_text", "is_number"]


def check_commas(arguments: Sequence[str], options: Mapping[str, Callable[[str], bool]]) -> None:
    """Check that no option that takes values separated by commas is given some separated by spaces.

    Args:
        arguments: The command line.
        options: Such options, and whether a word can be one of their values, rather than the next argument.

    Raises:
        UsageError: If one is; it says what to write.
    """
    for at, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in options:
            continue
        first = at + 1 if equals else at + 2
        values = [value] if equals else list(arguments[at + 1 : first])
        words = [word.strip(",") for word in arguments[first:]]
        if more := list(takewhile(options[flag], words)):
            written = shlex.quote(",".join(each.strip(",") for each in [*values, *more]))
            raise UsageError(f"{flag}: expected values separated by commas, got spaces; write {flag} {written}")


def is_free_text(word: str) -> bool:
    """Whether a word can be a value of an option that takes any text: it is no option, no data and no path."""
    return not (word.startswith("-") or DataName.is_valid(word) or expand_home(word).exists())


def is_number(word: str) -> bool:
    """Whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True

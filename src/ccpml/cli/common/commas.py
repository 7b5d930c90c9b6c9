"""Options and the words after their values: several values are separated by commas, or the option is repeated."""

import shlex
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import takewhile

from ccpml.artifacts import expand_home
from ccpml.cli.common.options import UsageError
from ccpml.data_name import DataName

__all__ = ["check_commas", "check_single", "is_free_text", "is_number", "is_number_only"]


def check_commas(
    arguments: Sequence[str], options: Mapping[str, Callable[[str], bool]], repeatable: Container[str] = ()
) -> None:
    """Check that no option that takes values separated by commas is given some separated by spaces, or given twice.

    Args:
        arguments: The command line.
        options: Such options, and whether a word can be one of their values, rather than the next argument.
        repeatable: Those that may be given several times.

    Raises:
        UsageError: If one is; it says what to write.
    """
    given = dict[str, list[str]]()
    for flag, values, more in _values(arguments, options):
        if (before := given.setdefault(flag, [])) and flag not in repeatable:
            written = shlex.quote(",".join([*before, *values]))
            raise UsageError(f"{flag}: given twice; write {flag} {written}")
        before.extend(values)
        if more:
            written = shlex.quote(",".join(each.strip(",") for each in [*values, *more]))
            raise UsageError(f"{flag}: expected values separated by commas, got spaces; write {flag} {written}")


def check_single(
    arguments: Sequence[str], options: Mapping[str, Callable[[str], bool]], repeatable: Container[str] = ()
) -> None:
    """Check that no option that takes one value is given several, separated by spaces or commas.

    Args:
        arguments: The command line.
        options: Such options, and whether a word can be another value, rather than the next argument.
        repeatable: Those that may be given several times.

    Raises:
        UsageError: If one is; it says what to write.
    """
    for flag, values, more in _values(arguments, options):
        parts = [part for value in values for part in value.split(",") if part]
        if more or (len(parts) > 1 and all(map(options[flag], parts))):
            each = [*(parts if all(map(options[flag], parts)) else values), *more]
            again = f"; write {' '.join(f'{flag} {shlex.quote(value)}' for value in each)}"
            got = shlex.join([*values, *more])
            raise UsageError(f"{flag}: expected one value, got {got}{again if flag in repeatable else ''}")


def _values(
    arguments: Sequence[str], options: Mapping[str, Callable[[str], bool]]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each of the options that is given, its value, and the words after it that can be further values."""
    for at, argument in enumerate(takewhile(lambda word: word != "--", arguments)):
        flag, equals, value = argument.partition("=")
        if flag in options:
            first = at + 1 if equals else at + 2
            words = [word.strip(",") for word in takewhile(lambda word: not word.startswith("--"), arguments[first:])]
            yield flag, [value] if equals else list(arguments[at + 1 : first]), list(takewhile(options[flag], words))


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


def is_number_only(word: str) -> bool:
    """Whether a word is a number, and not a file of this name."""
    return is_number(word) and not expand_home(word).exists()

"""The parser of verbs without settings, and the sentences of parsing errors, which the other parser shares."""

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ccpml.cli.common.commas import check_single
from ccpml.cli.common.options import UsageError

__all__ = ["Parser", "check_extra", "parser_error"]


class Parser(argparse.ArgumentParser):
    """Parser of a verb that takes no settings of a run."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)
        self.words: list[str] = []

    def print_help(self, file: Any = None) -> None:
        """Print the help; unlike argparse's, it does not hide that the output cannot be written."""
        print(self.format_help(), end="", file=file)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what is known, as argparse; every way of parsing begins here, where all words are kept for errors."""
        self.words = self.words or list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise the usage error."""
        extra = message.partition("unrecognized arguments: ")[2]
        if extra and not extra.startswith("-"):
            check_extra(self.words, self._option_string_actions, extra.split())
            names = [str(each.metavar or each.dest) for each in self._actions if not each.option_strings]
            expected = " and ".join(names if self._subparsers is None else ["a command and its data"])
            raise UsageError(f"expected {expected}, got {extra} too; see {self.prog} --help")
        raise parser_error(message, self.prog, self._option_string_actions)


def check_extra(arguments: Sequence[str], actions: Mapping[str, argparse.Action], words: Sequence[str]) -> None:
    """Check that none of the words that no argument takes stands after an option that has its value.

    Args:
        arguments: The command line.
        actions: What each option does, by its flag.
        words: The words.

    Raises:
        UsageError: If one does; it names the option.
    """
    options = {flag: words.__contains__ for flag, action in actions.items() if action.nargs is None}
    check_single(arguments, options, [flag for flag in options if isinstance(actions[flag], argparse._AppendAction)])


def parser_error(message: str, prog: str, options: Iterable[str]) -> UsageError:
    """Return the error for a message of argparse; for an unknown option, it suggests the closest known one."""
    hint = f"; see {prog} --help"
    unknown = re.search(r"unrecognized arguments: --([\w.-]+)|Option '([\w.-]+)'", message)
    if unknown:
        flags = {option.lstrip("-").replace("_", "-"): option.replace("_", "-") for option in options}
        known = {name.rpartition(".")[2]: flag for name, flag in flags.items()} | flags
        close = difflib.get_close_matches((unknown[1] or unknown[2]).replace("_", "-"), known, n=1)
        hint = f"; did you mean {known[close[0]]}?" if close else hint
    return UsageError(f"{_plain(' '.join(message.split()))}{hint}")


def _plain(message: str) -> str:
    """Return a message of argparse in the words of the others: what was expected, and what was found.

    Example:
        >>> _plain("argument --id: invalid int value: 'abc'")
        "--id: expected an integer, got 'abc'"
        >>> _plain("argument --dtype: invalid choice: 'int4' (choose from 'int8', 'float16')")
        "--dtype: expected int8 or float16, got 'int4'"
    """
    if match := re.fullmatch(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message):
        *first, last = (word.strip("' ") for word in match[3].split(","))
        expected = f"{', '.join(first)} or {last}" if first else last
        return f"{'command' if '|' in match[1] else match[1]}: expected {expected}, got {match[2]}"
    if match := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"{match[1]}: expected {'values' if ',' in match[1] else 'a value'}, got none"
    kinds = {"int": "an integer", "float": "a number", "Path": "a path"}
    if match := re.fullmatch(r"argument (\S+): invalid (int|float|Path) value: (.*)", message):
        return f"{match[1]}: expected {kinds[match[2]]}, got {match[3]}"
    if match := re.fullmatch(r"argument (\S+): not allowed with argument (\S+)", message):
        return f"{match[1]}: expected it without {match[2]}, got both; leave out one"
    if match := re.fullmatch(r"argument (\S+): expected one argument", message):
        return f"{match[1]}: expected a value, got none"
    return message.removeprefix("argument ")

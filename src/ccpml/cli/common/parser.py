"""The parser of verbs without settings, and the sentences of parsing errors, which the other parser shares."""

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any, Final, NoReturn

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
        if not self.words:
            self.words = list(args)
            check_empty(self.words)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise the usage error."""
        extra = message.partition("unrecognized arguments: ")[2]
        if extra and not extra.startswith("-"):
            check_extra(self.words, self._option_string_actions, extra.split())
            names = [str(each.metavar or each.dest) for each in self._actions if not each.option_strings]
            expected = " and ".join(names if self._subparsers is None else ["a command and its data"])
            raise UsageError(f"expected {expected}, got {extra} too; see {self.prog} --help")
        if message.startswith("the following arguments are required"):  # perhaps as an option is misspelt
            given = (word.partition("=")[0] for word in takewhile(lambda word: word != "--", self.words))
            unknown = (word for word in given if word.startswith("--") and word not in self._option_string_actions)
            message = next((f"unrecognized arguments: {word}" for word in unknown), message)
        chosen = self._chosen()
        raise parser_error(message, chosen.prog, chosen._option_string_actions)

    def _chosen(self) -> argparse.ArgumentParser:
        """The parser of the command that is given, if there are several; otherwise this one."""
        choices = [each.choices for each in self._actions if isinstance(each, argparse._SubParsersAction)]
        return next((choices[0][word] for word in self.words if choices and word in choices[0]), self)


def check_empty(arguments: Sequence[str]) -> None:
    """Check that no argument is empty, which as a path would be the current folder.

    Raises:
        UsageError: If one is, as of a variable of the shell that is not set; it names the option.
    """
    for before, word in pairwise(["", *arguments]):
        if not word:
            flag = f"{before}: " if before.startswith("-") else "arguments: "
            raise UsageError(f"{flag}expected a value, got nothing")
        if word.startswith("--") and word.endswith("=") and word.count("=") == 1:
            raise UsageError(f"{word[:-1]}: expected a value, got nothing")


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
        name = (unknown[1] or unknown[2]).replace("_", "-")
        if flags.get(name) == f"--{name}":  # it has a longer name in files
            del flags[name]
        close = _similar(name.lower(), flags)
        hint = f"; did you mean {' or '.join(close)}?" if close else hint
    return UsageError(f"{_plain(' '.join(message.split()))}{hint}")


def _similar(name: str, flags: Mapping[str, str]) -> list[str]:
    """Return the flags that an unknown one may stand for, at most three; both are without dashes at their beginning.

    That is one that is spelled almost so, whose last words it has, that has this name elsewhere, or that has its words.

    Example:
        >>> flags = {name: f"--{name}" for name in ("lr", "workers", "embedding-dim", "image-size", "backbone")}
        >>> [_similar(name, flags) for name in ("worker", "num-workers", "dim", "arch", "batch-size")]
        [['--workers'], ['--workers'], ['--embedding-dim'], ['--backbone'], []]
    """
    known = {name.rpartition(".")[2]: flag for name, flag in flags.items()} | {**flags}
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
        return [known[close[0]]]
    words = re.split(r"[.-]", name)
    ends = ["-".join(words[start:]) for start in range(1, len(words))]
    if found := next((flags[end] for end in ends if end in flags), None):
        return [found]
    called = next((each for each in (*map("-".join, pairwise(words)), *words) if each in _ELSEWHERE), "")
    if other := [flags[flag] for flag in _ELSEWHERE.get(called, ()) if flag in flags]:
        return other
    having = [flag for option, flag in flags.items() if {*words} <= {*re.split(r"[.-]", option)}]
    return having if len(having) <= 3 else []


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
        if "|" in match[1]:
            return f"command: expected one of {match[1].replace('|', ', ')}, got none"
        return f"{match[1]}: expected {'values' if ',' in match[1] else 'a value'}, got none"
    message = re.sub(r"^argument (?:-\w/)?(--[\w.-]+)(?:/--[\w.-]+)+", r"argument \1", message)  # its other spellings
    for words, ours in _WORDS.items():
        if match := re.fullmatch(words, message):
            return match.expand(ours)
    return message.removeprefix("argument ")


_ELSEWHERE: Final[Mapping[str, tuple[str, ...]]] = {
    "batch-size": ("classes-per-batch", "samples-per-class"),
    "model": ("backbone",),
    "arch": ("backbone",),
    "learning-rate": ("lr",),
    "lr-decay": ("lr-schedule",),
    "scheduler": ("lr-schedule",),
    "gpus": ("ranks",),
    "pretrained": ("weights",),
    "output": ("run",),
}
"""Settings by their usual names in other programs that train, where no word is the same."""

_WORDS: Final = {
    r"argument (\S+): invalid int value: (.*)": r"\1: expected an integer, got \2",
    r"argument (\S+): invalid float value: (.*)": r"\1: expected a number, got \2",
    r"argument (\S+): invalid Path value: (.*)": r"\1: expected a path, got \2",
    r"argument (\S+): not allowed with argument (\S+)": r"\1: expected it without \2, got both; leave out one",
    r"argument (\S+): ignored explicit argument (.*)": r"\1: expected no value, got \2",
    r"argument (\S+/)?(\S+): expected one argument": (
        r"\1\2: expected a value, got none; one that begins with a dash is written \2=<value>"
    ),
    r"Option '(\S+)' is not accepted": r"\1: not a setting",
}
"""Messages of argparse and jsonargparse, and ours in their place."""

"""The parser of verbs that take the settings of a run, from a YAML file and from flags."""

import argparse
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from inspect import getdoc
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, NoReturn

import jsonargparse
import yaml

from ccpml.artifacts import artifact_kind, expand_home, not_found
from ccpml.backbones import WEIGHT_SUFFIXES, known_backbones
from ccpml.cli.common.commas import check_commas, is_free_text
from ccpml.cli.common.options import DataNotFoundError, UsageError, check_data_root
from ccpml.cli.common.parser import check_empty, check_extra, parser_error
from ccpml.data_name import DataName, known_names
from ccpml.files import load_yaml
from ccpml.losses import LOSSES, known_losses, parameter_names, without_effect
from ccpml.options import ProjectionOptions
from ccpml.progress import print_note
from ccpml.runs.loggers.names import LOGGERS, check_installed
from ccpml.runs.ranges import without_removed
from ccpml.runs.settings import Settings, setting_types
from ccpml.runs.values import read_value, value_options

_SECTIONS = {
    "data": ("data", "data_root", "allow_partial", "skip_bad_images", "test_classes", "folds", "fold"),
    "method and loss": (),  # and what is in no other section
    "network": (
        *("backbone", "embedding_dim", "head_start", "pooling", "weights", "freeze_batchnorm", "trained_stages"),
        *("channels", "image_size", "channels_last", "compile"),
    ),
    "training": (
        *("augment", "classes_per_batch", "samples_per_class", "lr", "lr_schedule", "head_lr_factor"),
        *(
            "weight_decay",
            "clip_norm",
            "epochs",
            "max_steps",
            "validate_every",
            "patience",
            "score_last",
            "seed",
            "logger",
        ),
    ),
    "machine": ("device", "ranks", "shard_proxies", "precision", "threads", "workers"),
}


_LISTS: dict[str, Callable[[str], bool]] = {
    "--test-classes": is_free_text,
    "--test_classes": is_free_text,
    "--logger": LOGGERS.__contains__,
}
"""Settings that are lists, separated by commas; and whether a word can be one of the values."""


class Parsed(NamedTuple):
    """A parsed command line: the verb's own options, and the settings of the run."""

    options: argparse.Namespace
    settings: Settings
    given: Mapping[str, Any]  # what the command line or its file gives, by flat name
    parameters: Mapping[str, float]  # of losses, if the verb has no option for the loss; they are not in the settings
    files: Mapping[str, str]  # the file of each setting that a file gives


class SettingsParser(jsonargparse.ArgumentParser):
    """Parser of a verb that takes the settings of a run. Values are kept as text until parsing ends."""

    def __init__(
        self, verb: str, description: str, usage: str, without: Collection[str] = (), left_open: Collection[str] = ()
    ) -> None:
        text = (
            f"{description}\n\nSettings without a default are chosen from data, machine, backbone and loss;"
            "\n--print-config shows them."
            "\nSettings in a YAML file have the same names, with underscores."
        )
        super().__init__(
            f"ccpml {verb}", usage, text, allow_abbrev=False, print_config=None, formatter_class=_HelpFormatter
        )
        self.without, self.left_open = without, left_open
        self.own: dict[str, tuple[Any, ...]] = {"print_config": (bool,)}
        self.lists: dict[str, Callable[[str], bool]] = {}
        self.repeatable = set[str]()
        self.data: list[str] = []
        self.words: list[str] = []
        self.of_files: dict[str, tuple[str, Any]] = {}  # the file that gives a setting, and the value there
        text = "YAML file of settings; data and flags beside it take precedence"
        self.add_argument("--config", action=_ConfigFile, metavar="FILE", help=text)
        self.add_argument("--print-config", "--print_config", action="store_true", help="print the settings and exit")
        self._add_settings()

    def _add_settings(self) -> None:
        sections = {title: self.add_argument_group(title) for title in _SECTIONS}
        texts, defaults, absent = _setting_help(), Settings().flat(), argparse.SUPPRESS
        sections["data"].add_argument("data", nargs="?", action=_Data, default=absent, help=texts["data"])
        sections["data"].add_argument("--data", action=_Data, default=absent, help=absent)
        for name in setting_types():
            if name != "data" and name not in self.without:
                section = next((title for title, names in _SECTIONS.items() if name in names), "method and loss")
                default = defaults.get(name)
                shown = str(default).lower() if isinstance(default, bool) else default
                text = texts[name] if default is None else f"{texts[name]} (default: {shown})"
                _add(sections[section], name, value_options(name), text, absent)

    def option(
        self,
        name: str,
        options: tuple[Any, ...],
        text: str,
        default: Any = None,
        is_item: Callable[[str], bool] | None = None,
        **arguments: Any,
    ) -> None:
        """Add an option of the verb's own: a name with underscores, and the types and single values that it takes.

        For an option that takes several values separated by commas, ``is_item`` returns whether a word can be one.
        """
        self.own[name] = options
        if is_item is not None:
            self.lists[f"--{name}"] = is_item
        if arguments.get("action") == "append":
            self.repeatable.add(f"--{name}")
        _add(self, name, options, text, default, **arguments)

    def add_data(self, namespace: Any, name: str) -> None:
        """Store the name of the data; it may be given once."""
        if option := self._as_option(name):
            flags = {*option.split()} & self._option_string_actions.keys()
            check_extra(self.words, {flag: self._option_string_actions[flag] for flag in flags}, [name])
            raise UsageError(f"{name}: expected data, got a setting; write {option}")
        self.data.append(name)
        if len(self.data) > 1:
            extra = [word for word in self.data if not DataName.is_valid(word)]
            check_extra(self.words, self._option_string_actions, extra)
            raise UsageError(f"data given twice: {' and '.join(self.data)}")
        namespace.data = name

    def _as_option(self, word: str) -> str:
        """Return how to write a word such as ``lr=0.1`` or ``lr=1e-4..1e-2`` as an option; empty for other words."""
        name, equals, value = word.partition("=")
        if not equals or DataName.is_valid(word) or name.replace("-", "_") not in self.own.keys() | setting_types():
            return ""
        varies = ".." in value or "," in value
        option = next((f"--{each} " for each in ("search", "ablation") if varies and each in self.own), "--")
        return shlex.quote(f"{option}{word}") if option == "--" else f"{option}{shlex.quote(word)}"

    def print_help(self, file: Any = None) -> None:
        """Print the help; unlike argparse's, it does not hide that the output cannot be written."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the usage error."""
        word = message.removeprefix("unrecognized arguments: ")
        if self.data and word != message and not word.startswith("-"):
            self.add_data(None, word)
        raise parser_error(message, self.prog, self._option_string_actions) from ex

    def parse(
        self, arguments: list[str], preset: Callable[[argparse.Namespace], Mapping[str, Any]] = lambda options: {}
    ) -> Parsed:
        """Parse a command line; ``preset`` returns, for the verb's own options, settings that hold unless given."""
        self.words = arguments
        check_empty(arguments)
        check_commas(arguments, {**_LISTS, **self.lists}, self.repeatable)
        values = {name: value for name, value in vars(self.parse_args(arguments).as_flat()).items() if name != "config"}
        of_losses, files = parameter_names(), self._files(values)
        try:
            own = {name: values.pop(name) for name in self.own}
            if empty := [name for name, value in own.items() if value == ""]:
                raise UsageError(f"--{empty[0].replace('_', '-')}: expected a value, got nothing")
            for name in values.keys() - setting_types().keys():  # such as projections, whose options are expected
                raise ValueError(f"{name}: expected a setting, got {values[name]!r}; see {self.prog} --help")
            own |= {name: read_value(name, own[name], self.own[name]) for name in own if own[name] is not None}
            unset = {name for name in values if name in of_losses and values[name] in (None, "null")}
            given = {name: read_value(name, value) for name, value in values.items() if name not in unset}
            apart = {name: given.pop(name) for name in of_losses if name in given and "loss" in self.without}
            options = argparse.Namespace(**own)
            settings = Settings().changed({**preset(options), **given})
        except ValueError as error:
            raise _with_file(error, str(error).partition(":")[0], files) from error
        parsed = Parsed(options, settings, given, apart, files)
        if options.print_config:
            self._show_config(parsed)
            raise SystemExit(0)
        return parsed

    def is_of_flag(self, name: str, value: Any) -> bool:
        """Whether the value of a setting comes from the command line itself, and not from a file."""
        is_setting = name in setting_types() or name in parameter_names()
        return is_setting and repr(self.of_files.get(name, ("", None))[1]) != repr(value)

    def _files(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the file of each setting whose value is from a file, and not from a flag."""
        same = {name for name, (_, value) in self.of_files.items() if repr(values.get(name)) == repr(value)}  # also NaN
        return {name: self.of_files[name][0] for name in same}

    def _show_config(self, parsed: Parsed) -> None:
        """Print the settings that training would use; those that differ between its runs are null unless given."""
        settings, parameters = parsed.settings, parsed.parameters
        note_default_data(parsed)
        check_settings(settings, parsed.files)

        from ccpml.runs.images import read_facts

        own, shown = settings.as_dict(), settings.resolved(read_facts(settings)).as_dict()
        if "loss" in self.without:
            shown = {name: value for name, value in shown.items() if name not in parameter_names()}
        shown |= {name: own[name] for name in self.left_open}
        shown = {name: value for name, value in shown.items() if name not in self.without}
        print(yaml.safe_dump({**shown, **parameters}, sort_keys=False, allow_unicode=True), end="")


def read_yaml(option: str, path: str) -> Any:
    """Read the YAML file that an option names; an empty one holds no settings."""
    file = expand_home(path)
    if file.is_dir():
        inside = file / "experiment.yaml"
        hint = f"; its settings are {inside}" if inside.is_file() else ""
        raise UsageError(f"{option} {path}: {not_found(file)}{hint}")
    try:
        return load_yaml(file) or {}
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{option} {path}: {error}") from error


def note_default_data(parsed: Parsed) -> None:
    """Note which data are taken if none are named: they may have been forgotten."""
    if "data" not in parsed.given:
        print_note(f"no data given: {parsed.settings.data} are taken, which are built in")


def note_without_effect(parsed: Parsed, rows: Collection[tuple[str, str]] = (), varied: Collection[str] = ()) -> None:
    """Note the flags that change nothing with the method and the loss; a file may list all settings.

    Args:
        parsed: The command line.
        rows: Method and loss of each row, if there are several.
        varied: Settings that each row or trial has a value of its own for.
    """
    settings, defaults, names = parsed.settings, Settings().flat(), dict[str, list[str]]()
    for name, value in parsed.given.items():
        where = [without_effect(name, *row) for row in rows or [(settings.method, settings.loss)]]
        where = ["as it varies"] if name in varied else where
        if all(where) and name not in parsed.files and value != defaults.get(name):
            names.setdefault(where[0] if len(set(where)) == 1 else "in all rows", []).append(name)
    for text, changed in names.items():
        print_note(f"{', '.join(changed)}: without effect {text}")


def check_settings(settings: Settings, files: Mapping[str, str], started: Path | None = None) -> None:
    """Check what settings name, before heavy imports and long work.

    Args:
        settings: The settings.
        files: The files that give some of them.
        started: The file that a study or benchmark of these settings has in its folder once it is started.
    """
    try:
        check_data_root(settings.data, settings.data_root)
    except UsageError as error:
        if isinstance(error, DataNotFoundError) and started is not None and started.is_file():
            way_out = f"to go on with {started.parent}, restore it, or make a link to it there if it has moved"
            error = UsageError(f"{error}; {way_out}")
        raise _with_file(error, "data_root" if str(error).startswith("--data-root") else "data", files) from error
    weights = settings.weights
    try:
        if weights not in {None, "none", "imagenet"}:
            file = expand_home(str(weights))
            if not file.is_file():
                got = f"{weights!r}, {kind}" if (kind := artifact_kind(file)) else f"{weights!r}; file not found"
                inside = file / "checkpoints" / "best.safetensors"
                hint = f"; its weights are {inside}" if inside.is_file() else ""
                raise ValueError(f"weights: expected a file, imagenet or none, got {got}{hint}")
            if file.suffix not in WEIGHT_SUFFIXES:
                raise ValueError(f"weights: expected a .safetensors, .pth or .pt file, got {file}")
        settings.resolved()
    except ValueError as error:
        raise _with_file(error, str(error).partition(":")[0], files) from error
    check_installed(settings.loggers())


def _with_file(error: Exception, name: str, files: Mapping[str, str]) -> UsageError:
    """Return an error about a setting, with the file that gives it, if there is one."""
    return UsageError(f"--config {files[name]}: {error}" if name in files else error)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that shows one spelling of an option, the one with dashes."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        text = super()._format_action_invocation(action)
        hidden = [option for option in action.option_strings if "_" in option]
        return ", ".join(part for part in text.split(", ") if part.split(" ")[0] not in hidden)


class _Data(argparse.Action):
    """The name of the data: the first word, or a flag."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        parser.add_data(namespace, values)


class _Switch(argparse.Action):
    """A flag with or without a value; a name of data after it is the data: ``--skip-bad-images folder:photos``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if isinstance(values, str) and DataName.is_valid(values):
            parser.add_data(namespace, values)
            values = True
        namespace[self.dest] = values


class _ConfigFile(argparse.Action):
    """A YAML file of settings; an error names the file."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        content = read_yaml("--config", values)
        try:
            if not isinstance(content, dict) or "config" in content:
                raise UsageError("expected settings by name, and no other file")
            if others := [name for name in content if not isinstance(name, str)]:
                raise UsageError(f"expected names of settings, got {others[0]!r}")
            if _is_deeper(content, 4):
                raise UsageError("expected plain settings, got lists or mappings within each other")
            if not content:
                print_note(f"--config {values}: sets nothing")
            found = parser.parse_object(without_removed(content), defaults=False)
            before = vars(namespace.as_flat())
            of_flags = {name: value for name, value in before.items() if parser.is_of_flag(name, value)}
            parser.of_files |= {name: (values, value) for name, value in vars(found.as_flat()).items()}
            namespace.update(found)
            for name, value in of_flags.items():
                namespace[name] = value
        except (UsageError, ValueError) as error:
            raise UsageError(f"--config {values}: {error}") from error


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and mappings are within each other on more than some levels, as those that contain themselves."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(part, levels - 1) for part in parts)


def _add(to: Any, name: str, options: tuple[Any, ...], text: str, default: Any, **arguments: Any) -> None:
    """Add an option, spelled with dashes or with underscores; that of the warm start also without its prefix."""
    flags = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
    flags |= {"--warm-start": None} if name == "projections.warm_start" else {}
    if bool in options:
        arguments |= {"action": _Switch, "nargs": "?", "const": True}
    words = {int: "INT", float: "FLOAT", str: "TEXT", bool: "true|false", NoneType: "", list[str]: ""}
    arguments.setdefault("metavar", "|".join(filter(None, (words.get(each, str(each)) for each in options))))
    to.add_argument(*flags, default=default, help=text.replace("%", "%%"), **arguments)


def _setting_help() -> dict[str, str]:
    """Return the help text of each setting, by its flat name."""
    projections = {f"projections.{name}": text for name, text in _argument_texts(ProjectionOptions).items()}
    texts = _argument_texts(Settings) | projections
    texts["data"] += f" Known: {known_names()}."
    texts["loss"] += f" Known: {known_losses()}."
    texts["backbone"] += f" Known: {known_backbones()}."
    for name, losses in parameter_names().items():
        described = dict.fromkeys(LOSSES[loss].parameters[name].description for loss in losses)
        texts[name] = f"{'; '.join(described)} ({', '.join(losses)})"
    return texts


def _argument_texts(kind: type) -> dict[str, str]:
    """Return the texts of the section Args of a docstring, by argument."""
    section = (getdoc(kind) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    return {name: " ".join(text.split()) for name, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.M)}

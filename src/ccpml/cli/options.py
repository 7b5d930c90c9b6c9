"""What the verbs share: parsers whose errors are sentences, and checks before work begins."""

import argparse
import os
import re
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccpml.data_name import DataName

if TYPE_CHECKING:
    from ccpml.runs.settings import Settings

__all__ = [
    "UsageError",
    "check_settings",
    "parse_settings",
    "parser",
    "require_data",
    "require_free",
    "require_root",
    "require_run",
    "settings_parser",
]


class UsageError(Exception):
    """The command line is wrong: exit code 2."""


class _Parser(argparse.ArgumentParser):
    """Argparse whose errors are ours."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of a verb that takes no settings."""
    return _Parser(prog=f"ccpml {verb}", description=description)


def settings_parser(verb: str, description: str, usage: str) -> Any:
    """Make the parser of a verb that takes the settings of `Settings`, from a file and from flags."""
    import jsonargparse

    from ccpml.losses import LOSSES, parameter_names
    from ccpml.runs.settings import Settings

    command = jsonargparse.ArgumentParser(prog=f"ccpml {verb}", description=description, exit_on_error=False)
    command.usage = f"{usage}; <data> is short for --data <data>"
    command.add_argument("--config", action="config", help="YAML file of the options below; flags after it win")
    command.add_class_arguments(Settings, skip={"loss_parameters"})
    for name, losses in parameter_names().items():
        described = dict.fromkeys(LOSSES[loss].parameters[name].description for loss in losses)
        kind = int if LOSSES[losses[0]].parameters[name].whole else float
        command.add_argument(f"--{name}", type=kind | None, help=f"{'; '.join(described)} ({', '.join(losses)})")
    return command


def parse_settings(command: Any, arguments: list[str], apart: Collection[str] = ()) -> tuple[Any, "Settings"]:
    """Parse the command line of a verb that takes the settings of `Settings`.

    Args:
        command: From `settings_parser`, with the verb's own options added.
        arguments: What follows the verb.
        apart: Settings that the settings shall not have, as the verb takes them from what was parsed.

    Returns:
        What was parsed, and the settings.
    """
    import jsonargparse

    from ccpml.losses import parameter_names
    from ccpml.runs.settings import Settings

    try:
        parsed = command.parse_args(_normalized(arguments, Settings))
        known = [field.name for field in fields(Settings) if field.name != "loss_parameters"]
        given = {name: value for name, value in parsed.as_dict().items() if name in [*known, *parameter_names()]}
        return parsed, Settings.from_dict({name: value for name, value in given.items() if name not in apart})
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise UsageError(f"{_plain(str(error), Settings)}; see {command.prog} --help") from error


def _plain(message: str, settings: type) -> str:
    """Say what jsonargparse says of a value that does not fit its type in our own words."""
    found = re.search(r'Parser key "(\w+)"', message)
    types = {field.name: str(field.type).replace("typing.", "") for field in fields(settings)}
    own = re.search(r"Expected an? (<class '\w+'>)", message)
    if found is None or not (found[1] in types or own):
        return message
    expected = re.sub(r"<class '(\w+)'>", r"\1", types.get(found[1]) or (own[1] if own else ""))
    expected = re.sub(r"^Optional\[(.*)\]$", r"\1 or null", expected).replace(" | None", " or null")
    return f"--{found[1]}: expected {expected}, got something else"


def _normalized(arguments: list[str], settings: type) -> list[str]:
    """Let options be written with dashes, switches without a value, and the data without their flag."""
    switches = {f"--{field.name}" for field in fields(settings) if field.type is bool}
    result: list[str] = []
    data: list[str] = []
    left = list(arguments)
    while left:
        flag, equals, value = left.pop(0).partition("=")
        if not flag.startswith("-"):
            data.append(flag + equals + value)
            continue
        flag = flag[:2] + flag[2:].replace("-", "_")
        if not equals and flag in switches:
            value = left.pop(0) if left[:1] in (["true"], ["false"]) else "true"
        elif not equals and flag not in {"-h", "--help", "--print_config"} and left:
            value = left.pop(0)
        elif not equals:
            result.append(flag)
            continue
        if flag == "--config" and not Path(value).is_file():
            raise UsageError(f"--config: there is no file {value}")
        if flag == "--data":
            data.append(value)
        else:
            result.append(f"{flag}={value}")
    if len(data) > 1:
        raise UsageError(f"the data are named twice: {' and '.join(data)}")
    return result + [f"--data={name}" for name in data]


def require_data(data: str) -> None:
    """Check that data are named as they should be, and are there."""
    try:
        name = DataName.parse(data)
    except ValueError as error:
        raise UsageError(error) from error
    if name.path and not Path(name.path).expanduser().exists():
        raise UsageError(f"{data}: {'folder' if name.kind == 'folder' else 'file'} not found")


def require_root(data: str, data_root: str | None) -> None:
    """Check that it is said where a benchmark lies, and that this is a folder."""
    if not DataName.parse(data).is_benchmark:
        return
    root = data_root or os.environ.get("CCPML_DATA")
    if not root:
        raise UsageError(f"{data}: where is it? Give --data-root, or set CCPML_DATA to the folder that holds it")
    if not Path(root).expanduser().is_dir():
        raise UsageError(f"{'--data-root' if data_root else 'CCPML_DATA'}: there is no folder {root}")


def check_settings(settings: "Settings") -> None:
    """Check what an settings names before heavy imports and long work."""
    require_data(settings.data)
    require_root(settings.data, settings.data_root)
    weights = settings.weights
    if weights not in {None, "none", "imagenet"} and not Path(str(weights)).expanduser().is_file():
        raise UsageError(f"weights: there is no file {weights}; expected a file, imagenet or none")
    try:
        settings.resolved()
    except ValueError as error:
        raise UsageError(error) from error


def require_free(output: Path) -> None:
    """Check that a file can be written, and would overwrite none, before the work is done."""
    if output.exists():
        raise UsageError(f"--output: {output} is there already; choose another name or remove it")
    if output.parent.exists() and not (output.parent.is_dir() and os.access(output.parent, os.W_OK)):
        raise UsageError(f"--output: {output.parent} is no folder that can be written to")


def require_run(path: Path) -> Path:
    """Check that there is a run, and give its path."""
    if not (path / "experiment.yaml").is_file():
        raise UsageError(f"{path}: no run is there (no experiment.yaml)")
    return path

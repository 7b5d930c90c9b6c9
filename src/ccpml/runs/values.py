"""Values of single settings: which a setting takes, how they are read, and how two sets of them differ."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from ccpml.artifacts import expand_home
from ccpml.data_name import DataName
from ccpml.runs.ranges import REMOVED, in_words, type_options
from ccpml.runs.settings import setting_types

__all__ = ["INCIDENTAL", "differences", "is_numeric", "portable", "read_value", "read_values", "value_options"]

INCIDENTAL = frozenset({"device", "threads", "workers", "data_root", "logger"})
"""Settings that decide where and how fast a run is trained, and what shows its course, not what it is."""


def value_options(name: str) -> tuple[Any, ...]:
    """Return the types and the single values that a setting takes, by its name in `setting_types`.

    Example:
        >>> value_options("lr"), value_options("channels")
        ((<class 'float'>, <class 'NoneType'>), (1, 3, 'auto'))
    """
    return tuple(type_options(setting_types()[name]))


def is_numeric(name: str) -> bool:
    """Whether a setting takes numbers.

    Example:
        >>> is_numeric("lr"), is_numeric("channels"), is_numeric("loss")
        (True, True, False)
    """
    return any(option in {int, float} or type(option) in {int, float} for option in value_options(name))


def read_value(name: str, value: Any, options: Sequence[Any] | None = None) -> Any:
    """Return the value of a setting in its own type.

    Args:
        name: Name of the setting, as in `setting_types`.
        value: Text as on the command line, or a value from a YAML file.
        options: The types and the single values to choose from; by default those of the setting.

    Raises:
        ValueError: If the setting does not take the value.

    Example:
        >>> read_value("lr", "1e-4"), read_value("proxies_per_class", "null"), read_value("channels", "auto")
        (0.0001, None, 'auto')
    """
    options, is_text = options or value_options(name), isinstance(value, str)
    plain = _parse(value) if is_text and value.strip() else value
    if is_text and type(plain) is int:  # 017 and 1:30 are other numbers to YAML than to people
        plain = int(value) if re.fullmatch(r"[+-]?[0-9]+", value.strip()) else value
    for option in options:
        if type(plain) is type(option) and plain == option:
            return plain
    if type(plain) in options and type(plain) in {bool, int, NoneType}:
        return plain
    if float in options and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if list[str] in options and isinstance(plain, list):
        return plain
    if str in options and is_text:
        return value
    raise ValueError(f"{name}: expected {in_words(options)}, got {value!r}")


def read_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as `Settings.as_dict` gives them, each in its own type; names that are none are kept.

    Raises:
        ValueError: If a setting does not take its value.

    Example:
        >>> read_values({"lr": "1e-4", "projections": {"patience": 3}})
        {'lr': 0.0001, 'projections': {'patience': 3}}
    """
    types, own = setting_types(), dict[str, Any]()
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat = read_values({f"{name}.{option}": each for option, each in value.items()})
            own[name] = {each.removeprefix(f"{name}."): flat[each] for each in flat}
        else:
            own[name] = read_value(name, value) if name in types else value
    return own


def _parse(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError):  # ValueError: a number of thousands of digits
        return text


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with paths reduced to their last part, as they differ between machines and folders.

    Example:
        >>> portable({"data": "folder:/data/photos/", "weights": "imagenet", "lr": 0.1})
        {'data': 'folder:photos', 'weights': 'imagenet', 'lr': 0.1}
    """
    return {name: _last_part(name, value) for name, value in settings.items()}


def _last_part(name: str, value: Any) -> Any:
    if name == "data" and DataName.is_valid(value):
        data = DataName.parse(value).resolved()
        return str(DataName(data.kind, Path(data.path).name))
    if name == "weights" and isinstance(value, str) and value not in {"none", "imagenet"}:
        return expand_home(value).name
    return value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each setting that differs, except for incidental ones, and removed ones without effect.

    Example:
        >>> differences({"lr": 0.1, "device": "cpu"}, {"lr": 0.2, "device": "cuda"})
        ['lr: was 0.1, is 0.2']
    """
    found = []
    for name in [name for name in {**before, **after} if name not in INCIDENTAL]:
        was, now = (REMOVED.get(name) if (value := each.get(name)) is None else value for each in (before, after))
        if was != now:
            found.append(f"{name}: was {was}, is {now}")
    return found

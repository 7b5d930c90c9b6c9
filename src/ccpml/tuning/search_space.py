"""Which settings a search varies, and over which values. Imports no Optuna."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin

from ccpml.losses import LOSSES, parameter_names
from ccpml.options import ProjectionOptions
from ccpml.runs.presets import read_preset
from ccpml.runs.settings import Settings, setting_types

__all__ = [
    "SEARCHES",
    "Choices",
    "Field",
    "Range",
    "check_effect",
    "numeric_fields",
    "parse_field",
    "search_space",
    "with_values",
]

SEARCHES = tuple(read_preset("searches"))
"""Names of the presets."""

_OF_METHOD = {
    "ccp": (
        *("proxies_per_class", "pool_size", "pair_weight", "proxy_weight"),
        "pool_transform",
        *(f"projections.{option.name}" for option in fields(ProjectionOptions)),
    ),
    "xbm": ("memory_batches", "memory_start"),
}


@dataclass(frozen=True)
class Range:
    """All numbers between two.

    Attributes:
        name: The field of `Settings`.
        low: The least.
        high: The greatest.
        log: Whether they are searched by their logarithm.
    """

    name: str
    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int)

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.name}={self.low}..{self.high}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """Some numbers.

    Attributes:
        name: The field of `Settings`.
        values: The numbers.
    """

    name: str
    values: tuple[float, ...]

    @property
    def extremes(self) -> tuple[float, ...]:
        """The values themselves: each is checked."""
        return self.values

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.values))}"


Field = Range | Choices


def numeric_fields() -> dict[str, tuple[type, tuple[int, ...]]]:
    """Give the numeric fields of `Settings`: their type, and the only values that they take if there are few.

    Example:
        >>> fields = numeric_fields()
        >>> fields["lr"], fields["channels"], "rewind" in fields
        ((<class 'float'>, ()), (<class 'int'>, (1, 3)), False)
    """
    found: dict[str, tuple[type, tuple[int, ...]]] = {}
    for name, hint in setting_types().items():
        members = get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)
        for member in members:
            only = get_args(member) if get_origin(member) is Literal else ()
            only = tuple(value for value in only if type(value) is int)
            if member in {int, float}:
                found[name] = member, ()
            elif only:
                found[name] = int, only
    return found


def parse_field(text: str) -> Field:
    """Read one field of a search.

    Args:
        text: ``name=low..high``, ``name=low..high:log``, or ``name=value,value,...``.

    Raises:
        ValueError: If it is something else, or no numeric field of `Settings`.

    Example:
        >>> parse_field("projections.strength=1e-6..0.1:log"), parse_field("proxies_per_class=1..16").whole
        (Range(name='projections.strength', low=1e-06, high=0.1, log=True), True)
        >>> parse_field("lr=1e-5,1e-4")
        Choices(name='lr', values=(1e-05, 0.0001))
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_")
    known = numeric_fields()
    if name not in known:
        what = "is no number" if name in setting_types() else "is no setting"
        raise ValueError(f"search: {name!r} {what}; there are {', '.join(known)}")
    kind, only = known[name]
    if not equals or not values:
        raise ValueError(f"search {name}: expected {name}=low..high, {name}=low..high:log or {name}=value,value")
    field = _choices(name, kind, values) if ".." not in values else _range(name, kind, values)
    if only and (isinstance(field, Range) or not set(field.values) <= set(only)):
        raise ValueError(f"search {name}: it takes single values only: {name}={','.join(map(str, only))}")
    return field


def _range(name: str, kind: type, text: str) -> Range:
    span, colon, scale = text.partition(":")
    if colon and scale.strip() != "log":
        raise ValueError(f"search {name}: expected :log or nothing after the range, got :{scale}")
    low, _, high = span.partition("..")
    field = Range(name, _number(name, kind, low), _number(name, kind, high), bool(colon))
    if field.low >= field.high:
        raise ValueError(f"search {name}: expected a range from less to more, got {span}")
    if field.log and field.low <= 0:
        raise ValueError(f"search {name}: a logarithmic range starts above 0, got {low.strip()}")
    return field


def _choices(name: str, kind: type, text: str) -> Choices:
    if ":" in text:
        raise ValueError(f"search {name}: :log is for ranges; these are single values: {text}")
    values = tuple(_number(name, kind, part) for part in text.split(","))
    if len(set(values)) < 2 or len(set(values)) < len(values):
        raise ValueError(f"search {name}: expected a range or two different values or more, got {text}")
    return Choices(name, values)


def _number(name: str, kind: type, text: str) -> float:
    try:
        value: float = kind(text.strip())
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"search {name}: expected {wanted}, got {text.strip() or 'nothing'}") from None
    if not math.isfinite(value):
        raise ValueError(f"search {name}: expected finite numbers, got {text.strip()}")
    return value


def search_space(base: Settings, texts: Sequence[str], preset: str | None = None) -> tuple[Field, ...]:
    """Read a search and check it against the experiment that it varies.

    Args:
        base: The experiment.
        texts: The fields, as `parse_field` takes them.
        preset: One of `SEARCHES`, whose fields come first; a field in ``texts`` replaces its own.

    Raises:
        ValueError: If a field cannot be read, is there twice, has no effect, or has values that the experiment refuses.
    """
    fields: dict[str, Field] = {}
    for text in texts:
        field = parse_field(text)
        if field.name in fields:
            raise ValueError(f"search {field.name}: it is there twice")
        fields[field.name] = field
    if preset is not None:
        if preset not in SEARCHES:
            raise ValueError(f"preset: there is no {preset!r}, there is {', '.join(SEARCHES)}")
        fields = {field.name: field for field in map(parse_field, read_preset("searches")[preset]["search"])} | fields
    if not fields:
        raise ValueError(
            "search: nothing to search; give --search projections.strength=1e-6..1e-1:log or --preset lambda-proxies"
        )
    space = tuple(fields.values())
    for field in space:
        try:
            check_effect(base, field.name)
        except ValueError as error:
            raise ValueError(f"search {error}") from error
        for value in field.extremes:
            _check_value(base, space, field, value)
    return space


def check_effect(base: Settings, name: str) -> None:
    """Check that an experiment depends on a setting.

    Args:
        base: The experiment.
        name: The setting.

    Raises:
        ValueError: If it does not.

    Example:
        >>> check_effect(Settings(method="plain"), "projections.strength")
        Traceback (most recent call last):
            ...
        ValueError: projections.strength: it has no effect with method plain, only with ccp
    """
    for method, names in _OF_METHOD.items():
        if name in names and base.method != method:
            raise ValueError(f"{name}: it has no effect with method {base.method}, only with {method}")
    losses = parameter_names().get(name, [])
    if losses and base.loss not in losses:
        raise ValueError(f"{name}: it has no effect on {base.loss}, only on {', '.join(losses)}")
    if name == "proxy_lr_factor" and base.method != "ccp" and not LOSSES[base.loss].has_proxies:
        raise ValueError(f"{name}: {base.loss} with method {base.method} has no proxies")


def _check_value(base: Settings, space: Sequence[Field], field: Field, value: float) -> None:
    """Check that the experiment takes a value with all others at their least, or at their greatest."""
    for choose in (min, max):
        values = {other.name: choose(other.extremes) for other in space} | {field.name: value}
        try:
            with_values(base, values).resolved()
            return
        except ValueError as error:
            refused = error
    raise ValueError(f"search {field.name}: {refused}")


def with_values(base: Settings, values: Mapping[str, Any]) -> Settings:
    """Give the experiment of a trial.

    More proxies than the pool has points want a larger pool: where the pool's size was left open, it grows with them.

    Args:
        base: What is searched around.
        values: By field.

    Raises:
        ValueError: If the values do not go together.

    Example:
        >>> with_values(Settings(), {"proxies_per_class": 16}).pool_size
        16
    """
    changes = dict(values)
    if "proxies_per_class" in values and "pool_size" not in values and base.pool_size is None:
        changes["pool_size"] = max(values["proxies_per_class"], base.resolved().pool_size)
    return base.changed(changes)

"""Search spaces: the settings that a search varies, and their values. Imports no Optuna."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ccpml.losses import without_effect
from ccpml.presets import read_preset
from ccpml.runs.settings import Settings, setting_types
from ccpml.runs.values import is_numeric, read_value, value_options

__all__ = [
    "SEARCHES",
    "Choices",
    "Field",
    "Range",
    "check_effect",
    "parse_field",
    "search_space",
    "with_pool_size",
    "with_values",
]

SEARCHES = tuple(read_preset("searches"))
"""Names of the presets."""


@dataclass(frozen=True)
class Range:
    """All numbers between two bounds, integers if both bounds are; ``log`` samples the logarithm uniformly."""

    name: str
    low: float
    high: float
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int)

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.name}={self.low}..{self.high}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """A list of numbers."""

    name: str
    values: tuple[float, ...]

    @property
    def extremes(self) -> tuple[float, ...]:
        """All values, since each of them is checked."""
        return self.values

    def __str__(self) -> str:
        return f"{self.name}={','.join(map(str, self.values))}"


Field = Range | Choices


def search_space(base: Settings, texts: Sequence[str], preset: str | None = None) -> tuple[Field, ...]:
    """Parse a search space and check it against the settings that it varies.

    Args:
        base: Settings shared by all trials.
        texts: The fields, as for `parse_field`.
        preset: One of `SEARCHES`, whose fields come first; a field in ``texts`` replaces its own.

    Raises:
        ValueError: If a field cannot be parsed, is given twice, has no effect, or has values that are out of range.
    """
    given: dict[str, Field] = {}
    for field in map(parse_field, texts):
        if field.name in given:
            raise ValueError(f"search {field.name}: given twice")
        given[field.name] = field
    if preset is not None and preset not in SEARCHES:
        raise ValueError(f"preset: expected one of {', '.join(SEARCHES)}, got {preset!r}")
    defaults = [] if preset is None else read_preset("searches")[preset]["search"]
    space = tuple(({field.name: field for field in map(parse_field, defaults)} | given).values())
    if not space:
        raise ValueError(f"search: expected a preset ({', '.join(SEARCHES)}) or settings such as lr=1e-5..1e-3:log")
    for field in space:
        try:
            check_effect(base, field.name)
            for value in field.extremes:
                _check_value(base, space, field, value)
        except ValueError as error:
            raise ValueError(f"search {field.name}: {str(error).removeprefix(f'{field.name}: ')}") from error
    return space


def parse_field(text: str) -> Field:
    """Parse one field of a search space.

    Args:
        text: ``name=low..high``, ``name=low..high:log``, or ``name=value,value,...``.

    Example:
        >>> parse_field("projections.strength=1e-6..0.1:log"), parse_field("proxies_per_class=1..16").is_integer
        (Range(name='projections.strength', low=1e-06, high=0.1, log=True), True)
        >>> parse_field("lr=1e-5,1e-4")
        Choices(name='lr', values=(1e-05, 0.0001))
    """
    name, _, values = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_")
    if name not in setting_types() or not is_numeric(name):
        known = ", ".join(filter(is_numeric, setting_types()))
        raise ValueError(f"search {name}: expected a numeric setting, got {name!r}; numeric settings are {known}")
    if not values:
        raise ValueError(f"search {name}: expected {name}=low..high, {name}=low..high:log or {name}=value,value")
    return _parse_range(name, values) if ".." in values else _parse_choices(name, values)


def _parse_range(name: str, text: str) -> Range:
    bounds, colon, scale = text.partition(":")
    if colon and scale.strip() != "log":
        raise ValueError(f"search {name}: expected :log or nothing after the range, got :{scale}")
    if not {int, float} & set(value_options(name)):
        raise ValueError(f"search {name}: expected single values, got the range {text}")
    low, _, high = bounds.partition("..")
    field = Range(name, _parse_number(name, low), _parse_number(name, high), bool(colon))
    if field.low >= field.high:
        raise ValueError(f"search {name}: expected low < high, got {bounds}")
    if field.log and field.low <= 0:
        raise ValueError(f"search {name}: expected low > 0 for a logarithmic range, got {low.strip()}")
    return field


def _parse_choices(name: str, text: str) -> Choices:
    if ":" in text:
        raise ValueError(f"search {name}: expected a range before :log, got {text}")
    values = tuple(_parse_number(name, part) for part in text.split(","))
    if len(set(values)) < 2 or len(set(values)) < len(values):
        raise ValueError(f"search {name}: expected a range or at least two different values, got {text}")
    return Choices(name, values)


def _parse_number(name: str, text: str) -> float:
    try:
        value = read_value(name, text.strip())
    except ValueError as error:
        raise ValueError(f"search {error}") from None
    if type(value) not in {int, float} or not math.isfinite(value):
        raise ValueError(f"search {name}: expected a finite number, got {text.strip()!r}")
    return float(value) if float in value_options(name) else int(value)


def check_effect(base: Settings, name: str) -> None:
    """Check that a setting has an effect with the method and the loss of ``base``.

    Example:
        >>> check_effect(Settings(method="plain"), "projections.strength")
        Traceback (most recent call last):
            ...
        ValueError: projections.strength: has no effect with method plain, only with ccp
    """
    if where := without_effect(name, base.method, base.loss):
        raise ValueError(f"{name}: has no effect {where}")


def _check_value(base: Settings, space: Sequence[Field], field: Field, value: float) -> None:
    """Check that a value is valid while all other fields are at their smallest, or at their largest."""
    for choose in (min, max):
        values = {other.name: choose(other.extremes) for other in space} | {field.name: value}
        try:
            with_values(base, values).resolved()
            return
        except ValueError as error:
            refused = error
    raise refused


def with_values(base: Settings, values: Mapping[str, Any]) -> Settings:
    """Return the settings of a trial.

    A pool size that was left open grows with the proxies per class, which cannot be more than the pool has samples.

    Example:
        >>> with_values(Settings(), {"proxies_per_class": 16}).pool_size
        16
    """
    return base.changed(with_pool_size(base, values))


def with_pool_size(base: Settings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the pool size that they need, if it was left open.

    Example:
        >>> with_pool_size(Settings(), {"proxies_per_class": 16})
        {'proxies_per_class': 16, 'pool_size': 16}
    """
    proxies = values.get("proxies_per_class")
    if proxies and "pool_size" not in values and base.pool_size is None and proxies > base.resolved().pool_size:
        return {**values, "pool_size": proxies}
    return dict(values)

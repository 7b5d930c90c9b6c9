"""Values that are valid for single settings."""

import math
import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

__all__ = ["REMOVED", "check_ranges", "check_types", "in_words", "type_options", "without_removed"]

REMOVED: Final = {"lr_warmup": 0.0, "lr_decay": 1.0, "ema": 0.0}
"""Settings that earlier versions had, and the value with which each is without effect."""


def without_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that earlier versions had, which must be without effect.

    Raises:
        ValueError: If one has an effect, which cannot be reproduced.

    Example:
        >>> without_removed({"lr": 0.1, "ema": 0.0})
        {'lr': 0.1}
    """
    for name, neutral in REMOVED.items():
        if values.get(name) not in (None, neutral):
            raise ValueError(f"{name}: expected {neutral}, as it is no longer a setting, got {values[name]!r}")
    return {name: value for name, value in values.items() if name not in REMOVED}


def check_ranges(values: Mapping[str, Any]) -> None:
    """Check that each setting that is given has a value in its range.

    Raises:
        ValueError: If it has not; the message names the setting and the range.
    """
    for names, expected, valid in _RANGES:
        for name in names.split():
            value = values[name]
            left_open = value is None or (isinstance(value, str) and value == "auto")
            if not left_open and not _is_valid(value, valid):
                raise ValueError(f"{name}: expected {expected}, got {value!r}")


def _is_valid(value: object, valid: Any) -> bool:
    try:
        return bool(valid(value))
    except (TypeError, ValueError, RuntimeError):  # a text, or an array, which cannot be compared with a number
        return False


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Check that each setting has a value of its type.

    Raises:
        ValueError: If it has not, such as a text in place of true or false; the message names the setting.

    Example:
        >>> check_types({"rewind": "no"}, {"rewind": bool})
        Traceback (most recent call last):
        ValueError: rewind: expected true or false, got 'no'
    """
    for name, hint in hints.items():
        options, value = type_options(hint), values[name]
        if not any(_fits(value, option) for option in options):
            raise ValueError(f"{name}: expected {in_words(options)}, got {value!r}")


def type_options(hint: Any) -> list[Any]:
    """Return the types and the single values that a type hint allows."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in {Union, UnionType}:
        return [option for member in get_args(hint) for option in type_options(member)]
    return [hint]


def in_words(options: Sequence[Any]) -> str:
    """Return types and single values as a message names them.

    Example:
        >>> in_words([int, "all", type(None)])
        'int, all or null'
    """
    words = {NoneType: "null", bool: "true or false"}
    *first, last = (words.get(option) or getattr(option, "__name__", str(option)) for option in options)
    return f"{', '.join(first)} or {last}" if first else str(last)


def _fits(value: object, option: Any) -> bool:
    if option == list[str]:
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    if option in {int, float}:
        return isinstance(value, int | option) and not isinstance(value, bool)
    if isinstance(option, type):
        return isinstance(value, option)
    return type(value) is type(option) and value == option


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _finite(value: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_COUNTS = (
    "proxies_per_class pool_size embedding_dim image_size classes_per_batch samples_per_class "
    "validate_every patience ranks memory_batches"
)
_WEIGHTS = "weight_decay pair_weight proxy_weight"
_MOST = 1024  # threads or processes, of which more than any machine has cores would exhaust it
_LARGEST = 10**12  # beyond any use; of integers that they cannot hold, libraries say so in words of their own
_STARTS = ("whitening", "pca", "identity", "random")
_RANGES: tuple[tuple[str, str, Any], ...] = (
    (_COUNTS, "at least 1", lambda value: value >= 1),
    (_COUNTS, f"at most {_LARGEST}", lambda value: value <= _LARGEST),
    ("folds", "at least 2", lambda value: value >= 2),
    (
        "lr clip_norm proxy_lr_factor head_lr_factor epochs",
        "a finite number > 0",
        lambda value: _finite(value) and value > 0,
    ),
    ("memory_start warmup_epochs max_steps", "an integer >= 0", lambda value: isinstance(value, int) and value >= 0),
    ("threads", f"1..{_MOST}", lambda value: isinstance(value, int) and 1 <= value <= _MOST),
    ("workers", f"0..{_MOST}", lambda value: isinstance(value, int) and 0 <= value <= _MOST),
    (_WEIGHTS, "a finite number >= 0", lambda value: _finite(value) and value >= 0),
    ("nearest_positives", "an integer >= 1, or all", lambda value: value == "all" or _is_count(value)),
    ("head_start", ", ".join(_STARTS), lambda value: value in _STARTS),
    ("class_rate", "a fraction in (0, 1]", lambda value: 0 < value <= 1),
    ("trained_stages", "all, or at least 0", lambda value: value == "all" or value >= 0),
    ("seed", "0..2147483647", lambda value: 0 <= value < 2**31),
    ("device", "auto, cpu, cuda, cuda:<number> or mps", re.compile(r"auto|cpu|mps|cuda(:\d+)?").fullmatch),
)

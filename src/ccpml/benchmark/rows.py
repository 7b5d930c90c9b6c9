"""The rows of a table: losses × methods, variants of CCP, and settings of single rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final

from ccpml.benchmark.protocol import ROW_METHODS, Row
from ccpml.losses import LOSSES, find_loss
from ccpml.runs.settings import setting_types
from ccpml.runs.values import read_value

__all__ = ["ROW_SETTINGS", "check_row_setting", "table_rows", "variant_rows", "with_row_settings"]

_DATA: Final = {"data", "data_root", "test_classes", "folds", "fold", "allow_partial", "skip_bad_images"}
"""Settings that all rows share, so that they are trained and scored on the same."""

ROW_SETTINGS = setting_types().keys() - _DATA - {"seed", "loss"}
"""Names of the settings in which rows may differ."""


def table_rows(losses: Sequence[str], methods: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows of losses × methods; a loss that has proxies of its own has one row.

    Raises:
        ValueError: If a loss or a method is unknown or given twice, or there is none.

    Example:
        >>> [row.title for row in table_rows(["c2", "proxy_anchor"], ["plain", "ccp"])]
        ['C2', 'C2-CCP', 'ProxyAnchor']
    """
    names = [find_loss(loss) for loss in losses]
    for what, given in (("losses", names), ("methods", list(methods))):
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{what}: expected one or more, each once, got {', '.join(given) or 'none'}")
    for method in methods:
        if method not in ROW_METHODS:
            raise ValueError(f"methods: expected some of {', '.join(ROW_METHODS)}, got {method!r}")
    return tuple(
        Row(loss, method) for loss in names for method in (("plain",) if LOSSES[loss].has_proxies else methods)
    )


def variant_rows(losses: Sequence[str], variant: str) -> tuple[Row, ...]:
    """Return the rows of a variant, ``name:setting=value,setting=value``; its method is ccp unless it sets another.

    Raises:
        ValueError: If the variant cannot be parsed, or a setting is unknown.

    Example:
        >>> variant_rows(["c2"], "one-proxy:proxies_per_class=1")[0].changes
        {'proxies_per_class': 1}
    """
    name, colon, assignments = variant.partition(":")
    parts = [part.partition("=") for part in assignments.split(",")]
    valid_name = name and all(letter.isalnum() or letter in "_.=-" for letter in name)
    if not colon or not valid_name or not all(key and value for key, _, value in parts):
        raise ValueError(f"variant: expected name:setting=value[,setting=value], got {variant!r}")
    for key, _, _ in parts:
        check_row_setting(f"variant: {name}", key)
    changes = {key: read_value(key, value) for key, _, value in parts}
    method = changes.pop("method", "ccp")
    rows = [Row(loss, method, name, changes) for loss in map(find_loss, losses) if method in LOSSES[loss].methods]
    if not rows:
        raise ValueError(f"variant: {name}: method {method}: none of {', '.join(losses)} has it; add method=plain")
    return tuple(rows)


def check_row_setting(where: str, name: str) -> None:
    """Check that rows may differ in a setting.

    Raises:
        ValueError: If they may not, or there is no such setting; it begins with ``where``, and names a similar one.
    """
    if name not in ROW_SETTINGS:
        near = get_close_matches(name, ROW_SETTINGS, 1)
        raise ValueError(f"{where}: {name!r} is not a setting of a row{f'; did you mean {near[0]}?' if near else ''}")


def with_row_settings(rows: Sequence[Row], settings: Any) -> tuple[Row, ...]:
    """Return the rows with settings of their own, such as the best ones of a search on the validation classes.

    ``settings`` are those of each row, by its name. Those of rows that are not in ``rows`` have no effect.

    Raises:
        ValueError: If it is not that, or a row or a setting does not exist.

    Example:
        >>> with_row_settings([Row("triplet", "ccp")], {"triplet-ccp": {"lr": 0.003}})[0].changes
        {'lr': 0.003}
    """
    if not isinstance(settings, Mapping) or not all(isinstance(own, Mapping) for own in settings.values()):
        raise ValueError("row settings: expected settings by the names of rows, such as 'triplet-ccp: {lr: 0.003}'")
    usual = [Row(loss, method) for loss in LOSSES for method in ROW_METHODS]
    methods = {row.name: row.method.partition("-")[0] for row in (*usual, *rows)}
    for name, own in settings.items():
        if name not in methods:
            raise ValueError(f"row settings: expected rows ({', '.join(row.name for row in rows)}), got {name!r}")
        for key in own:
            check_row_setting(f"row settings: {name}", key)
        if own.get("method", methods[name]) != methods[name]:
            raise ValueError(f"row settings: {name}: method: expected {methods[name]}, got {own['method']!r}")
    typed = {name: {key: read_value(key, value) for key, value in own.items()} for name, own in settings.items()}
    return tuple(replace(row, changes={**row.changes, **typed.get(row.name, {})}) for row in rows)

"""Ablations: one setting varied, and the rows that this makes."""

from collections.abc import Mapping, Sequence
from typing import Any

from ccpml.benchmark.protocol import FIELDS, Row, read_value, table_rows
from ccpml.runs.presets import read_preset
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import check_effect

__all__ = ["ABLATIONS", "ablation_rows", "ablation_title"]

ABLATIONS = tuple(read_preset("ablations"))
"""Names of ours."""


def ablation_rows(
    ablation: str, losses: Sequence[str], methods: Sequence[str] | None = None, base: Settings | None = None
) -> tuple[Row, ...]:
    """Give the rows of an ablation: one of ours by its name, or any setting as ``field=value,value``.

    Of one of ours, the values that do not go with the other settings are left out. More proxies than the pool has
    points enlarge it, unless its size was given.

    Args:
        ablation: Which.
        losses: Of each, the rows.
        methods: Of each, the rows; None are those that the ablation is about, or ccp.
        base: The other settings.

    Raises:
        ValueError: If there is no such ablation, it is written otherwise, or a loss and method do not depend on it.

    Example:
        >>> [row.title for row in ablation_rows("rewind", ["c2"])]
        ['C2-CCP (rewind=false)', 'C2-CCP (rewind=true)']
        >>> [row.title for row in ablation_rows("lr=1e-4,1e-3", ["c2"], ["plain"])]
        ['C2 (lr=0.0001)', 'C2 (lr=0.001)']
    """
    name, equals, values = ablation.partition("=")
    if equals and name in FIELDS and values:
        axis: dict[str, Any] = {"field": name, "values": [read_value(name, value) for value in values.split(",")]}
        if len(set(axis["values"])) < len(axis["values"]):
            raise ValueError(f"ablation: expected each value once, got {ablation!r}")
    elif ablation in ABLATIONS:
        axis = read_preset("ablations")[ablation]
    else:
        raise ValueError(
            f"ablation: expected one of {', '.join(ABLATIONS)}, or a setting as field=value,value, got {ablation!r}"
        )
    methods = methods or axis.get("methods", ["ccp"])
    rows = []
    for row in table_rows(losses, methods):
        others = _others(base or Settings(), row)
        check_effect(others, axis["field"])
        for label in axis.get("images") or axis["values"]:
            changes = _changes(others, axis["field"], label, of_images="images" in axis)
            if not equals and not _goes(others, changes):
                continue
            variant = f"{name}={_shown(label)}"
            rows.append(Row(row.loss, row.method, variant, changes, _label(label)))
    if not rows:
        raise ValueError(f"ablation: no value of {name} goes with the other settings; give some as field=value,value")
    return tuple(rows)


def _others(base: Settings, row: Row) -> Settings:
    """Give the settings of a row, but for parameters of the loss, which are the benchmark's to add."""
    settings: dict[str, Any] = {"loss": row.loss, "method": row.method.partition("-")[0]}
    return base.changed({**settings, "loss_parameters": {}})


def _changes(others: Settings, name: str, label: Any, of_images: bool) -> dict[str, Any]:
    """Give the settings that stand for a value on an ablation's axis: a batch size is one of so many classes."""
    if of_images:
        per_class = others.resolved().samples_per_class
        return {name: label // per_class if label % per_class == 0 else 0}
    if name == "proxies_per_class" and others.pool_size is None and label > others.resolved().pool_size:
        return {name: label, "pool_size": label}
    return {name: label}


def _goes(others: Settings, changes: Mapping[str, Any]) -> bool:
    try:
        others.changed(changes).resolved()
    except ValueError:
        return False
    return True


def ablation_title(ablation: str) -> str:
    """Say what an ablation varies, for the axis of its figure."""
    title: str = read_preset("ablations").get(ablation, {}).get("title", ablation.partition("=")[0])
    return title


def _shown(label: Any) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label).lower()


def _label(label: Any) -> float | str:
    return label if isinstance(label, int | float) and not isinstance(label, bool) else _shown(label)

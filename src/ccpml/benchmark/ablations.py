"""The rows of an ablation: one setting varies."""

from collections.abc import Mapping, Sequence
from typing import Any

from ccpml.benchmark.protocol import Row
from ccpml.benchmark.rows import check_row_setting, table_rows
from ccpml.presets import read_preset
from ccpml.runs.settings import Settings
from ccpml.runs.values import read_value
from ccpml.tuning.search_space import check_effect, with_pool_size

__all__ = ["ABLATIONS", "ablation_rows", "ablation_title"]

ABLATIONS = tuple(read_preset("ablations"))
"""Names of the presets."""


def ablation_rows(
    ablation: str, losses: Sequence[str], methods: Sequence[str] | None = None, base: Settings | None = None
) -> tuple[Row, ...]:
    """Return the rows of an ablation: a preset by its name, or any setting as ``setting=value,value``.

    Values of a preset that contradict the other settings are left out. A pool size that was left open grows with the
    proxies per class. Without methods, the rows have those of the preset, or ccp.

    Raises:
        ValueError: If the ablation is unknown or cannot be parsed, or the setting has no effect on a row.

    Example:
        >>> [row.title for row in ablation_rows("rewind", ["c2"])]
        ['C2-CCP (rewind=false)', 'C2-CCP (rewind=true)']
        >>> [row.title for row in ablation_rows("lr=1e-4,1e-3", ["c2"], ["plain"])]
        ['C2 (lr=0.0001)', 'C2 (lr=0.001)']
    """
    axis, base = _parse(ablation), base or Settings()
    name = ablation.partition("=")[0]
    rows = []
    for row in table_rows(losses, methods or axis.get("methods", ["ccp"])):
        # Parameters belong to single losses; the benchmark adds them.
        settings = base.changed({**row.settings(base.data), "loss_parameters": {}})
        check_effect(settings, axis["field"])
        for value in axis.get("images") or axis["values"]:
            changes = _changes(settings, axis, value)
            if ablation in ABLATIONS and not _is_valid(settings, changes):
                continue
            text = f"{value:g}" if isinstance(value, float) else str(value).lower()
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            rows.append(Row(row.loss, row.method, f"{name}={text}", changes, value if is_number else text))
    if not rows:
        raise ValueError(f"ablation: every value of {name} contradicts the other settings; pass setting=value,value")
    return tuple(rows)


def _parse(ablation: str) -> dict[str, Any]:
    """Return the setting that varies and its values, as in the presets."""
    if ablation in ABLATIONS:
        return dict(read_preset("ablations")[ablation])
    name, _, texts = ablation.partition("=")
    if name == "method":
        raise ValueError("ablation: method is not a setting of a row; choose the methods of the rows instead")
    if texts:
        check_row_setting("ablation", name)
    else:
        raise ValueError(f"ablation: expected one of {', '.join(ABLATIONS)}, or setting=value,value, got {ablation!r}")
    values = [read_value(name, text) for text in texts.split(",")]
    if len(set(values)) < len(values):
        raise ValueError(f"ablation: expected each value once, got {ablation!r}")
    return {"field": name, "values": values}


def _changes(settings: Settings, axis: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Return the settings of a value on the axis. Images of a batch are converted to classes; 0 is not valid."""
    if "images" in axis:
        per_class = settings.resolved().samples_per_class
        return {axis["field"]: 0 if value % per_class else value // per_class}
    return with_pool_size(settings, {axis["field"]: value})


def _is_valid(settings: Settings, changes: Mapping[str, Any]) -> bool:
    try:
        settings.changed(changes).resolved()
    except ValueError:
        return False
    return True


def ablation_title(ablation: str) -> str:
    """Return what an ablation varies, for titles and the axis of its figure."""
    return str(read_preset("ablations").get(ablation, {}).get("title", ablation.partition("=")[0]))

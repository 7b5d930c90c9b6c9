"""The protocols: which rows a table has, and which runs stand behind each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from ccpml.losses import LOSSES, METHODS, find_loss
from ccpml.runs.presets import load_preset
from ccpml.runs.settings import ResolvedSettings, Settings, setting_types

__all__ = [
    "FIELDS",
    "PROTOCOLS",
    "Benchmark",
    "Cell",
    "Row",
    "protocol_settings",
    "read_value",
    "table_rows",
    "variant_rows",
    "with_settings",
]

Protocol = Literal["mlrc", "conventional"]
PROTOCOLS: tuple[Protocol, ...] = ("mlrc", "conventional")
ROW_METHODS = ("plain", "ccp", "xbm", "xbm-s")

_TYPES = setting_types()
FIELDS = _TYPES.keys() - {"seed", "fold", "loss", "data", "data_root"}


@dataclass(frozen=True)
class Row:
    """A row of a table: a loss with a method, and perhaps with a setting changed.

    Attributes:
        loss: As in `Settings`.
        method: plain, ccp, xbm (the large memory) or xbm-s (the small one).
        variant: Name of what was changed; empty if nothing was.
        changes: The settings of `Settings` in which it differs from the others.
        value: Where it stands on an ablation's axis; None outside ablations.
    """

    loss: str
    method: str
    variant: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    value: float | str | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "-".join(part for part in (self.loss, self.method, self.variant) if part)

    @property
    def title(self) -> str:
        """Name in tables, as the paper's: C2-CCP.

        Example:
            >>> Row("contrastive", "ccp").title, Row("triplet", "plain").title
            ('C2-CCP', 'Triplet')
        """
        method, _, size = self.method.partition("-")
        head = "-".join(part for part in (LOSSES[self.loss].title, METHODS[method].title, size.upper()) if part)
        return f"{head} ({self.variant})" if self.variant else head


@dataclass(frozen=True)
class Cell:
    """A run of a benchmark.

    Attributes:
        row: Its row.
        repeat: From 0; the seed is that of the benchmark plus this.
        fold: The part of the training classes that validates.
        settings: What is trained.
        path: The run directory.
    """

    row: Row
    repeat: int
    fold: int
    settings: ResolvedSettings
    path: Path

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.row.title}, repeat {self.repeat}, fold {self.fold}"


@dataclass(frozen=True)
class Benchmark:
    """Rows × repeats × folds, all trained alike but for what the rows change.

    Attributes:
        base: The settings that all rows share.
        rows: The rows.
        out: Where everything lies.
        protocol: mlrc, or conventional.
        repeats: Runs of each row and fold, with a seed each.
        folds: The parts that validate, one model for each: all of them under MLRC, the first one else.
        ablation: Name of the ablation (of the field, where it is none of ours), None if it is none.
        parameters: Parameters of losses, by name, for the rows whose loss takes them.
    """

    base: Settings
    rows: tuple[Row, ...]
    out: Path
    protocol: Protocol = "mlrc"
    repeats: int = 1
    folds: tuple[int, ...] = (0, 1, 2, 3)
    ablation: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What all rows share: the settings of `Settings`, with parameters of the losses that take them."""
        return {**self.base.flat(), **self.parameters}

    def cells(self) -> Iterator[Cell]:
        """Give all runs: repeat by repeat, so that a table fills evenly."""
        for repeat in range(self.repeats):
            for row in self.rows:
                yield from self.models(row, repeat)

    def models(self, row: Row, repeat: int) -> Iterator[Cell]:
        """Give the runs of a row and a repeat, one for each fold."""
        for fold in self.folds:
            settings = {**self._settings(row), "fold": fold, "seed": self.base.seed + repeat}
            path = self.out / "cells" / row.name / f"repeat{repeat}-fold{fold}"
            yield Cell(row, repeat, fold, self.base.changed(settings).resolved(), path)

    def _settings(self, row: Row) -> dict[str, Any]:
        settings: dict[str, Any] = {"loss": row.loss, "method": row.method.partition("-")[0]}
        if row.method == "xbm-s":
            settings["memory_batches"] = load_preset(self.base.data)["small_memory_batches"]
        settings |= {name: value for name, value in self.parameters.items() if name in LOSSES[row.loss].parameters}
        return settings | dict(row.changes)


def protocol_settings(protocol: str) -> dict[str, Any]:
    """Give what a protocol settles before the user's own options.

    Source: Musgrave et al., ECCV 2020 (mlrc: the defaults); Gürbüz et al., WACV 2024, supplement (conventional).
    """
    if protocol == "mlrc":
        return {}
    return {
        "embedding_dim": 512,
        "classes_per_batch": 32,
        "samples_per_class": 4,
        "pooling": "avg+max",
        "lr_schedule": "plateau",
        "score_last": True,
    }


def table_rows(losses: Sequence[str], methods: Sequence[str]) -> tuple[Row, ...]:
    """Give the rows of losses × methods; a loss with proxies of its own has one row.

    Raises:
        ValueError: If a loss or a method is unknown or named twice, or there is none.

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


def with_settings(rows: Sequence[Row], settings: Any) -> tuple[Row, ...]:
    """Change settings of single rows, as a search on validation classes found them.

    Args:
        rows: The rows.
        settings: By the names of rows, settings of `Settings` by name; those of other losses and methods change
            nothing.

    Raises:
        ValueError: If it is not that, or names a row that cannot be or a setting that does not exist.

    Example:
        >>> with_settings([Row("triplet", "ccp")], {"triplet-ccp": {"lr": 0.003}})[0].changes
        {'lr': 0.003}
    """
    names = {row.name for row in rows} | {Row(loss, method).name for loss in LOSSES for method in ROW_METHODS}
    if not isinstance(settings, Mapping) or not all(isinstance(own, Mapping) for own in settings.values()):
        raise ValueError("row settings: expected settings by the names of rows, such as 'triplet-ccp: {lr: 0.003}'")
    for name, own in settings.items():
        if name not in names:
            raise ValueError(
                f"row settings: there is no row {name!r}; the rows are {', '.join(row.name for row in rows)}"
            )
        for key in own.keys() - FIELDS:
            raise ValueError(f"row settings: {name} has no setting {key!r}")
    typed = {
        name: {key: read_value(key, yaml.safe_dump(value).removesuffix("...\n").strip()) for key, value in own.items()}
        for name, own in settings.items()
    }
    return tuple(replace(row, changes={**row.changes, **typed.get(row.name, {})}) for row in rows)


def variant_rows(losses: Sequence[str], variant: str) -> tuple[Row, ...]:
    """Give the rows of a variant of CCP: ``name:field=value,field=value``.

    Raises:
        ValueError: If it is written otherwise, or a field is unknown.

    Example:
        >>> variant_rows(["c2"], "one-proxy:proxies_per_class=1")[0].changes
        {'proxies_per_class': 1}
    """
    name, colon, assignments = variant.partition(":")
    parts = [part.partition("=") for part in assignments.split(",")]
    if not colon or not _is_name(name) or not all(key in FIELDS and value for key, _, value in parts):
        raise ValueError(f"variant: expected name:field=value[,field=value], fields as of ccpml train, got {variant!r}")
    changes = {key: read_value(key, value) for key, _, value in parts}
    method = changes.pop("method", "ccp")
    return tuple(
        Row(loss, method, name, changes)
        for loss in map(find_loss, losses)
        if method == "plain" or not LOSSES[loss].has_proxies
    )


def _is_name(name: str) -> bool:
    return bool(name) and all(letter.isalnum() or letter in "_.=-" for letter in name)


def read_value(name: str, text: str) -> Any:
    """Read the value of a setting, as YAML does, and 1e-4 as the number that it is.

    Raises:
        ValueError: If it is not of the setting's type.
    """
    value = yaml.safe_load(text)
    kinds = get_args(_TYPES[name]) if get_origin(_TYPES[name]) not in {None, Literal} else (_TYPES[name],)
    for kind in kinds:
        if get_origin(kind) is Literal and value in get_args(kind):
            return value
        if kind is float and _is_float(text):
            return float(text)
        if kind in {bool, int, type(None)} and type(value) is kind:
            return value
    if str in kinds and text:
        return text
    names = " or ".join(getattr(kind, "__name__", str(kind).removeprefix("typing.")) for kind in kinds)
    names = names.replace("NoneType", "null")
    raise ValueError(f"{name}: expected {names}, got {text!r}")


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

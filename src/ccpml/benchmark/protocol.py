"""What a benchmark is: rows of losses and methods, and the runs (cells) behind each row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ccpml.losses import LOSSES, METHODS
from ccpml.presets import load_preset
from ccpml.runs.defaults import DataFacts
from ccpml.runs.settings import ResolvedSettings, Settings

__all__ = ["METRICS", "PROTOCOLS", "ROW_METHODS", "Benchmark", "Cell", "Row", "protocol_settings"]

Protocol = Literal["mlrc", "conventional"]
PROTOCOLS: tuple[Protocol, ...] = ("mlrc", "conventional")

ROW_METHODS = (*METHODS, "xbm-s")
"""Methods of rows: those of the settings, and XBM with the paper's small memory."""

METRICS = {"precision_at_1": "P@1", "r_precision": "P@R", "map_at_r": "MAP@R"}
"""The metrics of the paper's tables and their titles."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a loss with one of `ROW_METHODS`, and perhaps with other settings than the other rows.

    Attributes:
        variant: Name of the other settings; empty if there are none.
        changes: The other settings by name.
        value: Position on the axis of an ablation; None outside ablations.
    """

    loss: str
    method: str
    variant: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    value: float | str | None = None

    @property
    def name(self) -> str:
        """Name of the row's folder."""
        return "-".join(part for part in (self.loss, self.method, self.variant) if part)

    @property
    def title(self) -> str:
        """Name in tables, as in the paper: C2-CCP.

        Example:
            >>> Row("contrastive", "ccp").title, Row("triplet", "plain").title
            ('C2-CCP', 'Triplet')
        """
        method, _, size = self.method.partition("-")
        head = "-".join(part for part in (LOSSES[self.loss].title, METHODS[method].title, size.upper()) if part)
        return f"{head} ({self.variant})" if self.variant else head

    def settings(self, data: str) -> dict[str, Any]:
        """Return the settings that select the loss and the method of the row on some data, by name."""
        settings: dict[str, Any] = {"loss": self.loss, "method": self.method.partition("-")[0]}
        if self.method == "xbm-s":
            settings["memory_batches"] = load_preset(data)["small_memory_batches"]
        return settings


@dataclass(frozen=True)
class Cell:
    """A run of a benchmark.

    Attributes:
        repeat: Number of the repeat, from 0; the seed is that of the benchmark plus this.
        fold: The part of the training classes that validates.
        path: The run directory.
        chosen: Why settings that were left open have their values.
    """

    row: Row
    repeat: int
    fold: int
    settings: ResolvedSettings
    path: Path
    chosen: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name in messages."""
        return f"{self.row.title}, repeat {self.repeat}, fold {self.fold}"

    @property
    def settings_file(self) -> Path:
        """File of the settings that are passed to the process of the cell."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def log_file(self) -> Path:
        """File of the process's messages."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def lock_file(self) -> Path:
        """File that the process whose cell this is holds a lock of, from before the cell starts until it has ended."""
        return self.path.with_name(f"{self.path.name}.lock")

    def last_message(self) -> str:
        """Return the last line of the log; empty if there is none."""
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " ".join(lines[-1].split()) if lines else ""


@dataclass(frozen=True)
class Benchmark:
    """Rows × repeats × folds, all trained with the same settings except for those that belong to the rows.

    Attributes:
        base: Settings shared by all rows.
        out: Folder of the runs and the results.
        repeats: Runs of each row and fold, each with another seed.
        folds: Folds that validate, one model for each: all of them under MLRC, otherwise the first.
        ablation: Name of the ablation, or of the setting that varies; None if it is not an ablation.
        parameters: Parameters of losses by name, for the rows whose loss takes them.
        facts: Facts about the images, from which settings that are left open are chosen; `prepare_benchmark` reads
            them. None: those of many small gray images.
    """

    base: Settings
    rows: tuple[Row, ...]
    out: Path
    protocol: Protocol = "mlrc"
    repeats: int = 1
    folds: tuple[int, ...] = (0, 1, 2, 3)
    ablation: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: DataFacts | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings shared by all rows by name, with the parameters of losses."""
        return {**self.base.flat(), **self.parameters}

    def cells(self) -> Iterator[Cell]:
        """Yield all cells, repeat by repeat, so that all rows of a table make progress."""
        for repeat in range(self.repeats):
            for row in self.rows:
                yield from self.row_cells(row, repeat)

    def row_cells(self, row: Row, repeat: int) -> Iterator[Cell]:
        """Yield the cells of a row and a repeat, one for each fold."""
        taken = {name: value for name, value in self.parameters.items() if name in LOSSES[row.loss].parameters}
        row_settings = self.base.changed({**row.settings(self.base.data), **taken, **row.changes})
        for fold in self.folds:
            settings = self._fit_batch(row_settings.changed({"fold": fold, "seed": self.base.seed + repeat}))
            chosen = tuple(str(choice) for choice in settings.choices(self.facts) if choice.why)
            path = self.out / "cells" / row.name / f"repeat{repeat}-fold{fold}"
            yield Cell(row, repeat, fold, settings.resolved(self.facts), path, (*self.notes(), *chosen))

    def _fit_batch(self, settings: Settings) -> Settings:
        """Return settings with the protocol's batch, unless one was given, of no more classes than there are."""
        batch = _BATCHES.get(self.protocol, {})
        unset = {name: value for name, value in batch.items() if getattr(settings, name) is None}
        if "classes_per_batch" in unset:
            unset["classes_per_batch"] = self._fitting_classes(unset["classes_per_batch"])
        return settings.changed(unset)

    def _fitting_classes(self, classes: int) -> int:
        most = (self.facts or DataFacts()).train_classes
        return classes if classes <= most else max(1, most - most % self.base.ranks)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence if the protocol's batch has more classes than there are."""
        wanted = _BATCHES.get(self.protocol, {}).get("classes_per_batch", 0)
        if self.base.classes_per_batch is not None or (fitting := self._fitting_classes(wanted)) == wanted:
            return ()
        most = (self.facts or DataFacts()).train_classes
        return (f"classes_per_batch {fitting}: there are {most} training classes; the protocol has {wanted}",)


_BATCHES: Mapping[str, Mapping[str, int]] = {"conventional": {"classes_per_batch": 32, "samples_per_class": 4}}
"""Batches of protocols other than the default: classes, and images of each."""


def protocol_settings(protocol: str) -> dict[str, Any]:
    """Return the settings of a protocol that differ from the defaults, without its batch, which depends on the data.

    Source: Musgrave et al., ECCV 2020 (mlrc: the defaults); Gürbüz et al., WACV 2024, supplement (conventional).
    """
    if protocol == "mlrc":
        return {}
    return {
        "embedding_dim": 512,
        "pooling": "avg+max",
        "lr_schedule": "plateau",
        "score_last": True,
    }

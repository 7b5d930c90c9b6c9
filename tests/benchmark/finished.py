"""Finished benchmarks without training: files of cells as a run writes them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccpml.benchmark.protocol import Benchmark, Cell, Row
from ccpml.benchmark.rows import table_rows
from ccpml.files import write_arrays, write_text
from ccpml.runs.settings import Settings

CLASSES, PER_CLASS, DIM = 5, 6, 4


def make_benchmark(
    out: Path,
    losses: Sequence[str] = ("c2",),
    methods: Sequence[str] = ("plain", "ccp"),
    *,
    rows: tuple[Row, ...] | None = None,
    data: str = "glyphs",
    repeats: int = 2,
    folds: int = 2,
    **changes: Any,
) -> Benchmark:
    """Write the finished cells of a benchmark."""
    base = Settings(data=data, embedding_dim=DIM, folds=max(folds, 2))
    rows = rows or table_rows(losses, methods)
    made = Benchmark(base, rows, out, repeats=repeats, folds=tuple(range(folds)), **changes)
    for number, cell in enumerate(made.cells()):
        make_cell(cell, number)
    return made


def embeddings_of(seed: int) -> np.ndarray:
    """Return embeddings (30, 4) of overlapping classes; the same seed gives the same embeddings."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(CLASSES, DIM)).repeat(PER_CLASS, 0)
    return (0.4 * centers + 0.5 * rng.normal(size=(CLASSES * PER_CLASS, DIM))).astype(np.float32)


def make_cell(cell: Cell, seed: int) -> None:
    """Write the files of a finished run with random scores, those of `drawn`."""
    cell.path.mkdir(parents=True)
    test = drawn(seed)
    scores = {
        "test": {**test, "num_queries": 30, "num_skipped": 1},
        "validation": {"map_at_r": test["map_at_r"] + 0.1, "step": 3},
        "steps": 6,
        "instances": 1,
        "splits": {name: {"classes": 5, "images": 30} for name in ("train", "validation", "test")},
        "partial": False,
        "images_left_out": [],
        "seed": cell.settings.seed,
        "versions": {"ccpml": "0.1.0", "torch": "2.13.0"},
        "commit": "abc",
        "hardware": {"cpu": "a processor", "cores": 2},
    }
    write_text(cell.path / "scores.json", json.dumps(scores))
    write_text(
        cell.path / "metrics.csv",
        "step,seconds,map_at_r,instance,val_covering_radius,val_interclass_distance\n"
        "3,1.0,0.5,0,0.5,1.0\n6,2.0,0.6,1,0.25,2.0\n",
    )
    labels = np.arange(CLASSES).repeat(PER_CLASS)
    write_arrays(
        cell.path / "embeddings" / "test.npz",
        embeddings=embeddings_of(seed),
        labels=labels,
        class_names=np.array([f"class {label}" for label in range(CLASSES)]),
        paths=np.array([f"{row}.png" for row in range(len(labels))]),
        roles=np.array([""] * len(labels)),
    )


def drawn(seed: int) -> dict[str, float]:
    """Return the test scores of a cell."""
    rng = np.random.default_rng(1000 + seed)
    names = ("map_at_r", "precision_at_1", "r_precision", "recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8")
    return {name: float(rng.uniform(0.2, 0.7)) for name in names}

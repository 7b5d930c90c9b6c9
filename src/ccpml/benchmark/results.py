"""Collect the finished cells of a benchmark: scores of each row, their deviations, and gains over the plain loss."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ccpml.benchmark.ensemble import Ensembles, score_ensembles
from ccpml.benchmark.protocol import METRICS, Benchmark, Cell, Row
from ccpml.benchmark.spread import Gain, Spread
from ccpml.runs.directory import RunDirectory

__all__ = ["CellResult", "RowResult", "best_settings", "collect_results"]

Scores = Mapping[str, float]

_GEOMETRY = (
    *("train_covering_radius", "train_interclass_distance", "val_covering_radius", "val_interclass_distance"),
    *("proxy_covering_radius", "proxy_spread"),
)


@dataclass(frozen=True)
class CellResult:
    """A finished cell.

    Attributes:
        cell: The cell.
        scores: Content of its ``scores.json``.
        history: Rows of its ``metrics.csv``, by column.
    """

    cell: Cell
    scores: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last row of the history; empty if there is none."""
        return self.history[-1] if self.history else {}

    @classmethod
    def read(cls, cell: Cell) -> "CellResult":
        """Read a cell.

        Raises:
            FileNotFoundError: If it is not finished.
            ValueError: If its files are damaged.
        """
        run = RunDirectory(cell.path)
        scores = run.scores()
        damaged = f"{run.scores_file}: not the scores of a finished run"
        way_out = "remove it and start the benchmark again"
        try:
            numbers = [scores["validation"]["map_at_r"], scores["steps"], scores["instances"]]
            numbers += [value for name in ("test", "test_last") for value in scores.get(name, {}).values()]
            missing = METRICS.keys() - scores["test"].keys()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{damaged} ({error!r}); {way_out}") from error
        if missing or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"{damaged}; {way_out}")
        return cls(cell, scores, run.metrics())


@dataclass(frozen=True)
class RowResult:
    """The result of a row. Scores are in 0..1, by name.

    Attributes:
        row: The row.
        cells: Its finished cells.
        expected: Number of cells that it should have.
        separated: Mean of the models of a repeat, by the weights of the best validation; over repeats.
        last: The same by the weights of the last step, if they were tested.
        concatenated: Ensemble of the models of a repeat; over repeats, which are independent.
        combinations: Ensembles of all combinations of models of any repeats, as the paper's authors average them.
        ensembles: Each single ensemble.
        validation: Best MAP@R on the validation classes; over repeats.
        gains: Gains in test MAP@R over the plain loss, for ``separated``, ``last`` and ``concatenated``.
        steps: Training steps; over models.
        instances: Projections; over models.
        seconds: Seconds of training; over models.
        geometry: Covering radii and distances at the last validation; over models.
        problems: Cells that are missing, and other errors.
    """

    row: Row
    cells: tuple[CellResult, ...]
    expected: int
    separated: Mapping[str, Spread]
    last: Mapping[str, Spread]
    concatenated: Mapping[str, Spread]
    combinations: Mapping[str, Spread]
    ensembles: Ensembles
    validation: Spread | None
    gains: Mapping[str, Gain]
    steps: Spread | None
    instances: Spread | None
    seconds: Spread | None
    geometry: Mapping[str, Spread]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers for JSON, unrounded, except those that differ between two runs of the same cells."""
        spreads = ("separated", "last", "concatenated", "combinations", "geometry", "gains")
        return {
            "title": self.row.title,
            **asdict(self.row),
            "models": len(self.cells),
            "models_expected": self.expected,
            **{name: {key: asdict(value) for key, value in getattr(self, name).items()} for name in spreads},
            **{
                name: None if (spread := getattr(self, name)) is None else asdict(spread)
                for name in ("validation", "steps", "instances")
            },
            "ensembles": [{"repeats": list(repeats), **scores} for repeats, scores in self.ensembles.scores.items()],
            "cells": [{"repeat": each.cell.repeat, "fold": each.cell.fold, **each.scores} for each in self.cells],
            "problems": list(self.problems),
        }


def collect_results(benchmark: Benchmark, progress: bool = True) -> list[RowResult]:
    """Read the finished cells of a benchmark, score their ensembles, and compare the rows.

    Missing and damaged cells are listed in the result and do not affect the others.

    Args:
        benchmark: The benchmark.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The result of each row, in order.
    """
    cells: dict[str, list[CellResult]] = {row.name: [] for row in benchmark.rows}
    problems: dict[str, list[str]] = {row.name: [] for row in benchmark.rows}
    for cell in benchmark.cells():
        try:
            cells[cell.row.name].append(CellResult.read(cell))
        except FileNotFoundError:
            reason = cell.last_message()
            problems[cell.row.name].append(f"{cell.title}: not finished{reason and f': {reason}'}")
        except (OSError, ValueError) as error:
            problems[cell.row.name].append(f"{cell.title}: {error}")
    finished = [each.cell for of_row in cells.values() for each in of_row]
    ensembles = score_ensembles(benchmark, finished, progress)
    return [
        _row_result(benchmark, row, cells, ensembles, [*problems[row.name], *ensembles[row.name].problems])
        for row in benchmark.rows
    ]


def _row_result(
    benchmark: Benchmark,
    row: Row,
    cells: Mapping[str, Sequence[CellResult]],
    ensembles: Mapping[str, Ensembles],
    problems: Sequence[str],
) -> RowResult:
    own = cells[row.name]
    return RowResult(
        row=row,
        cells=tuple(own),
        expected=benchmark.repeats * len(benchmark.folds),
        separated=_over_repeats(own, lambda cell: cell.scores["test"]),
        last=_over_repeats(own, lambda cell: cell.scores.get("test_last", {})),
        concatenated=_spreads(ensembles[row.name].of_repeats().values()),
        combinations=_spreads(ensembles[row.name].scores.values()),
        ensembles=ensembles[row.name],
        validation=_over_repeats(own, lambda cell: cell.scores["validation"]).get("map_at_r"),
        gains=_gains(benchmark.rows, row, cells, ensembles),
        steps=_spread(cell.scores["steps"] for cell in own),
        instances=_spread(cell.scores["instances"] for cell in own),
        seconds=_spread(cell.metrics["seconds"] for cell in own if "seconds" in cell.metrics),
        geometry=_spreads([{name: cell.metrics[name] for name in _GEOMETRY if name in cell.metrics} for cell in own]),
        problems=tuple(problems),
    )


def _gains(
    rows: Sequence[Row],
    row: Row,
    cells: Mapping[str, Sequence[CellResult]],
    ensembles: Mapping[str, Ensembles],
) -> dict[str, Gain]:
    """Compare a row with the plain loss of the same variant, or else of no variant."""
    plain = {other.variant: other for other in rows if other.loss == row.loss and other.method == "plain"}
    over = plain.get("") if row.method == "plain" else plain.get(row.variant, plain.get(""))
    if over is None or over.name == row.name:
        return {}
    pairs = {}
    repeats = [ensembles[name].of_repeats() for name in (row.name, over.name)]
    pairs["concatenated"] = [{repeat: scores["map_at_r"] for repeat, scores in each.items()} for each in repeats]
    for name, key in (("separated", "test"), ("last", "test_last")):
        pairs[name] = _paired_means(cells[row.name], cells[over.name], key)
    gains = {}
    for name, (ours, theirs) in pairs.items():
        common = sorted(ours.keys() & theirs.keys())
        if common:
            gains[name] = Gain.of(over.name, [ours[repeat] for repeat in common], [theirs[repeat] for repeat in common])
    return gains


def _paired_means(ours: Sequence[CellResult], theirs: Sequence[CellResult], key: str) -> list[dict[int, float]]:
    """Return the mean MAP@R of each repeat, for both rows, over the folds that both have."""
    scores = [
        {(each.cell.repeat, each.cell.fold): each.scores[key]["map_at_r"] for each in cells if key in each.scores}
        for cells in (ours, theirs)
    ]
    common = sorted(scores[0].keys() & scores[1].keys())
    return [
        {
            repeat: statistics.fmean(of_row[cell] for cell in common if cell[0] == repeat)
            for repeat in dict.fromkeys(repeat for repeat, _ in common)
        }
        for of_row in scores
    ]


def _over_repeats(cells: Sequence[CellResult], scores: Callable[[CellResult], Scores]) -> dict[str, Spread]:
    """Average the models of each repeat; then compute the spread over repeats."""
    repeats: dict[int, list[Scores]] = {}
    for each in cells:
        repeats.setdefault(each.cell.repeat, []).append(scores(each))
    return _spreads([{name: spread.mean for name, spread in _spreads(each).items()} for each in repeats.values()])


def _spreads(scores: Iterable[Scores]) -> dict[str, Spread]:
    """Compute the spread of each score, over those that have it."""
    scores = list(scores)
    names = dict.fromkeys(name for each in scores for name in each if not name.startswith("num_"))
    return {name: Spread.of(each[name] for each in scores if name in each) for name in names}


def _spread(values: Iterable[float]) -> Spread | None:
    values = list(values)
    return Spread.of(values) if values else None


def best_settings(results: Sequence[RowResult]) -> dict[str, dict[str, Any]]:
    """Return the settings that are best on the validation classes, for each loss and method of an ablation.

    Returns:
        Settings by the name of the loss and method, as `with_row_settings` takes them.
    """
    tried: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for result in results:
        if result.validation is not None:
            name = replace(result.row, variant="").name
            tried.setdefault(name, []).append((result.validation.mean, dict(result.row.changes)))
    return {name: max(pairs, key=lambda pair: pair[0])[1] for name, pairs in tried.items()}

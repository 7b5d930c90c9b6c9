"""Collect the finished cells of a benchmark: scores of each row, their deviations, and gains over the plain loss."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ccpml.benchmark.ensemble import Ensembles, score_ensembles
from ccpml.benchmark.prepare import check_run
from ccpml.benchmark.protocol import METRICS, Benchmark, Cell, Row
from ccpml.benchmark.spread import Gain, Spread
from ccpml.runs.directory import RunDirectory
from ccpml.system_errors import message_of

__all__ = ["CellResult", "RowResult", "best_settings", "collect_results"]

Scores = Mapping[str, float]

_DIGESTS = {"record_digest", "metrics_digest", "embeddings_digests"}
_COUNTS = ("steps", "instances", "seconds")
_GEOMETRY = (
    *("train_covering_radius", "train_interclass_distance", "val_covering_radius", "val_interclass_distance"),
    *("proxy_covering_radius", "proxy_spread"),
)


@dataclass(frozen=True)
class CellResult:
    """A finished cell with the content of its ``scores.json`` and the rows of its ``metrics.csv``."""

    cell: Cell
    scores: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]

    @classmethod
    def read(cls, cell: Cell) -> "CellResult":
        """Read a cell; raise FileNotFoundError if it is not finished, ValueError if it is damaged, or another run."""
        run = RunDirectory(cell.path)
        scores = run.scores()
        check_run(cell)
        damaged = f"{run.scores_file}: not the scores of a finished run"
        hint = "remove this file and run the benchmark again"
        try:
            numbers = [scores["validation"]["map_at_r"], scores["steps"], scores["instances"]]
            numbers += [value for name in ("test", "test_last") for value in scores.get(name, {}).values()]
            missing = METRICS.keys() - scores["test"].keys()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{damaged} ({error!r}); {hint}") from error
        if missing or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"{damaged}; {hint}")
        history = run.finished_metrics(scores)
        return cls(cell, {name: value for name, value in scores.items() if name not in _DIGESTS}, history)


@dataclass(frozen=True)
class RowResult:
    """The result of a row. Scores are in 0..1, by name.

    Attributes:
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
        instances: Number of projections of a run; over models.
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
                name: (spread := getattr(self, name)) and asdict(spread)
                for name in ("validation", "steps", "instances")
            },
            "ensembles": [{"repeats": list(repeats), **scores} for repeats, scores in self.ensembles.scores.items()],
            "cells": [{"repeat": each.cell.repeat, "fold": each.cell.fold, **each.scores} for each in self.cells],
            "problems": list(self.problems),
        }


def collect_results(benchmark: Benchmark, progress: bool = True) -> list[RowResult]:
    """Read the finished cells of a benchmark, score their ensembles, and compare the rows.

    Missing and damaged cells are listed in the result and do not affect the others.
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
            problems[cell.row.name].append(f"{cell.title}: {message_of(error)}")
    finished = [each.cell for row_cells in cells.values() for each in row_cells]
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
    ends = [{**(cell.history[-1] if cell.history else {}), **cell.scores} for cell in own]
    measured = _spreads([{name: end[name] for name in (*_COUNTS, *_GEOMETRY) if name in end} for end in ends])
    return RowResult(
        row=row,
        cells=tuple(own),
        expected=benchmark.repeats * len(benchmark.folds),
        separated=_spreads(_repeat_means(own, "test").values()),
        last=_spreads(_repeat_means(own, "test_last").values()),
        concatenated=_spreads(ensembles[row.name].of_repeats().values()),
        combinations=_spreads(ensembles[row.name].scores.values()),
        ensembles=ensembles[row.name],
        validation=_spreads(_repeat_means(own, "validation").values()).get("map_at_r"),
        gains=_gains(benchmark.rows, row, cells, ensembles),
        steps=measured.get("steps"),
        instances=measured.get("instances"),
        seconds=measured.get("seconds"),
        geometry={name: spread for name, spread in measured.items() if name in _GEOMETRY},
        problems=tuple(problems),
    )


def _gains(
    rows: Sequence[Row], row: Row, cells: Mapping[str, Sequence[CellResult]], ensembles: Mapping[str, Ensembles]
) -> dict[str, Gain]:
    """Compare a row with the plain loss of the same variant, or else of no variant."""
    plain = {other.variant: other for other in rows if other.loss == row.loss and other.method == "plain"}
    over = plain.get("") if row.method == "plain" else plain.get(row.variant, plain.get(""))
    if over is None or over.name == row.name:
        return {}
    names = (row.name, over.name)
    pairs: dict[str, Sequence[Mapping[int, Scores]]] = {}
    pairs["concatenated"] = [ensembles[name].of_repeats() for name in names]
    for name, key in (("separated", "test"), ("last", "test_last")):
        models = [
            {(each.cell.repeat, each.cell.fold): each for each in cells[of] if key in each.scores} for of in names
        ]
        common = models[0].keys() & models[1].keys()
        pairs[name] = [_repeat_means([row_cells[model] for model in common], key) for row_cells in models]
    gains = {}
    for name, (ours, theirs) in pairs.items():
        repeats = sorted(ours.keys() & theirs.keys())
        if repeats:
            scores = [[row_cells[repeat]["map_at_r"] for repeat in repeats] for row_cells in (ours, theirs)]
            gains[name] = Gain.of(over.name, *scores)
    return gains


def _repeat_means(cells: Sequence[CellResult], key: str) -> dict[int, Scores]:
    """Average some scores of the models of each repeat."""
    repeats: dict[int, list[Scores]] = {}
    for each in cells:
        repeats.setdefault(each.cell.repeat, []).append(each.scores.get(key, {}))
    return {repeat: {name: each.mean for name, each in _spreads(scores).items()} for repeat, scores in repeats.items()}


def _spreads(scores: Iterable[Scores]) -> dict[str, Spread]:
    """Compute the spread of each score, over those that have it."""
    scores = list(scores)
    names = dict.fromkeys(name for each in scores for name in each if not name.startswith("num_"))
    return {name: Spread.of(each[name] for each in scores if name in each) for name in names}


def best_settings(results: Sequence[RowResult]) -> dict[str, dict[str, Any]]:
    """Return the settings of each loss and method that are best on the validation classes, for `with_row_settings`.

    Where several have been tried and all have the same score, as they changed nothing, there are none.
    """
    tried: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for result in results:
        if result.validation is not None:
            name = replace(result.row, variant="").name
            tried.setdefault(name, []).append((result.validation.mean, dict(result.row.changes)))
    tied = {name for name, pairs in tried.items() if len(pairs) > 1 and len({score for score, _ in pairs}) == 1}
    return {name: max(pairs, key=lambda pair: pair[0])[1] for name, pairs in tried.items() if name not in tied}

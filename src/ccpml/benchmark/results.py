"""From the finished cells of a benchmark to what its rows come to: means, deviations, gains."""

import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scipy.stats import ttest_rel

from ccpml.benchmark.ensemble import Ensembles, score_ensembles
from ccpml.benchmark.protocol import Benchmark, Cell, Row
from ccpml.runs.directory import RunDirectory

__all__ = ["Gain", "Model", "RowResult", "Spread", "best_settings", "gather"]

Scores = Mapping[str, float]

_GEOMETRY = (
    *("train_covering_radius", "train_interclass_distance", "val_covering_radius", "val_interclass_distance"),
    *("proxy_covering_radius", "proxy_spread"),
)


@dataclass(frozen=True)
class Spread:
    """Numbers by their mean and their sample standard deviation.

    Attributes:
        mean: Their mean.
        std: With n − 1 in the denominator; None for a single number.
        count: n.
    """

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Take mean and deviation.

        Raises:
            ValueError: If there are no values.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, std=1.0, count=3)
        """
        values = [float(value) for value in values]
        if not values:
            raise ValueError("values: expected one or more, got none")
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values))


@dataclass(frozen=True)
class Gain:
    """What a row gains over another, repeat by repeat: the same seeds on the same data.

    Attributes:
        over: Name of the other row.
        mean: Mean difference.
        std: Sample standard deviation of the differences; None for a single one.
        count: Repeats that both have.
        won: Repeats in which the difference is positive.
        p: Two-sided p-value of the paired t-test; None where it is undefined: for a single difference, or equal ones.
    """

    over: str
    mean: float
    std: float | None
    count: int
    won: int
    p: float | None

    @classmethod
    def of(cls, over: str, ours: Sequence[float], theirs: Sequence[float]) -> "Gain":
        """Compare paired scores.

        Example:
            >>> Gain.of("plain", [0.5, 0.75], [0.25, 0.25]).mean
            0.375
        """
        differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
        spread, won = Spread.of(differences), sum(difference > 0 for difference in differences)
        p = None
        if spread.std:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # differences that are all but equal
                p = float(ttest_rel(ours, theirs).pvalue)
        return cls(over, spread.mean, spread.std, spread.count, won, p)


@dataclass(frozen=True)
class Model:
    """A finished cell.

    Attributes:
        cell: Which.
        scores: What its ``scores.json`` holds.
        history: The rows of its ``metrics.csv``, by column.
    """

    cell: Cell
    scores: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last row of the history; empty if there is none."""
        return self.history[-1] if self.history else {}

    @classmethod
    def read(cls, cell: Cell) -> "Model":
        """Read a cell.

        Raises:
            FileNotFoundError: If it is not finished.
            ValueError: If its files are damaged.
        """
        run = RunDirectory(cell.path)
        scores = run.scores()
        again = f"remove {run.scores_file}, and the same command scores the run again"
        try:
            numbers = [scores["validation"]["map_at_r"], scores["steps"], scores["instances"]]
            numbers += [value for name in ("test", "test_last") for value in scores.get(name, {}).values()]
            missing = {"map_at_r", "precision_at_1", "r_precision"} - scores["test"].keys()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{run.scores_file}: not the scores of a finished run ({error!r}); {again}") from error
        if missing or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"{run.scores_file}: not the scores of a finished run; {again}")
        return cls(cell, scores, run.metrics())


@dataclass(frozen=True)
class RowResult:
    """What a row comes to. Scores are in 0..1, by name.

    Attributes:
        row: The row.
        models: Its finished cells.
        expected: How many cells it has.
        separated: The mean of a repeat's models, each by itself, by the weights of its best validation; over repeats.
        last: The same by the weights of the last step, where they were tested.
        concatenated: The ensemble of a repeat's own models; over repeats, which are independent.
        combinations: The ensembles of all combinations of models from any repeats, as the paper's authors do.
        ensembles: Every single one.
        validation: MAP@R on the validation classes at its best; over repeats.
        gains: In test MAP@R over the plain loss, for ``separated``, ``last`` and ``concatenated``.
        steps: Steps trained; over models.
        instances: Projections made; over models.
        seconds: Seconds trained; over models.
        geometry: Covering radii and distances at the last validation; over models.
        problems: Cells that are missing, and what else went wrong.
    """

    row: Row
    models: tuple[Model, ...]
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
        """Give all numbers, unrounded, for JSON: those that another run of the same cells would have too."""
        spreads = ("separated", "last", "concatenated", "combinations", "geometry", "gains")
        return {
            "title": self.row.title,
            **asdict(self.row),
            "models": len(self.models),
            "models_expected": self.expected,
            **{name: {key: asdict(value) for key, value in getattr(self, name).items()} for name in spreads},
            **{
                name: None if (spread := getattr(self, name)) is None else asdict(spread)
                for name in ("validation", "steps", "instances")
            },
            "ensembles": [{"repeats": list(repeats), **scores} for repeats, scores in self.ensembles.scores.items()],
            "cells": [{"repeat": model.cell.repeat, "fold": model.cell.fold, **model.scores} for model in self.models],
            "problems": list(self.problems),
        }


def gather(benchmark: Benchmark, progress: bool = True) -> list[RowResult]:
    """Read the finished cells of a benchmark, score their ensembles, and compare the rows.

    Cells that are missing or damaged leave the others standing; the result says which they are.

    Args:
        benchmark: The benchmark.
        progress: Show a line of progress on standard error.

    Returns:
        A result for each row, in their order.
    """
    models: dict[str, list[Model]] = {row.name: [] for row in benchmark.rows}
    problems: dict[str, list[str]] = {row.name: [] for row in benchmark.rows}
    for cell in benchmark.cells():
        try:
            models[cell.row.name].append(Model.read(cell))
        except FileNotFoundError:
            problems[cell.row.name].append(f"{cell.title}: not finished{_why(cell)}")
        except (OSError, ValueError) as error:
            problems[cell.row.name].append(f"{cell.title}: {error}")
    cells = [model.cell for found in models.values() for model in found]
    ensembles = score_ensembles(benchmark, cells, progress)
    return [
        _row_result(benchmark, row, models, ensembles, [*problems[row.name], *ensembles[row.name].problems])
        for row in benchmark.rows
    ]


def best_settings(results: Sequence[RowResult]) -> dict[str, dict[str, Any]]:
    """Give for each loss and method of an ablation the settings that did best on validation classes.

    Args:
        results: What `gather` gives.

    Returns:
        Settings by the name of the loss and method, as `with_settings` takes them.
    """
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for result in results:
        if result.validation is not None:
            name = replace(result.row, variant="").name
            found.setdefault(name, []).append((result.validation.mean, dict(result.row.changes)))
    return {name: max(tried, key=lambda pair: pair[0])[1] for name, tried in found.items()}


def _why(cell: Cell) -> str:
    """Give the last line of a cell's log, if there is one."""
    try:
        log = cell.path.with_name(f"{cell.path.name}.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = log.strip().splitlines()
    return f": {' '.join(lines[-1].split())}" if lines else ""


def _row_result(
    benchmark: Benchmark,
    row: Row,
    models: Mapping[str, Sequence[Model]],
    ensembles: Mapping[str, Ensembles],
    problems: Sequence[str],
) -> RowResult:
    mine, repeats = models[row.name], ensembles[row.name].of_repeats()
    over = _plain(benchmark.rows, row)
    gains: dict[str, Gain | None] = {}
    if over is not None:
        theirs = ensembles[over.name].of_repeats()
        both = sorted(repeats.keys() & theirs.keys())
        ours = [repeats[repeat]["map_at_r"] for repeat in both]
        gains["concatenated"] = Gain.of(over.name, ours, [theirs[r]["map_at_r"] for r in both]) if both else None
        for name, key in (("separated", "test"), ("last", "test_last")):
            gains[name] = _gain(over, mine, models[over.name], key)
    return RowResult(
        row=row,
        models=tuple(mine),
        expected=benchmark.repeats * len(benchmark.folds),
        separated=_over_repeats(mine, lambda model: model.scores["test"]),
        last=_over_repeats(mine, lambda model: model.scores.get("test_last", {})),
        concatenated=_spreads(list(repeats.values())),
        combinations=_spreads(list(ensembles[row.name].scores.values())),
        ensembles=ensembles[row.name],
        validation=_over_repeats(mine, lambda model: model.scores["validation"]).get("map_at_r"),
        gains={name: gain for name, gain in gains.items() if gain is not None},
        steps=_spread(model.scores["steps"] for model in mine),
        instances=_spread(model.scores["instances"] for model in mine),
        seconds=_spread(model.metrics["seconds"] for model in mine if "seconds" in model.metrics),
        geometry=_spreads(
            [{name: model.metrics[name] for name in _GEOMETRY if name in model.metrics} for model in mine]
        ),
        problems=tuple(problems),
    )


def _plain(rows: Sequence[Row], row: Row) -> Row | None:
    """Find the plain loss to compare a row with: with the same setting changed if there is one, else as it is."""
    plain = {other.variant: other for other in rows if other.loss == row.loss and other.method == "plain"}
    found = plain.get("") if row.method == "plain" else plain.get(row.variant, plain.get(""))
    return None if found is None or found.name == row.name else found


def _gain(over: Row, ours: Sequence[Model], theirs: Sequence[Model], key: str) -> Gain | None:
    """Compare the means of each repeat's models, over the folds that both have."""
    mine, others = (
        {(model.cell.repeat, model.cell.fold): model.scores[key]["map_at_r"] for model in models if key in model.scores}
        for models in (ours, theirs)
    )
    both = sorted(mine.keys() & others.keys())
    repeats = sorted({repeat for repeat, _ in both})
    means = [
        [statistics.fmean(scores[place] for place in both if place[0] == repeat) for repeat in repeats]
        for scores in (mine, others)
    ]
    return Gain.of(over.name, *means) if repeats else None


def _over_repeats(models: Sequence[Model], scores: Callable[[Model], Scores]) -> dict[str, Spread]:
    """Average the models of each repeat; then take the spread over repeats."""
    repeats: dict[int, list[Scores]] = {}
    for model in models:
        repeats.setdefault(model.cell.repeat, []).append(scores(model))
    return _spreads([_means(of_one) for of_one in repeats.values()])


def _means(scores: Sequence[Scores]) -> dict[str, float]:
    return {name: spread.mean for name, spread in _spreads(scores).items()}


def _spreads(scores: Sequence[Scores]) -> dict[str, Spread]:
    """Take the spread of each score, over those that have it."""
    names = dict.fromkeys(name for one in scores for name in one if not name.startswith("num_"))
    return {name: Spread.of(one[name] for one in scores if name in one) for name in names}


def _spread(values: Iterable[float]) -> Spread | None:
    values = list(values)
    return Spread.of(values) if values else None

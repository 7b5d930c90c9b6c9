"""The tables of a benchmark: scores, gains, the paper's figures, training and geometry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import METRICS, Benchmark
from ccpml.benchmark.results import RowResult
from ccpml.benchmark.spread import MEASURES, Gain, Spread, changes, percent
from ccpml.benchmark.text_table import TextTable

__all__ = ["GEOMETRY", "RECALLS", "make_tables"]

RECALLS = {"recall_at_2": "R@2", "recall_at_4": "R@4", "recall_at_8": "R@8"}
GEOMETRY = {
    "val_covering_radius": "val. radius",
    "val_interclass_distance": "val. distance",
    "proxy_covering_radius": "proxy radius",
    "proxy_spread": "proxy spread",
}
_NONE = "–"

Column = tuple[tuple[str, str], Callable[[RowResult], str]]
"""Group and name of a column, and its text for a row."""

_MODELS: Column = (("", "models"), lambda result: f"{len(result.cells)}/{result.expected}")


def make_tables(benchmark: Benchmark, results: Sequence[RowResult]) -> list[TextTable]:
    """Return the tables of a benchmark: those of ensembles, or of single models if there is a single fold."""
    write = _Writer(benchmark.repeats)
    make_scores = _ensemble_tables if len(benchmark.folds) > 1 else _single_model_tables
    return [*make_scores(benchmark, results, write), _training_table(results, write), *_instance_tables(results)]


def _single_model_tables(benchmark: Benchmark, results: Sequence[RowResult], write: "_Writer") -> list[TextTable]:
    dims = _dims(benchmark, 1)
    size = f", {dims}" if dims else ""
    has_last = any(result.last for result in results)
    columns = [*write.scores("separated", METRICS | RECALLS), _MODELS]
    tables = [_table(f"Test by the weights of the best validation{size}", results, columns)]
    if has_last:
        columns = write.scores("last", METRICS | RECALLS)
        tables.append(_table(f"Test by the weights of the last step{size}", results, columns))
    groups = {"separated": "best validation", "last": "last step"} if has_last else {"separated": ""}
    return [*tables, *_gain_tables(results, groups, write)]


def _ensemble_tables(benchmark: Benchmark, results: Sequence[RowResult], write: "_Writer") -> list[TextTable]:
    dims = {"concatenated": _dims(benchmark, len(benchmark.folds)), "separated": _dims(benchmark, 1)}
    long = {name: " ".join(filter(None, (name, size))) for name, size in dims.items()}
    groups = {name: size or name for name, size in dims.items()}
    columns = [column for name, group in groups.items() for column in write.scores(name, METRICS, group)]
    tables = [_table(f"Test, {long['concatenated']} and {long['separated']}", results, [*columns, _MODELS])]
    tables += _gain_tables(results, groups, write)
    if benchmark.repeats > 1:
        number: Column = (("", "combinations"), lambda result: f"{len(result.ensembles.scores):,}")
        title = f"Test, {long['concatenated']}: all combinations of models"
        tables.append(_table(title, results, [*write.scores("combinations", METRICS), number]))
    return [*tables, *_paper_tables(benchmark, results, groups)]


def _gain_tables(results: Sequence[RowResult], groups: Mapping[str, str], write: "_Writer") -> list[TextTable]:
    compared = [result for result in results if result.gains]
    columns = [column for name, group in groups.items() for column in write.gains(name, group)]
    return [_table("Gain in MAP@R over the plain loss", compared, columns)] if compared else []


def _paper_tables(benchmark: Benchmark, results: Sequence[RowResult], groups: Mapping[str, str]) -> list[TextTable]:
    """Compare with the paper's figures."""
    reported = {result.row.name: paper_scores(benchmark, result.row) or {} for result in results}
    compared = [result for result in results if reported[result.row.name] and result.cells]

    def text(result: RowResult, name: str, metric: str) -> str:
        theirs = reported[result.row.name][name][metric]
        ours = getattr(result, name).get(metric)
        return f"{percent(theirs)} ({_NONE if ours is None else percent(ours.mean - theirs, '+')})"

    columns: list[Column] = [
        ((group, title), partial(text, name=name, metric=metric))
        for name, group in groups.items()
        for metric, title in METRICS.items()
    ]
    return [_table("The paper's figures (and by how much ours exceed them)", compared, columns)] if compared else []


def _training_table(results: Sequence[RowResult], write: "_Writer") -> TextTable:
    def geometry(result: RowResult, name: str) -> str:
        return _mean(result.geometry.get(name), 3)

    columns: list[Column] = [
        (("", "validation MAP@R"), lambda result: write.spread(result.validation)),
        (("", "steps"), lambda result: _mean(result.steps, 0)),
        (("", "projections"), lambda result: _mean(result.instances, 1)),
    ]
    columns += [
        (("", title), partial(geometry, name=name))
        for name, title in GEOMETRY.items()
        if any(name in result.geometry for result in results)
    ]
    return _table("Training (means over models; radii and distances at the last validation)", results, columns)


def _instance_tables(results: Sequence[RowResult]) -> list[TextTable]:
    """Compare the geometry of the classes at the end of the first instance and at the end of training."""
    rows = []
    for result in results:
        found = changes([cell.history for cell in result.cells])
        if found:
            known = [found.get(name) for name in MEASURES]
            texts = [_NONE if x is None else f"{x.before:.3f} → {x.after:.3f} ({x.fell} fell)" for x in known]
            rows.append((result.row.title, *texts, str(max(x.count for x in found.values()))))
    title = "Covering radius and distance between classes: end of the first instance → end of training"
    return [TextTable(title, (*MEASURES.values(), ("", "models")), tuple(rows))] if rows else []


def _table(title: str, results: Sequence[RowResult], columns: Sequence[Column]) -> TextTable:
    rows = tuple((result.row.title, *(text(result) for _, text in columns)) for result in results)
    return TextTable(title, tuple(head for head, _ in columns), rows)


@dataclass(frozen=True)
class _Writer:
    """Write means with their deviations, or without if the benchmark has a single repeat."""

    repeats: int

    def spread(self, spread: Spread | Gain | None, sign: str = "") -> str:
        if spread is None:
            return _NONE
        mean = percent(spread.mean, sign)
        if self.repeats == 1:
            return mean
        return f"{mean} ± {_NONE if spread.std is None else f'{100 * spread.std:.2f}'}"

    def scores(self, name: str, metrics: Mapping[str, str], group: str = "") -> list[Column]:
        """Return the columns of some metrics of an attribute of the results."""

        def column(metric: str, title: str) -> Column:
            return (group, title), lambda result: self.spread(getattr(result, name).get(metric))

        return [column(metric, title) for metric, title in metrics.items()]

    def gains(self, name: str, group: str) -> list[Column]:
        """Return the columns of a gain."""

        def column(title: str, text: Callable[[Gain], str]) -> Column:
            return (group, title), lambda result: text(result.gains[name]) if name in result.gains else _NONE

        return [
            column("gain", lambda gain: self.spread(gain, "+")),
            column("won", lambda gain: f"{gain.won} of {gain.count}"),
            column("p", lambda gain: _p_value(gain.p)),
        ]


def _mean(spread: Spread | None, digits: int) -> str:
    return _NONE if spread is None else f"{spread.mean:,.{digits}f}"


def _p_value(p: float | None) -> str:
    if p is None:
        return _NONE
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _dims(benchmark: Benchmark, models: int) -> str:
    """Return the dimension of concatenated embeddings, as in 512-D; empty if it differs between rows."""
    if any("embedding_dim" in row.changes for row in benchmark.rows):
        return ""
    return f"{models * benchmark.base.embedding_dim}-D"

"""The result of a benchmark as tables: Markdown for reading, LaTeX for papers, CSV and JSON for programs."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ccpml.benchmark.ablations import ablation_title
from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import Benchmark
from ccpml.benchmark.results import Gain, RowResult, Spread
from ccpml.benchmark.table import Table
from ccpml.benchmark.table_data import as_csv, as_json
from ccpml.files import write_json, write_text
from ccpml.runs.instances import changes
from ccpml.runs.settings import Settings

__all__ = ["describe", "make_tables", "write_tables"]

_NONE = "–"
_METRICS = {"precision_at_1": "P@1", "r_precision": "P@R", "map_at_r": "MAP@R"}
_RECALLS = {"recall_at_2": "R@2", "recall_at_4": "R@4", "recall_at_8": "R@8"}
_GEOMETRY = {
    "val_covering_radius": "val. radius",
    "val_interclass_distance": "val. distance",
    "proxy_covering_radius": "proxy radius",
    "proxy_spread": "proxy spread",
}
_NOT_OF_THE_MODEL = {"data_root", "device", "threads", "workers", "seed", "fold", "allow_partial", "skip_bad_images"}


def write_tables(benchmark: Benchmark, results: Sequence[RowResult]) -> list[Path]:
    """Write ``table.md``, ``table.csv``, ``table.tex``, ``table.json`` and ``timings.json`` of a benchmark.

    All but the last hold nothing that differs between two runs of the same cells: a benchmark that was killed and
    started again has the same tables.

    Args:
        benchmark: The benchmark.
        results: What `gather` gives.

    Returns:
        The files.
    """
    out, title, facts = benchmark.out, _title(benchmark), describe(benchmark, results)
    tables = make_tables(benchmark, results)
    missing = [problem for result in results for problem in result.problems]
    parts = [f"# {title}\n", "".join(_item(fact) for fact in facts)]
    parts += [f"## {table.title}\n\n{table.markdown()}" for table in tables]
    parts += ["## Missing\n\n" + "".join(_item(problem) for problem in missing)] if missing else []
    write_text(out / "table.md", "\n".join(parts))
    remarks = [f"{title}.", "Include it by \\input; it wants \\usepackage{booktabs}.", *facts]
    comments = [*remarks, *(f"Missing: {problem}" for problem in missing)]
    commented = "".join(f"% {_one_line(comment)}\n" for comment in comments)
    write_text(out / "table.tex", "\n".join([commented, *(table.tex() for table in tables)]))
    write_text(out / "table.csv", as_csv(benchmark, results))
    write_json(out / "table.json", as_json(benchmark, results))
    seconds = {result.row.name: None if result.seconds is None else asdict(result.seconds) for result in results}
    write_json(out / "timings.json", {"seconds of training, a model": seconds})
    return [out / f"table.{kind}" for kind in ("md", "csv", "tex", "json")] + [out / "timings.json"]


def describe(benchmark: Benchmark, results: Sequence[RowResult]) -> list[str]:
    """Say in sentences what the tables show: the data, the protocol, and which deviation is which."""
    folds, repeats, seed = len(benchmark.folds), benchmark.repeats, benchmark.base.seed
    facts = [
        *_data(benchmark, results),
        "Scores are in per cent. Test images were looked at at the end of each run alone"
        + (
            ", with the weights of the best validation and with the last."
            if any(result.last for result in results)
            else "."
        ),
    ]
    if folds > 1:
        facts.append(
            f"Concatenated: the embeddings of a repeat's {folds} models joined and normalised again. Separated: the "
            f"mean of the {folds} models, each by itself."
        )
    if repeats == 1:
        facts.append(f"One repeat (seed {seed}), so there is no standard deviation.")
        if folds > 1:
            facts.append("All combinations of models, as the paper's authors average them, are this one ensemble.")
    else:
        facts.append(
            f"± is the sample standard deviation over {repeats} independent repeats (seeds {seed} to "
            f"{seed + repeats - 1}), which share no model."
        )
        if folds > 1:
            facts.append(
                f"All combinations: mean ± standard deviation over the ensembles of a model of each fold from any "
                f"repeat ({repeats}^{folds} = {repeats**folds:,} of them if no model is missing), as the paper's "
                "authors do. They share models, so it is too small for an error bar."
            )
    if any(result.gains for result in results):
        facts.append(
            "Gain: difference in MAP@R to the plain loss of the same repeat. Won: repeats in which it is positive. "
            f"p: two-sided paired t-test over repeats, {_NONE} where it is undefined."
        )
    other = _other_settings(benchmark)
    if other:
        named = ", ".join(f"{name} {value}" for name, value in other.items())
        facts.append(f"The settings differ from the paper's: {named}.")
    return [*facts, *_provenance(results)]


def _provenance(results: Sequence[RowResult]) -> list[str]:
    """Say by which code, and on which machines, the models were made."""
    scores = [model.scores for result in results for model in result.models]
    commits = sorted({str(of_one.get("commit")) for of_one in scores if of_one.get("commit")})
    versions = {
        f"{name} {of_one['versions'][name]}"
        for of_one in scores
        for name in ("ccpml", "torch")
        if name in (of_one.get("versions") or {})
    }
    machines = {
        ", ".join(f"{name} {value}" for name, value in of_one["hardware"].items())
        for of_one in scores
        if of_one.get("hardware")
    }
    made = [*sorted(versions), *(f"commit {commit[:12]}{commit[40:]}" for commit in commits)]
    return [f"Made by {', '.join(made)}; on {'; or '.join(sorted(machines)) or 'an unknown machine'}."] if made else []


def _data(benchmark: Benchmark, results: Sequence[RowResult]) -> list[str]:
    """Say what the data are."""
    models = [model for result in results for model in result.models]
    if not models:
        return ["No cell is finished."]
    sizes = dict.fromkeys(_sizes(model.scores) for model in models)
    test, train = next(iter(sizes))
    scores = models[0].scores["test"]
    counted = f"{scores.get('num_queries', 0):,} queries count"
    if scores.get("num_skipped"):
        counted += f", {scores['num_skipped']:,} do not, as no other image is of their class"
    part = "one of which validates" if len(benchmark.folds) == 1 else "each of which validates for one model"
    facts = [
        f"Test: {test}; {counted}.",
        f"Training: {train}, their classes in {benchmark.base.folds} parts, {part}.",
    ]
    if len(sizes) > 1:
        facts.append("The cells do NOT have the same images: their numbers of images differ, and no row compares.")
    if any(model.scores.get("partial") for model in models):
        facts.append("The data are PARTIAL (allow_partial): no figure compares with a published one.")
    left_out = max(len(model.scores.get("images_left_out", ())) for model in models)
    if left_out:
        facts.append(f"{left_out:,} images that cannot be read were left out (skip_bad_images).")
    return facts


def _sizes(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Give the sizes of the test set and of the classes that train or validate, in words."""
    splits = scores.get("splits", {})
    words = []
    for names in (("test",), ("train", "validation")):
        classes, images = (sum(splits.get(name, {}).get(what, 0) for name in names) for what in ("classes", "images"))
        words.append(f"{classes:,} classes, {images:,} images")
    return words[0], words[1]


def make_tables(benchmark: Benchmark, results: Sequence[RowResult]) -> list[Table]:
    """Make the tables that suit a benchmark: those of ensembles, or those of single models."""
    write = _Write(benchmark.repeats)
    tables = _of_single_models(benchmark, results, write)
    if len(benchmark.folds) > 1:
        tables = _of_ensembles(benchmark, results, write)
    return [*tables, _training(results, write), *_instances(results)]


def _of_single_models(benchmark: Benchmark, results: Sequence[RowResult], write: "_Write") -> list[Table]:
    dims = _dims(benchmark, 1)
    size = f", {dims}" if dims else ""
    last = any(result.last for result in results)
    metrics = {**_METRICS, **_RECALLS}
    title = f"Test by the weights of the best validation{size}"
    tables = [_table(title, results, [*write.scores("separated", metrics), _MODELS])]
    if last:
        title = f"Test by the weights of the last step{size}"
        tables.append(_table(title, results, write.scores("last", metrics)))
    groups = {"separated": "best validation", "last": "last step"} if last else {"separated": ""}
    return [*tables, *_gains(results, groups, write)]


def _of_ensembles(benchmark: Benchmark, results: Sequence[RowResult], write: "_Write") -> list[Table]:
    wide = " ".join(filter(None, ("concatenated", _dims(benchmark, len(benchmark.folds)))))
    narrow = " ".join(filter(None, ("separated", _dims(benchmark, 1))))
    short = [_dims(benchmark, len(benchmark.folds)) or "concatenated", _dims(benchmark, 1) or "separated"]
    groups = dict(zip(("concatenated", "separated"), short, strict=True))
    columns = [column for name, group in groups.items() for column in write.scores(name, _METRICS, group)]
    tables = [_table(f"Test, {wide} and {narrow}", results, [*columns, _MODELS])]
    tables += _gains(results, groups, write)
    if benchmark.repeats > 1:
        number: Column = (("", "combinations"), lambda result: f"{len(result.ensembles.scores):,}")
        title = f"Test, {wide}: all combinations of models"
        tables.append(_table(title, results, [*write.scores("combinations", _METRICS), number]))
    return [*tables, *_beside_the_paper(benchmark, results, groups)]


def _gains(results: Sequence[RowResult], groups: Mapping[str, str], write: "_Write") -> list[Table]:
    compared = [result for result in results if result.gains]
    if not compared:
        return []
    columns = [column for name, group in groups.items() for column in write.gains(name, group)]
    return [_table("Gain in MAP@R over the plain loss", compared, columns)]


def _beside_the_paper(benchmark: Benchmark, results: Sequence[RowResult], groups: Mapping[str, str]) -> list[Table]:
    """Set the paper's figures, and ours less the paper's, side by side."""
    known = {result.row.name: paper_scores(benchmark.base.data, result.row) for result in results}
    compared = [result for result in results if known[result.row.name] and result.models]
    if benchmark.protocol != "mlrc" or not compared:
        return []

    def text(result: RowResult, name: str, metric: str) -> str:
        theirs = (known[result.row.name] or {})[name][metric]
        ours = getattr(result, name).get(metric)
        difference = _NONE if ours is None else f"{_rounded(100 * (ours.mean - theirs)):+.2f}"
        return f"{100 * theirs:.2f} ({difference})"

    columns: list[Column] = [
        ((group, head), partial(text, name=name, metric=metric))
        for name, group in groups.items()
        for metric, head in _METRICS.items()
    ]
    return [_table("The paper's figures (and by how much ours exceed them)", compared, columns)]


def _training(results: Sequence[RowResult], write: "_Write") -> Table:
    columns: list[Column] = [
        (("", "validation MAP@R"), lambda result: write.text(result.validation)),
        (("", "steps"), lambda result: _mean(result.steps, 0)),
        (("", "projections"), lambda result: _mean(result.instances, 1)),
    ]

    def geometry(result: RowResult, name: str) -> str:
        return _mean(result.geometry.get(name), 3)

    columns += [
        (("", head), partial(geometry, name=name))
        for name, head in _GEOMETRY.items()
        if any(name in result.geometry for result in results)
    ]
    return _table("Training (means over models; radii and distances at the last validation)", results, columns)


_CHANGES = {
    "train_covering_radius": ("training classes", "radius"),
    "train_interclass_distance": ("training classes", "distance"),
    "val_covering_radius": ("validation classes", "radius"),
    "val_interclass_distance": ("validation classes", "distance"),
}


def _instances(results: Sequence[RowResult]) -> list[Table]:
    """Say how the geometry of the classes changes from the end of the first instance to the end of training."""
    rows = []
    for result in results:
        found = changes([model.history for model in result.models])
        if found:
            known = [found.get(name) for name in _CHANGES]
            texts = [_NONE if x is None else f"{x.before:.3f} → {x.after:.3f} ({x.fell} fell)" for x in known]
            rows.append((result.row.title, *texts, str(max(x.count for x in found.values()))))
    title = "Covering radius and distance between classes: end of the first instance → end of training"
    return [Table(title, (*_CHANGES.values(), ("", "models")), tuple(rows))] if rows else []


Column = tuple[tuple[str, str], Callable[[RowResult], str]]
"""Group and name of a column, and what it says of a row."""

_MODELS: Column = (("", "models"), lambda result: f"{len(result.models)}/{result.expected}")


def _table(title: str, results: Sequence[RowResult], columns: Sequence[Column]) -> Table:
    rows = tuple((result.row.title, *(text(result) for _, text in columns)) for result in results)
    return Table(title, tuple(head for head, _ in columns), rows)


@dataclass(frozen=True)
class _Write:
    """How means and deviations are written: without the latter where there is but one repeat by intention."""

    repeats: int

    def text(self, spread: Spread | Gain | None, sign: str = "") -> str:
        if spread is None:
            return _NONE
        mean = f"{_rounded(100 * spread.mean):{sign}.2f}"
        if self.repeats == 1:
            return mean
        return f"{mean} ± {_NONE if spread.std is None else f'{100 * spread.std:.2f}'}"

    def scores(self, name: str, metrics: Mapping[str, str], group: str = "") -> list[Column]:
        """Give the columns of some metrics of one of the attributes of a result."""

        def column(metric: str, head: str) -> Column:
            return (group, head), lambda result: self.text(getattr(result, name).get(metric))

        return [column(metric, head) for metric, head in metrics.items()]

    def gains(self, name: str, group: str) -> list[Column]:
        """Give the columns of a gain."""

        def column(head: str, text: Callable[[Gain], str]) -> Column:
            return (group, head), lambda result: text(result.gains[name]) if name in result.gains else _NONE

        return [
            column("gain", lambda gain: self.text(gain, "+")),
            column("won", lambda gain: f"{gain.won} of {gain.count}"),
            column("p", lambda gain: _p_value(gain.p)),
        ]


def _mean(spread: Spread | None, digits: int) -> str:
    return _NONE if spread is None else f"{spread.mean:,.{digits}f}"


def _rounded(value: float) -> float:
    return round(value, 2) + 0.0  # no negative zero


def _p_value(p: float | None) -> str:
    if p is None:
        return _NONE
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _dims(benchmark: Benchmark, models: int) -> str:
    """Give the dimensions of so many embeddings, as in 512-D; nothing if the rows differ in theirs."""
    if any("embedding_dim" in row.changes for row in benchmark.rows):
        return ""
    return f"{models * benchmark.base.embedding_dim}-D"


def _title(benchmark: Benchmark) -> str:
    protocol = {"mlrc": "MLRC protocol", "conventional": "conventional protocol"}[benchmark.protocol]
    varied = "" if benchmark.ablation is None else f", ablation of {ablation_title(benchmark.ablation)}"
    return f"{_one_line(benchmark.base.data)}, {protocol}{varied}"


def _other_settings(benchmark: Benchmark) -> dict[str, Any]:
    """Give the settings in which rows that the paper has differ from the paper's."""
    differing: dict[str, Any] = {}
    for row in benchmark.rows:
        if benchmark.protocol == "mlrc" and paper_scores(benchmark.base.data, row):
            ours = next(benchmark.models(row, 0)).settings
            theirs = Settings(data=ours.data, method=ours.method, loss=ours.loss).resolved().flat()
            differing |= {name: value for name, value in ours.flat().items() if value != theirs.get(name)}
    return {name: value for name, value in differing.items() if name not in _NOT_OF_THE_MODEL}


def _item(text: str) -> str:
    wrapped = textwrap.wrap(_one_line(text), 110, break_long_words=False, break_on_hyphens=False)
    return "- " + "\n  ".join(wrapped) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())

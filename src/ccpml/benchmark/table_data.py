"""The result of a benchmark for programs: CSV and JSON."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import Benchmark
from ccpml.benchmark.results import Gain, RowResult, Spread

__all__ = ["as_csv", "as_json"]

_METRICS = ("precision_at_1", "r_precision", "map_at_r")
_RECALLS = ("recall_at_2", "recall_at_4", "recall_at_8")
_GEOMETRY = ("val_covering_radius", "val_interclass_distance", "proxy_covering_radius", "proxy_spread")


def as_csv(benchmark: Benchmark, results: Sequence[RowResult]) -> str:
    """Write a line for each row: scores and their deviations in per cent, empty where there are none."""
    lines = []
    for result in results:
        row = result.row
        line: dict[str, Any] = {"row": row.title, "loss": row.loss, "method": row.method, "variant": row.variant}
        line |= {"value": row.value, "models": len(result.models), "models_expected": result.expected}
        for name in ("concatenated", "combinations", "separated", "last"):
            for metric in (*_METRICS, *_RECALLS):
                line |= _two(f"{name}_{metric}", getattr(result, name).get(metric))
        line["num_combinations"] = len(result.ensembles.scores)
        for name in ("concatenated", "separated", "last"):
            gain = result.gains.get(name)
            line |= _two(f"{name}_gain", gain)
            line |= {
                f"{name}_won": gain and gain.won,
                f"{name}_pairs": gain and gain.count,
                f"{name}_p": gain and gain.p,
            }
        line |= _two("validation_map_at_r", result.validation)
        line |= {"steps": result.steps and result.steps.mean, "projections": result.instances and result.instances.mean}
        line |= {name: result.geometry[name].mean if name in result.geometry else None for name in _GEOMETRY}
        paper = paper_scores(benchmark.base.data, row) if benchmark.protocol == "mlrc" else None
        for name in ("concatenated", "separated"):
            for metric in _METRICS:
                theirs = None if paper is None else paper[name][metric]
                ours = getattr(result, name).get(metric)
                both = theirs is not None and ours is not None
                line[f"paper_{name}_{metric}"] = None if theirs is None else _per_cent(theirs)
                line[f"minus_paper_{name}_{metric}"] = _per_cent(ours.mean - theirs) if both else None
        lines.append(line)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _two(name: str, spread: Spread | Gain | None) -> dict[str, str | None]:
    """Give the cells of a mean and its deviation."""
    std = None if spread is None or spread.std is None else f"{100 * spread.std:.2f}"
    return {name: None if spread is None else _per_cent(spread.mean), f"{name}_std": std}


def _per_cent(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:.2f}"  # no negative zero


def as_json(benchmark: Benchmark, results: Sequence[RowResult]) -> dict[str, Any]:
    """Give what the JSON file holds: everything, unrounded, scores in 0..1."""
    models = [model for result in results for model in result.models]
    sources = [{name: model.scores.get(name) for name in ("versions", "commit", "hardware")} for model in models]
    rows = []
    for result in results:
        settings = next(benchmark.models(result.row, 0)).settings.flat()
        paper = paper_scores(benchmark.base.data, result.row) if benchmark.protocol == "mlrc" else None
        rows.append({**result.as_dict(), "settings": settings, "paper": paper})
    return {
        "data": benchmark.base.data,
        "protocol": benchmark.protocol,
        "ablation": benchmark.ablation,
        "repeats": benchmark.repeats,
        "folds": list(benchmark.folds),
        "settings": benchmark.settings,
        "splits": models[0].scores.get("splits") if models else None,
        "partial": any(model.scores.get("partial") for model in models),
        "provenance": [source for place, source in enumerate(sources) if source not in sources[:place]],
        "rows": rows,
    }

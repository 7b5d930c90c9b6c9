"""Write the result of a benchmark: Markdown, LaTeX, CSV and JSON."""

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import METRICS, Benchmark
from ccpml.benchmark.results import RowResult
from ccpml.benchmark.spread import Gain, Spread, percent
from ccpml.benchmark.summary import summarize, title_of
from ccpml.benchmark.tables import GEOMETRY, RECALLS, make_tables
from ccpml.benchmark.text_table import TextTable
from ccpml.files import write_json, write_text

__all__ = ["write_outputs"]


def write_outputs(benchmark: Benchmark, results: Sequence[RowResult]) -> list[Path]:
    """Write ``table.md``, ``table.csv``, ``table.tex``, ``table.json`` and ``timings.json`` of a benchmark.

    All but the last are the same for the same cells, whether the benchmark was interrupted or not.
    """
    out, title, facts = benchmark.out, title_of(benchmark), summarize(benchmark, results)
    tables = make_tables(benchmark, results)
    missing = [problem for result in results for problem in result.problems]
    write_text(out / "table.md", _markdown(title, facts, tables, missing))
    write_text(out / "table.tex", _tex(title, facts, tables, missing))
    write_text(out / "table.csv", _csv(benchmark, results))
    write_json(out / "table.json", _content(benchmark, results))
    seconds = {result.row.name: None if result.seconds is None else asdict(result.seconds) for result in results}
    write_json(out / "timings.json", {"seconds of training, a model": seconds})
    return [out / f"table.{kind}" for kind in ("md", "csv", "tex", "json")] + [out / "timings.json"]


def _markdown(title: str, facts: Sequence[str], tables: Sequence[TextTable], missing: Sequence[str]) -> str:
    parts = [f"# {title}\n", _bullets(facts), *(f"## {table.title}\n\n{table.markdown()}" for table in tables)]
    return "\n".join([*parts, *([f"## Missing\n\n{_bullets(missing)}"] if missing else [])])


def _bullets(texts: Sequence[str]) -> str:
    lines = [textwrap.wrap(_one_line(text), 110, break_long_words=False, break_on_hyphens=False) for text in texts]
    return "".join("- " + "\n  ".join(wrapped) + "\n" for wrapped in lines)


def _tex(title: str, facts: Sequence[str], tables: Sequence[TextTable], missing: Sequence[str]) -> str:
    comments = [f"{title}.", r"Include it with \input; it needs \usepackage{booktabs}.", *facts]
    comments += [f"Missing: {problem}" for problem in missing]
    return "\n".join(["".join(f"% {_one_line(comment)}\n" for comment in comments), *(table.tex() for table in tables)])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _csv(benchmark: Benchmark, results: Sequence[RowResult]) -> str:
    """Return a line for each row: scores and deviations in per cent, empty where there are none."""
    lines = [_csv_line(benchmark, result) for result in results]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_line(benchmark: Benchmark, result: RowResult) -> dict[str, Any]:
    row = result.row
    line: dict[str, Any] = {"row": row.title, "loss": row.loss, "method": row.method, "variant": row.variant}
    line |= {"value": row.value, "models": len(result.cells), "models_expected": result.expected}
    for name in ("concatenated", "combinations", "separated", "last"):
        for metric in METRICS | RECALLS:
            line |= _mean_and_std(f"{name}_{metric}", getattr(result, name).get(metric))
    line["num_combinations"] = len(result.ensembles.scores)
    for name in ("concatenated", "separated", "last"):
        gain = result.gains.get(name)
        line |= _mean_and_std(f"{name}_gain", gain)
        for column, attribute in (("won", "won"), ("pairs", "count"), ("p", "p")):
            line[f"{name}_{column}"] = getattr(gain, attribute, None)
    line |= _mean_and_std("validation_map_at_r", result.validation)
    line |= {"steps": getattr(result.steps, "mean", None), "projections": getattr(result.instances, "mean", None)}
    line |= {name: getattr(result.geometry.get(name), "mean", None) for name in GEOMETRY}
    paper = paper_scores(benchmark, row) or {}
    for name in ("concatenated", "separated"):
        for metric in METRICS:
            theirs, ours = paper.get(name, {}).get(metric), getattr(result, name).get(metric)
            line[f"paper_{name}_{metric}"] = None if theirs is None else percent(theirs)
            both = theirs is not None and ours is not None
            line[f"minus_paper_{name}_{metric}"] = percent(ours.mean - theirs) if both else None
    return line


def _mean_and_std(name: str, spread: Spread | Gain | None) -> dict[str, str | None]:
    std = None if spread is None or spread.std is None else f"{100 * spread.std:.2f}"
    return {name: None if spread is None else percent(spread.mean), f"{name}_std": std}


def _content(benchmark: Benchmark, results: Sequence[RowResult]) -> dict[str, Any]:
    """Return the content of the JSON file: everything, unrounded, scores in 0..1."""
    cells = [cell for result in results for cell in result.cells]
    sources = [{name: cell.scores.get(name) for name in ("versions", "commit", "hardware")} for cell in cells]
    rows = []
    for result in results:
        settings = next(benchmark.row_cells(result.row, 0)).settings.flat()
        rows.append({**result.as_dict(), "settings": settings, "paper": paper_scores(benchmark, result.row)})
    return {
        "data": benchmark.base.data,
        "protocol": benchmark.protocol,
        "ablation": benchmark.ablation,
        "repeats": benchmark.repeats,
        "folds": list(benchmark.folds),
        "settings": benchmark.settings,
        "splits": cells[0].scores.get("splits") if cells else None,
        "partial": any(cell.scores.get("partial") for cell in cells),
        "provenance": [source for index, source in enumerate(sources) if source not in sources[:index]],
        "rows": rows,
    }

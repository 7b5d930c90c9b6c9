"""What the tables of a benchmark show, in sentences: data, protocol, deviations, settings, provenance."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ccpml.benchmark.ablations import ablation_title
from ccpml.benchmark.paper import paper_scores
from ccpml.benchmark.protocol import Benchmark
from ccpml.benchmark.results import CellResult, RowResult
from ccpml.numbers import counted
from ccpml.progress import print_note
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import Settings
from ccpml.runs.values import INCIDENTAL

__all__ = ["summarize", "title_of"]

_NON_MODEL_SETTINGS = INCIDENTAL | {"seed", "fold", "allow_partial", "skip_bad_images"}


def title_of(benchmark: Benchmark) -> str:
    """Return the title of a benchmark: data, protocol, ablation."""
    protocol = {"mlrc": "MLRC protocol", "conventional": "conventional protocol"}[benchmark.protocol]
    ablation = "" if benchmark.ablation is None else f", ablation of {ablation_title(benchmark.ablation)}"
    return f"{' '.join(benchmark.base.data.split())}, {protocol}{ablation}"


def summarize(benchmark: Benchmark, results: Sequence[RowResult]) -> list[str]:
    """Return sentences on what the tables show."""
    cells = [cell for result in results for cell in result.cells]
    weights = ", with the weights of the best validation and with the last" if any(r.last for r in results) else ""
    facts = [
        *_describe_data(benchmark, cells),
        f"Scores are in per cent. Test images were scored only at the end of each run{weights}.",
        *_describe_deviations(benchmark),
    ]
    if any(result.gains for result in results):
        facts.append(
            "Gain: difference in MAP@R to the plain loss of the same repeat. Won: repeats in which it is positive. "
            "p: two-sided paired t-test over repeats, – where it is undefined."
        )
    facts += _describe_row_settings(benchmark)
    other = _differences_from_paper(benchmark)
    if other:
        listed = ", ".join(f"{name} {value}" for name, value in other.items())
        facts.append(f"The settings differ from the paper's: {listed}.")
    return [*facts, *_describe_notes(results), *_describe_provenance(cells)]


def _describe_data(benchmark: Benchmark, cells: Sequence[CellResult]) -> list[str]:
    if not cells:
        return ["No cell is finished."]
    sizes = dict.fromkeys(_describe_sizes(cell.scores) for cell in cells)
    test, train = next(iter(sizes))
    scores = cells[0].scores["test"]
    queries = f"{counted(scores.get('num_queries', 0), 'query')} scored"
    if scores.get("num_skipped"):
        queries += f"; {scores['num_skipped']:,} skipped (no other image of their class)"
    part = "one of which validates" if len(benchmark.folds) == 1 else "each of which validates for one model"
    facts = [
        f"Test: {test}; {queries}.",
        f"Training: {train}, their classes in {cells[0].cell.settings.folds} parts, {part}.",
    ]
    if len(sizes) > 1:
        facts.append("The cells do not have the same images (their numbers differ), so the rows cannot be compared.")
    if any(cell.scores.get("partial") for cell in cells):
        facts.append("The data are partial (allow_partial): no figure can be compared with a published one.")
    left_out = max(len(cell.scores.get("images_left_out", ())) for cell in cells)
    if left_out:
        facts.append(f"{left_out:,} unreadable images were left out (skip_bad_images).")
    return facts


def _describe_sizes(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Return the sizes of the test set, and of the classes that train or validate."""
    splits = scores.get("splits", {})
    texts = []
    for names in (("test",), ("train", "validation")):
        classes, images = (sum(splits.get(name, {}).get(what, 0) for name in names) for what in ("classes", "images"))
        texts.append(f"{counted(classes, 'class')}, {counted(images, 'image')}")
    return texts[0], texts[1]


def _describe_deviations(benchmark: Benchmark) -> list[str]:
    folds, repeats, seed = len(benchmark.folds), benchmark.repeats, benchmark.base.seed
    facts = []
    if folds > 1:
        facts.append(
            f"Concatenated: the embeddings of the {folds} models of a repeat, concatenated and normalized again. "
            f"Separated: the mean of the {folds} models."
        )
    if repeats == 1:
        facts.append(f"One repeat (seed {seed}), so there is no standard deviation.")
        if folds > 1:
            facts.append("All combinations of models, as the paper's authors average them, are this one ensemble.")
        return facts
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
    return facts


def _describe_row_settings(benchmark: Benchmark) -> list[str]:
    """Name the settings of single rows, which are not those of the others; those of an ablation are its titles."""
    changes = {} if benchmark.ablation else {row.title: row.changes for row in benchmark.rows if row.changes}
    rows = (f"{row}: {', '.join(f'{name} {value}' for name, value in own.items())}" for row, own in changes.items())
    return [f"Settings of single rows: {'; '.join(rows)}. The others have those of all."] if changes else []


def _differences_from_paper(benchmark: Benchmark) -> dict[str, Any]:
    """Return the settings of the rows that the paper has which differ from the paper's."""
    differing: dict[str, Any] = {}
    for row in benchmark.rows:
        if paper_scores(benchmark, row):
            ours = next(benchmark.row_cells(row, 0)).settings
            theirs = Settings(data=ours.data, method=ours.method, loss=ours.loss).resolved().flat()
            differing |= {name: value for name, value in ours.flat().items() if value != theirs.get(name)}
    return {name: value for name, value in differing.items() if name not in _NON_MODEL_SETTINGS}


def _describe_notes(results: Sequence[RowResult]) -> list[str]:
    """Return the notes of the runs, such as that a method never began, each with the rows that it concerns.

    Notes that differ in their numbers alone are one, with the numbers of the first.
    """
    rows, texts = dict[str, list[str]](), dict[str, list[str]]()
    for result in results:
        models = Counter[str]()
        for cell in result.cells:
            notes = {note: re.sub(r"\d[\d.,]*", "#", note) for note in _notes_of(cell)}
            for note, kind in notes.items():
                texts.setdefault(kind, []).append(note)
            models.update(dict.fromkeys(notes.values(), 1))
        for kind, count in models.items():
            rows.setdefault(kind, []).append(f"{result.row.title} ({count} of {counted(len(result.cells), 'model')})")
    others = {kind: " (the first; others have other numbers)" * (len({*found}) > 1) for kind, found in texts.items()}
    return [f"{', '.join(titles)}: {texts[kind][0]}{others[kind]}" for kind, titles in rows.items()]


def _notes_of(cell: CellResult) -> list[str]:
    """Return the notes of a run: those about its images and settings, and those about its result."""
    chosen = list[str]()
    try:
        chosen = RunDirectory(cell.cell.path).choices()["notes"]
    except (ValueError, OSError) as error:
        print_note(f"{error}, and the table does not show its notes")
    return [*chosen, *cell.scores.get("notes", ())]


def _describe_provenance(cells: Sequence[CellResult]) -> list[str]:
    """Name the versions, commits and machines of the models."""
    scores = [cell.scores for cell in cells]
    commits = sorted({str(each["commit"]) for each in scores if each.get("commit")})
    versions = {
        f"{name} {each['versions'][name]}"
        for each in scores
        for name in ("ccpml", "torch")
        if name in (each.get("versions") or {})
    }
    machines = {
        ", ".join(f"{name} {value}" for name, value in each["hardware"].items())
        for each in scores
        if each.get("hardware")
    }
    made = [*sorted(versions), *(f"commit {commit[:12]}{commit[40:]}" for commit in commits)]
    return [f"Made by {', '.join(made)}; on {'; or '.join(sorted(machines)) or 'an unknown machine'}."] if made else []

"""The head of a report: what was run, how it scored, and how to run it again."""

import shlex
from collections.abc import Mapping
from typing import Any, Final

from ccpml.losses import LOSSES, METHODS
from ccpml.report import page
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import ResolvedSettings

__all__ = ["about", "reproduce", "test_scores", "title"]

_NAMES: Final = {
    "map_at_r": "MAP@R",
    "precision_at_1": "P@1",
    "r_precision": "P@R",
    "num_queries": "queries",
    "num_skipped": "left out",
}


def title(run: RunDirectory, settings: ResolvedSettings) -> str:
    """Return the title: data, loss and method."""
    entry = LOSSES[settings.loss]
    method = "with proxies of its own" if entry.has_proxies else METHODS[settings.method].description
    text = f"Deep metric learning on {settings.data}: {entry.description} loss, {method}."
    return f"<h1>{page.text(run.path.resolve().name)}</h1>\n" + page.paragraph(text, lead=True)


def test_scores(scores: Mapping[str, Any]) -> str:
    """Give the scores of the test classes."""
    test = scores["test"]
    header = [_NAMES.get(name, name.replace("recall_at_", "R@")) for name in test]
    cells = [f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for value in test.values()]
    caption = (
        "Scores on the test classes, none of which was seen in training: MAP@R, the mean average precision at R (R the "
        "other references of the query's class), P@1, the share of queries whose nearest neighbour is of their class, "
        "P@R, the share of true references among the R nearest, and R@k, the share of queries with a true reference "
        "among the k nearest. Left out are queries whose class has no other reference."
    )
    return page.table(header, [cells], "numbers scores") + page.paragraph(caption)


def about(settings: ResolvedSettings, scores: Mapping[str, Any]) -> str:
    """Say what was run, on what, and by what."""
    best, hardware = scores["validation"], scores.get("hardware", {})
    parameters = [f"{name} {value:g}" for name, value in settings.loss_parameters.items()]
    backbone = f"{settings.backbone}, {settings.embedding_dim}-D"
    rows = [
        ("data", settings.data),
        *((name, f"{s['classes']:,} classes, {s['images']:,} images") for name, s in scores["splits"].items()),
        ("method", _method(settings, scores)),
        ("loss", ", ".join([LOSSES[settings.loss].description, *parameters])),
        ("backbone", backbone if settings.weights == "none" else f"{backbone}, started from {settings.weights}"),
        ("seed", str(settings.seed)),
        ("best on validation", f"MAP@R {best['map_at_r']:.4f} at step {best['step']:,} of {scores['steps']:,}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in scores.get("versions", {}).items())),
        ("commit", scores.get("commit") or "of an installed package"),
        ("hardware", ", ".join(f"{name} {value}" for name, value in hardware.items())),
    ]
    return page.facts(rows) + _left_out(scores.get("images_left_out", [])) + _settings(settings)


def reproduce(run: RunDirectory) -> str:
    """Give the commands that run it again."""
    config = shlex.quote(str(run.settings_file.resolve()))
    again = shlex.quote(str(run.path.resolve().with_name(run.path.resolve().name + "-again")))
    return page.paragraph("To train it again, or to write this report again:") + page.code(
        f"ccpml train --config {config} --run {again}\nccpml report {shlex.quote(str(run.path.resolve()))}"
    )


def _method(settings: ResolvedSettings, scores: Mapping[str, Any]) -> str:
    if LOSSES[settings.loss].has_proxies:
        return "the loss alone, with proxies of its own"
    text = METHODS[settings.method].description
    if settings.method == "xbm":
        return f"{text}: {settings.memory_batches} batches, compared with after step {settings.memory_start:,}"
    if settings.method == "plain":
        return text
    instances = scores.get("instances", 0)
    return (
        f"{text}: K = {settings.proxies_per_class} proxies per class from b = {settings.pool_size} samples, "
        f"λ = {settings.projections.strength:g}; {instances} {'instance' if instances == 1 else 'instances'} converged"
    )


def _left_out(images: list[str]) -> str:
    if not images:
        return ""
    shown = images[:200]
    more = [f"and {len(images) - len(shown):,} more (see scores.json)"] if len(images) > len(shown) else []
    noun = "image was" if len(images) == 1 else "images were"
    return page.details(f"{len(images):,} {noun} left out, unreadable", page.listing([*shown, *more]))


def _settings(settings: ResolvedSettings) -> str:
    rows = ((name, "–" if value is None else str(value)) for name, value in settings.flat().items())
    return page.details("All settings", page.facts(rows))

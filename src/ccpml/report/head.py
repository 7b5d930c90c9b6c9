"""The first section of a report: what was run, its scores, and the commands that run it again."""

import shlex
from collections.abc import Mapping
from typing import Any, Final

from ccpml.benchmark.protocol import METRICS
from ccpml.losses import LOSSES, METHODS
from ccpml.numbers import counted
from ccpml.report import page
from ccpml.retrieval import describe_intervals
from ccpml.runs.defaults import SATURATED, is_saturated, passes
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import ResolvedSettings

__all__ = ["about", "chosen", "reproduce", "test_scores", "title"]

_NAMES: Final = {**METRICS, "num_queries": "queries", "num_skipped": "left out"}


def title(run: RunDirectory, settings: ResolvedSettings) -> str:
    """Return the title: the run's name, then its data, loss and method."""
    loss = LOSSES[settings.loss]
    method = loss.describe_method(settings.method)
    text = f"Deep metric learning on {settings.data}: {loss.description} loss, {method}."
    return f"<h1>{page.text(run.path.resolve().name)}</h1>\n" + page.paragraph(text, lead=True)


def test_scores(scores: Mapping[str, Any]) -> str:
    """Return the table of test scores, with what they mean."""
    test = scores["test"]
    header = [_NAMES.get(name, name.replace("recall_at_", "R@")) for name in test]
    rows = [[_cell(value) for value in test.values()]]
    caption = (
        "Scores on the test classes, which were never seen in training. MAP@R: mean average precision at R, where R is "
        "the number of other references of the query's class. P@1: fraction of queries whose nearest neighbor is of "
        "their class. P@R: fraction of the R nearest that are of the query's class. R@k: fraction of queries with a "
        "reference of their class among the k nearest. Left out: queries whose class has no other reference."
    )
    if features := scores.get("features"):
        header, untouched = ["", *header], f"untouched features ({features['dimensions']:,} dimensions)"
        rows = [["this run", *rows[0]], [untouched, *(_cell(features[name]) for name in test)]]
        caption += " Untouched features: those of the initial weights, before training, compared by cosine."
    intervals = describe_intervals(scores.get("intervals", {}))
    if intervals:
        caption += f" {intervals[0].upper()}{intervals[1:]}: other classes of the same kind would give such means."
    return page.table(header, rows, "numbers scores") + page.paragraph(caption)


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def chosen(choices: Mapping[str, list[str]], scores: Mapping[str, Any]) -> str:
    """Return the settings that were chosen for the images with the reasons, and what is unusual about the run."""
    notes = [*choices["notes"], *([SATURATED] if is_saturated(scores) else [])]
    parts = [page.paragraph("Notes:"), page.listing(notes)] if notes else []
    if choices["chosen"]:
        parts += [
            page.paragraph("Settings that were chosen for these images, and why:"),
            page.listing(choices["chosen"]),
        ]
    return "".join(parts)


def about(settings: ResolvedSettings, scores: Mapping[str, Any]) -> str:
    """Return the facts of the run: data, method, loss, backbone, seed, versions and hardware."""
    best, loss = scores["validation"], LOSSES[settings.loss]
    parameters = [f"{name} {value:g}" for name, value in settings.loss_parameters.items()]
    start = "" if settings.head_start == "random" else f", start {settings.head_start}"
    weights = "random weights" if settings.weights == "none" else f"initial weights {settings.weights}"
    size = f"images of {settings.image_size} pixels"
    count = passes(settings.max_steps, settings.batch_size, scores["splits"]["train"]["images"])
    rate = f"learning rate {settings.lr:g}, {settings.lr_schedule}"
    rows = [
        ("data", settings.data),
        *(
            (name, f"{counted(s['classes'], 'class')}, {counted(s['images'], 'image')}")
            for name, s in scores["splits"].items()
        ),
        ("method", _method(settings, scores)),
        ("loss", ", ".join([loss.description, *parameters])),
        ("backbone", f"{settings.backbone}, {settings.embedding_dim}-D{start}, {weights}, {size}"),
        ("training", f"{rate}, at most {settings.max_steps:,} steps, {count:.3g} passes through the training images"),
        ("seed", str(settings.seed)),
        ("best on validation", f"MAP@R {best['map_at_r']:.4f} at step {best['step']:,} of {scores['steps']:,}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in scores.get("versions", {}).items())),
        ("commit", scores.get("commit") or "none (installed package)"),
        ("hardware", ", ".join(f"{name} {value}" for name, value in scores.get("hardware", {}).items())),
    ]
    all_settings = page.facts((name, str(value)) for name, value in settings.flat().items())
    return page.facts(rows) + _left_out(scores.get("images_left_out", [])) + page.details("All settings", all_settings)


def reproduce(run: RunDirectory) -> str:
    """Return the commands that train the run and write its report again."""
    path = run.path.resolve()
    again = path.with_name(f"{path.name}-again")
    train = ["ccpml", "train", "--config", str(run.settings_file.resolve()), "--run", str(again)]
    commands = f"{shlex.join(train)}\n{shlex.join(['ccpml', 'report', str(path)])}"
    return page.paragraph("To train it again, or to write this report again:") + page.code(commands)


def _method(settings: ResolvedSettings, scores: Mapping[str, Any]) -> str:
    method = METHODS[settings.method]
    text = LOSSES[settings.loss].describe_method(settings.method)
    text += f": {method.settings.format(**vars(settings))}" if method.settings else ""
    if method.has_projections:
        instances = scores.get("instances", 0)
        text += f"; {instances} {'instance' if instances == 1 else 'instances'} converged"
    return text


def _left_out(images: list[str]) -> str:
    if not images:
        return ""
    shown = images[:200]
    more = [f"and {len(images) - len(shown):,} more (see scores.json)"] if len(images) > len(shown) else []
    noun = "image was" if len(images) == 1 else "images were"
    return page.details(f"{len(images):,} {noun} left out, unreadable", page.listing([*shown, *more]))

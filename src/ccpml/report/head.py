"""The head of a report: what was run, how it scored, and how to run it again."""

import shlex
from collections.abc import Mapping
from typing import Any, Final

from ccpml.report import page
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import Experiment

__all__ = ["about", "reproduce", "test_scores", "title"]

_LOSSES: Final = {
    "contrastive": "contrastive with positive margin (C2)",
    "cosine_contrastive": "contrastive on cosine (C1)",
    "triplet": "triplet",
    "multi_similarity": "multi-similarity (MS)",
}
_OWN_PROXIES: Final = {
    "proxy_anchor": "ProxyAnchor",
    "proxy_nca": "ProxyNCA++",
    "soft_triple": "SoftTriple",
    "arcface": "ArcFace",
    "subcenter_arcface": "SubCenter-ArcFace",
}
_METHODS: Final = {
    "ccp": "chance-constrained proxies (CCP)",
    "xbm": "cross-batch memory (XBM)",
    "plain": "the loss alone, within the batch",
    "own": "with proxies of its own",
}
_NAMES: Final = {
    "map_at_r": "MAP@R",
    "precision_at_1": "P@1",
    "r_precision": "P@R",
    "num_queries": "queries",
    "num_skipped": "left out",
}


def title(run: RunDirectory, experiment: Experiment) -> str:
    """Say what this is."""
    method = _METHODS["own" if experiment.loss in _OWN_PROXIES else experiment.method]
    text = f"Deep metric learning on {experiment.data}: {(_LOSSES | _OWN_PROXIES)[experiment.loss]} loss, {method}."
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


def about(experiment: Experiment, scores: Mapping[str, Any]) -> str:
    """Say what was run, on what, and by what."""
    best, hardware = scores["validation"], scores.get("hardware", {})
    backbone = f"{experiment.backbone}, {experiment.embedding_dim}-D"
    rows = [
        ("data", experiment.data),
        *((name, f"{s['classes']:,} classes, {s['images']:,} images") for name, s in scores["splits"].items()),
        ("method", _method(experiment, scores)),
        ("loss", ", ".join([_LOSSES[experiment.loss], *_parameters(experiment)])),
        ("backbone", backbone if experiment.weights is None else f"{backbone}, started from {experiment.weights}"),
        ("seed", str(experiment.seed)),
        ("best on validation", f"MAP@R {best['map_at_r']:.4f} at step {best['step']:,} of {scores['steps']:,}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in scores.get("versions", {}).items())),
        ("commit", scores.get("commit") or "of an installed package"),
        ("hardware", ", ".join(f"{name} {value}" for name, value in hardware.items())),
    ]
    return page.facts(rows) + _left_out(scores.get("images_left_out", [])) + _settings(experiment)


def reproduce(run: RunDirectory) -> str:
    """Give the commands that run it again."""
    config = shlex.quote(str(run.experiment_file.resolve()))
    again = shlex.quote(str(run.path.resolve().with_name(run.path.resolve().name + "-again")))
    return page.paragraph("To train it again, or to write this report again:") + page.code(
        f"ccpml train --config {config} --run {again}\nccpml report {shlex.quote(str(run.path.resolve()))}"
    )


def _method(experiment: Experiment, scores: Mapping[str, Any]) -> str:
    if experiment.method == "plain":
        return "plain: the loss alone, within the batch"
    instances = scores.get("instances", 0)
    return (
        f"CCP: K = {experiment.proxies_per_class} proxies per class from b = {experiment.pool_size} samples, "
        f"λ = {experiment.strength:g}; {instances} {'instance' if instances == 1 else 'instances'} converged"
    )


def _parameters(experiment: Experiment) -> list[str]:
    return [f"{name} {value:g}" for name, value in experiment.loss_parameters().items()]


def _left_out(images: list[str]) -> str:
    if not images:
        return ""
    shown = images[:200]
    more = [f"and {len(images) - len(shown):,} more (see scores.json)"] if len(images) > len(shown) else []
    noun = "image was" if len(images) == 1 else "images were"
    return page.details(f"{len(images):,} {noun} left out, unreadable", page.listing([*shown, *more]))


def _settings(experiment: Experiment) -> str:
    rows = ((name, "–" if value is None else str(value)) for name, value in experiment.as_dict().items())
    return page.details("All settings", page.facts(rows))

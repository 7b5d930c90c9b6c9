"""Sections of a report, in order. Each yields HTML, or nothing if the run has nothing to show."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ccpml.report import head, page
from ccpml.report.contents import Report
from ccpml.report.covers import (
    MOST_CLASSES,
    MOST_SAMPLES,
    ClassCover,
    draw_covers,
    worst_by_proxies,
    worst_by_samples,
)
from ccpml.report.curves import draw_geometry, draw_progress
from ccpml.report.embedded import Embedded, Instance, read_instance_files, read_proxies
from ccpml.report.gallery import draw_gallery
from ccpml.report.maps import choose_instances, draw_maps, last_instance

__all__ = ["SECTIONS"]


def _head(report: Report) -> Iterator[str]:
    yield head.title(report.run, report.settings)
    yield head.test_scores(report.scores)
    yield head.about(report.settings, report.scores)
    yield head.reproduce(report.run)


def _progress(report: Report) -> Iterator[str]:
    if not report.history.rows:
        yield page.section("Training", page.paragraph("The run has no metrics.csv: there are no curves to draw."))
        return
    caption = (
        "MAP@R on the validation classes, which training never sees, and the training loss (the mean since the "
        "validation before). The star marks the best validation, whose weights were tested."
    )
    if report.history.switches:
        caption += (
            " A dashed line marks where a problem instance converged: its solution becomes the anchor of the next "
            "instance, whose proxies are newly selected samples."
        )
    elif report.ccp:
        caption += " No problem instance converged within these steps, so there was no alternating projection yet."
    yield page.section("Training", report.figure(draw_progress(report.history), caption))


def _geometry(report: Report) -> Iterator[str]:
    if not report.history.rows:
        return
    caption = (
        "The average covering radius is the radius of the greedy k-center cover of a class by k of its samples, "
        "averaged over k and over classes: how widely classes are spread. The average inter-class distance is the mean "
        "distance between samples of different classes: the smaller the radius against it, the better."
    )
    if report.history.has("proxy_covering_radius"):
        caption += (
            " The proxies' covering radius is the smallest at which balls around a class's proxies cover its samples "
            "(the generalization gap of proxy training is bounded by it); their spread is their mean distance from "
            "their own center, near zero where the proxies of a class coalesce. Where an instance has converged, "
            "the next proxies are measured, just chosen."
        )
    yield page.section("Geometry of the classes", report.figure(draw_geometry(report.history), caption))


def _maps(report: Report) -> Iterator[str]:
    files = read_instance_files(report.run)
    chosen = choose_instances(files)
    instances = [Instance.read(path) for path in chosen]
    if report.train is not None:
        like = instances[-1] if instances else None
        proxies = read_proxies(report.run) if report.ccp else None
        instances.append(last_instance(report.train, proxies, like, report.history.best_step))
    if not instances:
        return
    caption = (
        "Some training classes in two dimensions, by the first two principal components (PCA) of what a panel shows"
    )
    caption += ", fitted for each panel; the bar gives the scale. Small marks are samples, colored by class."
    if report.ccp:
        caption += (
            " Each panel shows an instance when it has converged: squares are its proxies as trained, circles the "
            "next proxies, samples selected by greedy k-center away from the squares so that they cover the class."
        )
        if report.train is not None:
            caption += " The last panel shows the weights that were tested, with their proxies."
    if len(chosen) < len(files):
        caption += f" Of {len(files)} recorded instances {len(chosen)} are shown, evenly chosen."
    yield page.section("Samples and proxies", report.figure(draw_maps(instances), caption))


def _gallery(report: Report) -> Iterator[str]:
    if report.test is None:
        return
    seed = report.settings.seed
    picture = draw_gallery(report.test, report.test_map_at_r, report.images, seed)
    if picture is None:
        return
    among = "the gallery" if report.test.has_roles else "all other test images"
    caption = (
        f"Test queries of classes never seen in training, left, and their nearest neighbors among {among}, the "
        "nearest first: ✓ in a green frame is of the query's class, ✗ in a dashed red frame is not. The queries are "
        f"chosen by rule: sorted by their MAP@R (equals shuffled by seed {seed}), evenly from the worst to the best."
    )
    yield page.section("What test queries find", report.figure(picture, caption))


def _covers(report: Report) -> Iterator[str]:
    parts = []
    if report.test is not None:
        worst = worst_by_samples(report.test, report.test_map_at_r)
        measure = "average covering radius: that of the greedy k-center cover by k of its samples, averaged over k"
        parts += _covers_of(report, "test", report.test, worst, measure, "as in the test scores")
    if report.train is not None:
        worst, measure = _worst_of_training(report, report.train, report.train.map_at_r())
        parts += _covers_of(report, "training", report.train, worst, measure, "among these images themselves")
    if parts:
        yield page.section("The classes covered worst", *parts)


def _worst_of_training(report: Report, train: Embedded, map_at_r: NDArray[np.float64]) -> tuple[list[ClassCover], str]:
    proxies = read_proxies(report.run) if report.ccp else None
    if proxies is not None and train.labels.max() < len(proxies):
        measure = "covering radius of its proxies: the distance of its farthest sample from the nearest of them"
        return worst_by_proxies(train, map_at_r, proxies), measure
    return worst_by_samples(train, map_at_r), "average covering radius of its samples"


def _covers_of(
    report: Report, what: str, split: Embedded, worst: Sequence[ClassCover], measure: str, scored: str
) -> list[str]:
    name = f"worst_{what}.png"
    caption = (
        f"The {len(worst)} {what} classes with the largest radius, some of their images, and the mean MAP@R of their "
        f"images {scored}. The radius is the {measure}."
    )
    sizes = np.unique(split.labels, return_counts=True)[1]
    if len(sizes) > MOST_CLASSES or sizes.max() > MOST_SAMPLES:
        caption += f" Measured on at most {MOST_CLASSES:,} classes and {MOST_SAMPLES} images of each, evenly chosen."
    rows = [
        (c.name, f"{c.images:,}", f"{c.radius:.4f}", "–" if c.map_at_r is None else f"{c.map_at_r:.4f}") for c in worst
    ]
    return [
        f"<h3>{what.capitalize()} classes</h3>\n",
        report.figure(draw_covers(name, f"the {what} classes covered worst", worst, split, report.images), caption),
        page.details("The numbers", page.table(("class", "images", "radius", "MAP@R"), rows)),
    ]


def _missing(report: Report) -> Iterator[str]:
    if report.images.missing:
        count = len(report.images.missing)
        yield page.paragraph(
            f"{count} of the images shown could no longer be read: gray squares stand in their places."
        )


SECTIONS: Sequence[Callable[[Report], Iterator[str]]] = (
    _head,
    _progress,
    _geometry,
    _maps,
    _gallery,
    _covers,
    _missing,
)

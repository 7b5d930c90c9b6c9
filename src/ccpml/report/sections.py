"""Sections of the report, in order.

A section is a function that takes a `Report` and yields HTML, or nothing if the run has nothing to show. To add a
picture, write a function that draws a figure with matplotlib, renders it by `Picture.of(figure, name, alt)`, and yields
`page.section(title, report.figure(picture, caption))`; then add the function to `SECTIONS`, and the file to `PICTURES`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from ccpml.report import head, page
from ccpml.report.contents import Report
from ccpml.report.covers import MAX_CLASSES, MAX_SAMPLES, ClassCover, cover_rows, draw_covers, worst_classes
from ccpml.report.curves import draw_geometry, draw_progress
from ccpml.report.embedded import Embedded
from ccpml.report.gallery import draw_gallery, gallery_rows
from ccpml.report.guarantee import draw_guarantee, guarantee_parts
from ccpml.report.maps import choose_instances, draw_maps, last_instance

__all__ = ["PICTURES", "SECTIONS"]

PICTURES: Final = frozenset(
    f"{name}.png" for name in ("progress", "geometry", "maps", "gallery", "worst_test", "worst_training", "guarantee")
)
"""Files of all pictures that a section may draw."""

_MEASURES: Final = {
    "map_at_r": "MAP@R on validation",
    "loss": "training loss",
    "train_covering_radius": "average covering radius, training classes",
    "val_covering_radius": "average covering radius, validation classes",
    "train_interclass_distance": "average inter-class distance, training classes",
    "val_interclass_distance": "average inter-class distance, validation classes",
    "proxy_covering_radius": "covering radius of the proxies",
    "proxy_spread": "spread of the proxies",
}
"""Columns of ``metrics.csv``, in words."""


def _head(report: Report) -> Iterator[str]:
    yield head.title(report.run, report.settings)
    yield head.test_scores(report.scores)
    yield head.chosen(report.choices, report.scores)
    yield head.about(report.settings, report.scores)
    yield head.reproduce(report.run)


def _progress(report: Report) -> Iterator[str]:
    if not report.history.rows:
        yield page.section("Training", page.paragraph("There are no curves: metrics.csv is missing or damaged."))
        return
    if len(report.history.rows) == 1:
        yield page.section("Training", *_one_validation(report.history.rows[0]), page.paragraph(_projections(report)))
        return
    caption = (
        "MAP@R on the validation classes, which are not trained on, and the training loss, averaged since the previous "
        "validation. The star marks the best validation; its weights were tested."
    )
    caption += _projections(report)
    yield page.section("Training", report.figure(draw_progress(report.history), caption))


def _projections(report: Report) -> str:
    """Return sentences about the instances of a run, each after a space."""
    caption = ""
    if report.history.begin is not None:
        caption += (
            f" The dotted line marks step {report.history.begin:,}, where the first proxies were placed; until then, "
            "the plain pair loss was trained."
        )
    if report.history.switches:
        caption += (
            " A dashed line marks where a problem instance converged: its solution becomes the anchor of the next "
            "instance, whose proxies are newly selected samples."
        )
    elif report.notes:
        caption += " " + " ".join(report.notes)
    elif report.has_projections:
        caption += " No problem instance converged within these steps, so there was no alternating projection."
    return caption


def _one_validation(row: Mapping[str, float]) -> Iterator[str]:
    """Yield the numbers of a run that has no curves."""
    yield page.paragraph(f"There are no curves: this run has one validation, at step {row['step']:,.0f}.")
    yield page.facts((title, f"{row[name]:.4f}") for name, title in _MEASURES.items() if name in row)


def _geometry(report: Report) -> Iterator[str]:
    if len(report.history.rows) < 2:
        return
    caption = (
        "The average covering radius is the radius of the greedy k-center cover of a class by k of its samples, "
        "averaged over k and over classes; it measures how widely classes are spread. The average inter-class distance "
        "is the mean distance between samples of different classes. A small radius relative to the distance is good."
    )
    if report.history.has("proxy_covering_radius"):
        caption += (
            " The covering radius of the proxies is the smallest radius at which balls around the proxies of a class "
            "cover its samples; it bounds the generalization gap of training with proxies. Their spread is the mean "
            "distance from their center, near zero where the proxies of a class coalesce. Where an instance converged, "
            "the values are those of the newly selected proxies."
        )
    yield page.section("Geometry of the classes", report.figure(draw_geometry(report.history), caption))


def _maps(report: Report) -> Iterator[str]:
    files = report.instance_files
    chosen = choose_instances(files)
    instances = [instance for instance in map(report.instance, chosen) if instance is not None]
    if report.train is not None:
        like = instances[-1] if instances else None
        instances.append(last_instance(report.train, report.proxies, like, report.history.best_step))
    if not instances:
        return
    caption = (
        "Some training classes in two dimensions: the first two principal components (PCA) of each panel. The bar "
        "shows the scale. Small dots are samples, colored by class."
    )
    with_proxies = bool(files) or report.proxies is not None
    if with_proxies:
        caption += (
            " Each panel shows an instance at convergence. Squares are its trained proxies. Circles are the proxies of "
            "the next instance: samples selected by greedy k-center, far from the squares, to cover the class. The "
            "first proxies are selected likewise, when there are no squares yet."
        )
        if report.train is not None:
            caption += " The last panel shows the tested weights with their proxies."
    if len(chosen) < len(files):
        caption += f" {len(chosen)} of {len(files)} recorded instances are shown, evenly spaced."
    title = "Training samples and proxies" if with_proxies else "Training samples"
    yield page.section(title, report.figure(draw_maps(instances), caption))


def _gallery(report: Report) -> Iterator[str]:
    if report.test is None:
        return
    seed = report.settings.seed
    rows = gallery_rows(report.test, report.test_map_at_r, report.images, seed)
    if not rows:
        return
    among = "the gallery" if report.test.has_roles else "all other test images"
    caption = (
        f"Test queries (left) of classes never seen in training, and their nearest neighbors among {among}, nearest "
        "first. A green frame with ✓ marks the query's class, a dashed red frame with ✗ another class. Neighbors "
        "beyond the R nearest, which do not count for MAP@R, are faded. Queries are "
        f"chosen at even ranks from the lowest to the highest MAP@R; seed {seed} orders those with equal scores."
    )
    yield page.section("Nearest neighbors of test queries", report.rows(draw_gallery(rows), rows, caption))


def _covers(report: Report) -> Iterator[str]:
    parts: list[str] = []
    train, proxies = report.train, report.proxies
    average = "average covering radius: the radius of the greedy k-center cover by k of its samples, averaged over k"
    if report.test is not None:
        worst = worst_classes(report.test, report.test_map_at_r)
        parts += _worst_classes(report, "test", report.test, worst, average)
    if train is not None:
        if proxies is not None and train.labels.max() >= len(proxies):
            proxies = None
        of_proxies = "covering radius of its proxies: the largest distance of a sample from the nearest proxy"
        worst = worst_classes(train, train.map_at_r(), proxies)
        parts += _worst_classes(report, "training", train, worst, average if proxies is None else of_proxies)
    if parts:
        yield page.section("Classes with the largest covering radius", *parts)


def _worst_classes(
    report: Report, what: str, split: Embedded, worst: Sequence[ClassCover], measure: str
) -> Iterator[str]:
    references = "the gallery" if split.has_roles else f"all other {what} images"
    caption = (
        f"The {len(worst)} {what} classes with the largest radius, with some of their images and their mean MAP@R "
        f"among {references}. The radius of a class is the {measure}."
    )
    sizes = np.unique(split.labels, return_counts=True)[1]
    if len(sizes) > MAX_CLASSES or sizes.max() > MAX_SAMPLES:
        caption += f" At most {MAX_CLASSES:,} classes and {MAX_SAMPLES} images of each were measured, evenly spaced."
    rows = [
        (c.name, f"{c.images:,}", f"{c.radius:.4f}", "–" if c.map_at_r is None else f"{c.map_at_r:.4f}") for c in worst
    ]
    about = f"the {what} classes with the largest covering radius"
    yield f"<h3>{what.capitalize()} classes</h3>\n"
    images = cover_rows(worst, split, report.images)
    yield report.rows(draw_covers(f"worst_{what}.png", about, images), images, caption)
    yield page.details("The numbers", page.table(("class", "images", "radius", "MAP@R"), rows))


def _guarantee(report: Report) -> Iterator[str]:
    certificate = report.certificate
    if certificate is not None:
        caption = (
            "Precision of the answers within a threshold: a mean over classes, each by its own answers. The steps are "
            "promised, each by itself; the dots are the promises that were asked for. Promises should stay below the "
            "curve of the check classes, which neither trained nor calibrated."
        )
        figure = report.figure(draw_guarantee(certificate), caption)
        yield page.section("Answers with a guarantee", *guarantee_parts(certificate, figure))


def _missing(report: Report) -> Iterator[str]:
    if problem := report.images.problem():
        report.problems.append(problem)
    report.problems = list(dict.fromkeys(report.problems))  # several sections may lack the same file
    if report.problems:
        yield page.section("Missing from this report", page.listing(report.problems))


SECTIONS: Sequence[Callable[[Report], Iterator[str]]] = (
    _head,
    _progress,
    _geometry,
    _maps,
    _gallery,
    _covers,
    _guarantee,
    _missing,
)

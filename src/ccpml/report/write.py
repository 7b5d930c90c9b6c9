"""From a finished run directory to its report: what is told, and in which order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccpml.files import write_text
from ccpml.report import head, page
from ccpml.report.covers import (
    MOST_CLASSES,
    MOST_SAMPLES,
    ClassCover,
    draw_covers,
    worst_by_proxies,
    worst_by_samples,
)
from ccpml.report.curves import History, draw_geometry, draw_progress
from ccpml.report.embedded import Embedded, Instance, read_embedded, read_instance_files, read_proxies
from ccpml.report.gallery import draw_gallery
from ccpml.report.images import Images
from ccpml.report.maps import choose_instances, draw_maps, last_instance
from ccpml.report.style import Picture, style
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import ResolvedSettings

__all__ = ["write_report"]


def write_report(run: RunDirectory) -> Path:
    """Write ``report.html`` and its pictures (``pictures/*.png``) into a finished run's directory.

    The page stands by itself: the pictures are in it, and nothing is loaded from elsewhere. A report that is there is
    replaced. Images that are no longer where they were are drawn as placeholders.

    Args:
        run: A finished run.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If the run is not finished.
        ValueError: If the run's settings cannot be read.
    """
    with style():
        report = _Report(run, run.settings(), run.scores())
        body = [part for write in _SECTIONS for part in write(report)]
    for picture in report.pictures:
        picture.write(run.path / "pictures")
    write_text(run.report_file, page.document(f"{run.path.resolve().name}: report", body))
    return run.report_file


@dataclass
class _Report:
    """What the sections share.

    Attributes:
        run: The run.
        settings: Its settings.
        scores: What ``scores.json`` holds.
        pictures: Those drawn so far.
    """

    run: RunDirectory
    settings: ResolvedSettings
    scores: dict[str, Any]
    pictures: list[Picture] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history = History.of(self.run.metrics(), int(self.scores["validation"]["step"]))
        self.train = read_embedded(self.run, "train")
        self.test = read_embedded(self.run, "test")
        self.images = Images(self.settings.data)
        self.test_map_at_r = np.empty(0) if self.test is None else self.test.map_at_r()

    @property
    def ccp(self) -> bool:
        """Whether there are proxies."""
        return self.settings.method == "ccp"

    def figure(self, picture: Picture, caption: str) -> str:
        """Remember a picture, to be written, and give it as HTML."""
        self.pictures.append(picture)
        return page.figure(picture, caption)


def _head(report: _Report) -> Iterator[str]:
    yield head.title(report.run, report.settings)
    yield head.test_scores(report.scores)
    yield head.about(report.settings, report.scores)
    yield head.reproduce(report.run)


def _progress(report: _Report) -> Iterator[str]:
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


def _geometry(report: _Report) -> Iterator[str]:
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


def _maps(report: _Report) -> Iterator[str]:
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


def _gallery(report: _Report) -> Iterator[str]:
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


def _covers(report: _Report) -> Iterator[str]:
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


def _worst_of_training(report: _Report, train: Embedded, map_at_r: NDArray[np.float64]) -> tuple[list[ClassCover], str]:
    proxies = read_proxies(report.run) if report.ccp else None
    if proxies is not None and train.labels.max() < len(proxies):
        measure = "covering radius of its proxies: the distance of its farthest sample from the nearest of them"
        return worst_by_proxies(train, map_at_r, proxies), measure
    return worst_by_samples(train, map_at_r), "average covering radius of its samples"


def _covers_of(
    report: _Report, what: str, split: Embedded, worst: Sequence[ClassCover], measure: str, scored: str
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


def _missing(report: _Report) -> Iterator[str]:
    if report.images.missing:
        count = len(report.images.missing)
        yield page.paragraph(
            f"{count} of the images shown could no longer be read: gray squares stand in their places."
        )


_SECTIONS = (_head, _progress, _geometry, _maps, _gallery, _covers, _missing)

"""The content of a run that the sections of a report share, read once."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ccpml.losses import METHODS
from ccpml.report import page
from ccpml.report.curves import History
from ccpml.report.embedded import read_embedded
from ccpml.report.images import Images
from ccpml.report.style import Picture
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import ResolvedSettings

__all__ = ["Report"]


@dataclass
class Report:
    """A finished run, as the sections of its report read it.

    Attributes:
        run: Directory of the run.
        settings: Settings of the run.
        scores: Content of ``scores.json``.
        pictures: Pictures drawn so far.
        history: Metrics of each validation.
        train: Embeddings of the training images; None if there is no file.
        test: Embeddings of the test images; None if there is no file.
        test_map_at_r: MAP@R of each test image, (N,); NaN for images that are no query.
        images: Thumbnails of the images.
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
    def has_projections(self) -> bool:
        """Whether the method of the run solves a sequence of problem instances with proxies."""
        return METHODS[self.settings.method].has_projections

    def figure(self, picture: Picture, caption: str) -> str:
        """Return a picture and its caption as HTML; the picture is also written to ``pictures/`` of the run."""
        self.pictures.append(picture)
        return page.figure(picture, caption)

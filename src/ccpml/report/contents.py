"""What the sections of a report share: the files of the run, read once, and the pictures drawn so far."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
    """A report in the making.

    Attributes:
        run: The run.
        settings: Its settings.
        scores: The content of ``scores.json``.
        pictures: Pictures drawn so far.
        history: Its metrics over the steps.
        train: Embeddings of training images, None if there are none.
        test: Embeddings of test images, None if there are none.
        test_map_at_r: MAP@R of each test image, (N,), NaN for images that are not queries.
        images: Small versions of the images.
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
        """Add a picture, which is also written to a file, and return it as HTML."""
        self.pictures.append(picture)
        return page.figure(picture, caption)

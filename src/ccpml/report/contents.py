"""The content of a run that the sections of a report share, read once."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ccpml.losses import METHODS
from ccpml.report import page
from ccpml.report.curves import History
from ccpml.report.embedded import read_embedded, read_proxies
from ccpml.report.images import Images
from ccpml.report.style import Picture
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import compare_data
from ccpml.runs.settings import ResolvedSettings

__all__ = ["Report"]


@dataclass
class Report:
    """A finished run, as the sections of its report read it."""

    run: RunDirectory
    settings: ResolvedSettings
    scores: dict[str, Any]  # the content of scores.json
    pictures: list[Picture] = field(default_factory=list)  # those drawn so far

    def __post_init__(self) -> None:
        self.history = History(self.run.metrics(), int(self.scores["validation"]["step"]))
        self.train = read_embedded(self.run, "train")
        self.test = read_embedded(self.run, "test")
        self.images = Images(self.settings.data)
        self.data_changes = compare_data(self.run)
        self.test_map_at_r = np.empty(0) if self.test is None else self.test.map_at_r()  # (N,), NaN if not a query
        # Whether the method solves a sequence of problem instances with proxies.
        self.has_projections = METHODS[self.settings.method].has_projections
        placed = self.has_projections and self.history.has_proxies(self.history.best_step)
        self.proxies = read_proxies(self.run) if placed else None  # of the best weights, not normalized, (C, K, d)
        self.notes: list[str] = self.scores.get("notes", [])

    def figure(self, picture: Picture, caption: str) -> str:
        """Return a picture and its caption as HTML; the picture is also written to ``pictures/`` of the run."""
        self.pictures.append(picture)
        return page.figure(picture, caption)

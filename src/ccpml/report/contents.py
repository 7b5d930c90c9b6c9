"""The content of a run that the sections of a report share, read once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ccpml.calibration.certificate import CERTIFICATE_FILE, Certificate
from ccpml.losses import METHODS
from ccpml.report import page
from ccpml.report.curves import History
from ccpml.report.embedded import Instance, read_embedded, read_instance_files, read_proxies
from ccpml.report.images import Images
from ccpml.report.style import Picture
from ccpml.report.tiles import Row
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import compare_data
from ccpml.runs.inference import open_run
from ccpml.runs.settings import ResolvedSettings
from ccpml.system_errors import message_of

__all__ = ["Report"]

T = TypeVar("T")


@dataclass
class Report:
    """A finished run, as the sections of its report read it."""

    run: RunDirectory
    settings: ResolvedSettings
    scores: dict[str, Any]  # the content of scores.json
    pictures: list[Picture] = field(default_factory=list)  # those drawn so far

    def __post_init__(self) -> None:
        self.problems = [problem for problem in [compare_data(self.run)] if problem]  # what the report lacks, and why
        self.history = History(
            self._read(lambda: self.run.finished_metrics(self.scores)) or [], int(self.scores["validation"]["step"])
        )
        self.train = self._read(lambda: read_embedded(self.run, "train"))
        self.test = self._read(lambda: read_embedded(self.run, "test"))
        self.images = Images(self.settings.data)
        self.test_map_at_r = np.empty(0) if self.test is None else self.test.map_at_r()  # (N,), NaN if not a query
        # Whether the method solves a sequence of problem instances with proxies.
        self.has_projections = METHODS[self.settings.method].has_projections
        placed = self.has_projections and self.history.has_proxies(self.history.best_step)
        # Of the best weights, not normalized, (C, K, d).
        self.proxies = self._read(lambda: read_proxies(self.run)) if placed else None
        self.instance_files = read_instance_files(self.run)
        numbers = {int(path.stem) for path in self.instance_files}
        last = int(self.history.rows[-1].get("instance", -1)) if self.history.rows else -1
        for number in sorted(set(range(last + 1)) - numbers):
            self.problems.append(f"{self.run.instances / f'{number:03d}.npz'}: not found; restore it from a copy")
        self.choices = self._read(self.run.choices) or {"chosen": [], "notes": []}
        self.certificate = self._read(self._certificate)  # of these weights
        self.notes: list[str] = self.scores.get("notes", [])

    @property
    def class_names(self) -> list[str]:
        """The names of all classes in pictures."""
        return [name for split in (self.train, self.test) if split is not None for name in split.class_names]

    def _certificate(self) -> Certificate | None:
        file = self.run.path / CERTIFICATE_FILE
        if not file.exists():
            return None
        certificate = Certificate.read(file)
        certificate.check(open_run(self.run.path).fingerprint, str(file))
        return certificate

    def instance(self, file: Path) -> Instance | None:
        """Read an instance; None, noted in ``problems``, if it cannot be read."""
        return self._read(lambda: Instance.read(file, self.run.record().digest))

    def _read(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (ValueError, OSError) as error:
            self.problems.append(message_of(error))
            return None

    def figure(self, picture: Picture, caption: str) -> str:
        """Return a picture and its caption as HTML; the picture is also written to ``pictures/`` of the run."""
        self.pictures.append(picture)
        return page.figure(picture, caption)

    def rows(self, picture: Picture, rows: Sequence[Row], caption: str) -> str:
        """Return rows of images and their caption as HTML; drawn in one picture, they are also in ``pictures/``."""
        self.pictures.append(picture)
        return page.rows(rows, caption)

"""What cleaning found in some data, and what is left of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.cleaned import Cleaned, relative_path
from ccpml.cleaning.pictures import Collection
from ccpml.cleaning.problems import KINDS, Problems
from ccpml.data import BadImage
from ccpml.runs.inference import Run

__all__ = ["CleanedData"]


@dataclass(frozen=True, eq=False)
class CleanedData:
    """What was found in some data, and what is left of them.

    Attributes:
        run: The run.
        data: Name of the data.
        pictures: The pictures of the data that can be read, then those of the pool.
        count: Number of the former, N.
        class_names: Names of the labels.
        labels: Labels of all pictures, −1 for none: int64.
        splits: Split of each of the N pictures: that of the data, or else of the run; empty for none.
        run_splits: The run's split of the class of each picture, by its name; empty for none.
        roles: Roles of the N pictures.
        unreadable: Pictures that cannot be read.
        problems: What was found.
        cleaned: Which pictures stay.
        seen: Names of the classes of the data that the run was trained on.
    """

    run: Run
    data: str
    pictures: Collection
    count: int
    class_names: Sequence[str]
    labels: NDArray[np.int64]
    splits: Sequence[str]
    run_splits: Sequence[str]
    roles: Sequence[str]
    unreadable: Sequence[BadImage]
    problems: Problems
    cleaned: Cleaned
    seen: Sequence[str]

    def label_of(self, row: int) -> str:
        """Return the name of the label of a picture; empty for none."""
        return self.name_of(int(self.labels[row]))

    def name_of(self, label: int) -> str:
        """Return the name of a label; empty for −1."""
        return self.class_names[label] if label >= 0 else ""

    def path_of(self, row: int, output: Path) -> str:
        """Return the path of a picture from the folder of the results, or its name if it is in no file of its own."""
        path = self.pictures.path(row)
        return self.pictures.name(row) if path is None else relative_path(path, output)

    def fate(self, row: int) -> str:
        """Return what becomes of a picture in ``cleaned.csv``."""
        if row >= self.count:
            return ""
        if reason := self.cleaned.reasons[row]:
            return f"left out: {reason}"
        changed = int(self.cleaned.labels[row])
        return "kept" if changed == self.labels[row] else f"label changed to {self.name_of(changed)}"

    def groups(self) -> dict[str, int]:
        """Return the number of groups, or else pictures, of each kind."""
        found = {(finding.kind, finding.group) for finding in self.problems.findings}
        counts = Counter(kind for kind, _ in found)
        return {kind: counts[kind] for kind in KINDS}

"""Whether queries come from elsewhere than the pictures of the index: distances of nearest items, compared."""

import math
import threading
import time
from collections import deque
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.serving.interface import PictureIndex

__all__ = ["Drift", "DriftReport", "kolmogorov_smirnov", "reference_distances"]

_RECENT: Final = 500
_MIN_SAMPLE: Final = 50
_LEVEL: Final = 0.001
_CHUNK: Final = 16


class DriftReport(NamedTuple):
    """The comparison of two samples of distances.

    Attributes:
        statistic: Largest difference of their distribution functions, in [0, 1]; None while a sample is too small.
        p_value: Probability of a difference as large, or larger, if both have one distribution.
        reference: Number of distances between pictures of the index.
        recent: Number of distances of recent queries.
        drifting: Whether the p-value is below 0.001.
    """

    statistic: float | None
    p_value: float | None
    reference: int
    recent: int
    drifting: bool


class Drift:
    """Compares the distances of the last 500 pictures searched for with those within the index, for many threads.

    Args:
        reference: Distances of pictures of the index to the nearest other one, (R,); empty if not known yet.
    """

    def __init__(self, reference: NDArray[np.float32] | None = None) -> None:
        self._reference = np.empty(0, np.float32) if reference is None else reference
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._lock = threading.Lock()

    def set_reference(self, reference: NDArray[np.float32]) -> None:
        """Set the distances within the index."""
        with self._lock:
            self._reference = reference

    def add(self, distance: float) -> None:
        """Add the distance of the nearest item of a query."""
        with self._lock:
            self._recent.append(distance)

    def report(self) -> DriftReport:
        """Compare the samples."""
        with self._lock:
            reference, recent = self._reference, np.array(self._recent, np.float32)
        if min(len(reference), len(recent)) < _MIN_SAMPLE:
            return DriftReport(None, None, len(reference), len(recent), False)
        statistic, p_value = kolmogorov_smirnov(reference, recent)
        return DriftReport(statistic, p_value, len(reference), len(recent), p_value < _LEVEL)


def kolmogorov_smirnov(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[float, float]:
    """Return statistic and p-value of the two-sample Kolmogorov–Smirnov test.

    The p-value is that of the limiting distribution, with the correction of Stephens for small samples.

    Args:
        first: A sample, (N,), N ≥ 1.
        second: Another, (M,), M ≥ 1.

    Source:
        M. A. Stephens, "Use of the Kolmogorov–Smirnov, Cramér–von Mises and related statistics without extensive
        tables", Journal of the Royal Statistical Society B, 1970.

    Example:
        >>> statistic, p_value = kolmogorov_smirnov(np.arange(100), np.arange(100) + 50)
        >>> statistic, p_value < 1e-6
        (0.5, True)
    """
    first, second = np.sort(first), np.sort(second)
    values = np.concatenate([first, second])  # (N + M,)
    below = [np.searchsorted(sample, values, side="right") / len(sample) for sample in (first, second)]
    statistic = float(np.abs(below[0] - below[1]).max())
    root = math.sqrt(len(first) * len(second) / len(values))
    scaled = (root + 0.12 + 0.11 / root) * statistic
    if scaled < 0.2:  # the series converges slowly, to 1
        return statistic, 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return statistic, min(1.0, max(0.0, sum(terms)))


def reference_distances(index: PictureIndex, count: int = 512, seconds: float = 2.0) -> NDArray[np.float32]:
    """Return distances of items, spread over an index, to the nearest other item: float32, (R,), R ≤ ``count``.

    Args:
        index: The index.
        count: Number of items.
        seconds: Time after which no further items are looked at.
    """
    end = time.monotonic() + seconds
    ids, distances = np.array(index.summary(examples=count).examples, dtype=np.int64), list[float]()
    ids = np.random.default_rng(0).permutation(ids)  # so that those looked at in time are spread over the index too
    for start in range(0, len(ids), _CHUNK):
        if time.monotonic() > end:
            break
        chunk = ids[start : start + _CHUNK].tolist()
        for key, hits in zip(chunk, index.search(index.vectors(chunk), k=2), strict=True):
            distances += [hit.distance for hit in hits if hit.item.id != key][:1]
    return np.array(distances, np.float32)

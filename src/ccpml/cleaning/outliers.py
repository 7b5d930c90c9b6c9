"""Outliers: pictures that are near to nothing, compared with others of their class."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.neighbors import Neighbors

__all__ = ["Isolation", "measure_isolation"]

_NEIGHBORS: Final = 5
_MIN_CLASS: Final = 5  # pictures from which a class has a median of its own
_DEVIATIONS: Final = 3.0
_MIN_RATIO: Final = 1.25


class Isolation(NamedTuple):
    """How far N pictures are from all others.

    Attributes:
        ratio: The mean distance to the five nearest, as a multiple of what is usual: float64, (N,).
        is_outlier: Whether that is unusual, bool (N,).
    """

    ratio: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]


def measure_isolation(neighbors: Neighbors, labels: NDArray[np.int64]) -> Isolation:
    """Compare the distance of each picture to its five nearest, of whatever label, with what is usual.

    Usual is the median of its class, or the mean of its five nearest neighbors, if that is larger. A picture is an
    outlier if the logarithm of its ratio is more than three robust standard deviations above the median of all, and the
    ratio at least 1.25. For pictures without a label, and of classes with fewer than five, the median is that of all.
    A wrong label makes no outlier: such a picture is near to its true class.

    Args:
        neighbors: Neighbors of each picture without its copies, (N, k).
        labels: Labels 0..C−1, −1 for none: int64, (N,).

    Example:
        >>> distances = np.ones((8, 5))
        >>> distances[3] = 4
        >>> measure_isolation(Neighbors(distances, np.zeros((8, 5), np.int64)), np.zeros(8, np.int64)).ratio.tolist()
        [1.0, 1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0]

    Source:
        The comparison with neighbors is a simple form of the local outlier factor: M. Breunig et al., SIGMOD 2000.
    """
    near = neighbors.distances[:, :_NEIGHBORS]
    known = np.isfinite(near)
    mean = np.where(known, near, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)  # (N,)
    usable = known.any(axis=1) & (mean > 0)
    ratio = np.ones(len(labels))
    if not usable.any():
        return Isolation(ratio, np.zeros(len(labels), bool))
    usual = np.full(len(labels), np.median(mean[usable]))
    order = np.flatnonzero(usable & (labels >= 0))
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.unique(labels[order], return_index=True)[1]
    for rows in np.split(order, starts[1:]):
        if len(rows) >= _MIN_CLASS:
            usual[rows] = np.median(mean[rows])
    around = np.where(known, mean[neighbors.rows[:, :_NEIGHBORS]], 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    ratio[usable] = mean[usable] / np.maximum(usual, around)[usable]
    logs = np.log(ratio[usable])
    middle = float(np.median(logs))
    limit = max(middle + _DEVIATIONS * 1.4826 * float(np.median(np.abs(logs - middle))), float(np.log(_MIN_RATIO)))
    return Isolation(ratio, usable & (np.log(ratio) > limit))

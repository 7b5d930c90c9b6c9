"""Probable label errors: pictures whose neighbors have another label."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.neighbors import Neighbors

__all__ = ["MIN_CLASS", "NEIGHBORS", "Votes", "count_votes"]

NEIGHBORS: Final = 40
"""Neighbors that vote."""

MIN_CLASS: Final = 3
"""Distinct pictures of a class from which its labels are judged."""

_ROUNDS: Final = 2
_SHARPNESS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_DOUBT: Final = (0.05, 0.2, 0.5, 1.0)
_ROWS: Final = 4096  # at a time


class Votes(NamedTuple):
    """Probabilities of labels according to the neighbors of N pictures.

    Attributes:
        own: Probability of the given label: float64, (N,); of no label, that of a label that no neighbor has.
        other: Probability of the most probable other label: float64, (N,).
        suggested: That label, −1 if no neighbor has another one: int64, (N,).
    """

    own: NDArray[np.float64]
    other: NDArray[np.float64]
    suggested: NDArray[np.int64]

    @property
    def score(self) -> NDArray[np.float64]:
        """The probability of the suggested label where it or the given one is right, (N,)."""
        score: NDArray[np.float64] = self.other / (self.other + self.own)
        return score


def count_votes(neighbors: Neighbors, labels: NDArray[np.int64], doubtful: NDArray[np.bool_] | None = None) -> Votes:
    """Return what the neighbors of each picture say about its label, which itself does not count.

    A neighbor at distance r votes with weight exp(−t (r − r₁) / s): r₁ is the distance of the nearest one, and s the
    median of all r₁. To the sum of the votes, a doubt a is added, in equal parts to all labels. The sharpness t and a
    are those under which the given labels are most probable. The votes are counted twice: the second time, a neighbor
    has the less weight, the less its own neighbors agree with its label.

    Args:
        neighbors: Neighbors with labels, none of which is a copy of the picture; (N, k).
        labels: Labels, −1 for none: int64, (N,).
        doubtful: Pictures that have no vote, bool (N,), such as copies with other labels.

    Example:
        >>> near = Neighbors(np.float64([[1, 1], [1, 1], [1, 1]]), np.array([[1, 2], [0, 2], [0, 1]]))
        >>> votes = count_votes(near, np.array([0, 0, 1]))
        >>> votes.suggested.tolist(), int(votes.score.argmax())
        ([1, 1, 0], 2)

    Source:
        The idea of out-of-sample probabilities from neighbors is that of confident learning: C. Northcutt, L. Jiang and
        I. Chuang, "Confident Learning", JAIR 2021; the weights are a kernel classifier's (Nadaraya-Watson).
    """
    classes = max(1, len(np.unique(labels[labels >= 0])))
    labeled = np.flatnonzero(labels >= 0)
    trust = np.where(np.zeros(len(labels), bool) if doubtful is None else doubtful, 0.0, 1.0)
    weight_of = trust
    nearest = neighbors.distances[:, :1]
    positive = nearest[np.isfinite(nearest) & (nearest > 0)]
    scale = float(np.median(positive)) if len(positive) else 1.0
    with np.errstate(invalid="ignore"):
        farther = np.where(neighbors.rows >= 0, (neighbors.distances - nearest) / scale, np.inf)  # (N, k)
    agree = (labels[neighbors.rows] == labels[:, None]) & (neighbors.rows >= 0)  # (N, k)
    for _ in range(_ROUNDS):
        trusted = weight_of[neighbors.rows]
        sharpness, doubt = _fit(farther[labeled], trusted[labeled], agree[labeled], classes)
        votes = _count(np.exp(-sharpness * farther) * trusted, labels, neighbors.rows, doubt / classes, doubt)
        weight_of = trust * votes.own / np.maximum(votes.own, votes.other)
    return votes


def _fit(
    farther: NDArray[np.float64], trusted: NDArray[np.float64], agree: NDArray[np.bool_], classes: int
) -> tuple[float, float]:
    """Return the sharpness and the doubt under which the given labels are most probable."""
    best = (-np.inf, _SHARPNESS[0], _DOUBT[-1])
    for sharpness in _SHARPNESS:
        weights = np.exp(-sharpness * farther) * trusted
        own, total = (weights * agree).sum(axis=1), weights.sum(axis=1)
        for doubt in _DOUBT:
            fit = float(np.log((own + doubt / classes) / (total + doubt)).sum())
            best = max(best, (fit, sharpness, doubt))
    return best[1:]


def _count(
    weights: NDArray[np.float64], labels: NDArray[np.int64], rows: NDArray[np.int64], prior: float, doubt: float
) -> Votes:
    """Return the probabilities of the given labels, and of the most probable others."""
    own, other = np.empty(len(labels)), np.empty(len(labels))
    suggested = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), _ROWS):
        part = slice(start, start + _ROWS)
        voted = np.where(rows[part] >= 0, labels[rows[part]], -1)  # (n, k)
        votes = ((voted[:, :, None] == voted[:, None]) * weights[part, None]).sum(axis=2)  # (n, k), of its label
        is_other = (voted != labels[part, None]) & (voted >= 0)
        total = weights[part].sum(axis=1) + doubt
        own[part] = ((weights[part] * (voted == labels[part, None]) * (voted >= 0)).sum(axis=1) + prior) / total
        candidates = np.where(is_other, votes, -1.0)
        best = candidates.argmax(axis=1)[:, None]
        most = np.take_along_axis(candidates, best, 1)[:, 0]
        other[part] = (np.maximum(most, 0.0) + prior) / total
        suggested[part] = np.where(most > 0, np.take_along_axis(voted, best, 1)[:, 0], -1)
    return Votes(own, other, suggested)

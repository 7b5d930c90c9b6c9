"""Problems of a set of pictures: copies, leaks, label errors, outliers, badly covered classes."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.cleaning.copies import candidate_pairs, group_equal, group_same, group_similar, members_of
from ccpml.cleaning.cover import Additions, ClassCover, choose_additions, measure_covers
from ccpml.cleaning.labels import MIN_CLASS, NEIGHBORS, Votes, count_votes
from ccpml.cleaning.neighbors import Neighbors, find_neighbors
from ccpml.cleaning.outliers import Isolation, measure_isolation
from ccpml.data.arrays import plain_array
from ccpml.numbers import as_int, as_tuple, is_finite
from ccpml.reranking.vectors import as_rows

__all__ = ["KINDS", "Finding", "Problems", "find_problems"]

KINDS: Final = ("exact copy", "same picture", "similar", "leak", "label error", "outlier", "cover", "addition")
"""Kinds of findings, in the order of their certainty."""

_WORST: Final = 10
"""Classes whose cover is listed."""

_PROBABLE: Final = 0.5
"""Probability of the class of a picture without a label from which it is suggested for that class."""


class Finding(NamedTuple):
    """A picture with a problem.

    Attributes:
        kind: One of `KINDS`.
        group: Number of the group within its kind, from 1: copies of each other, or pictures of one class.
        row: Row of the picture.
        score: Larger is more certain, or worse; what it is depends on the kind.
        suggested: A label that is more probable than that of the picture, −1 for none.
        other: Row of another picture that shows the problem, −1 for none.
        note: What is to be known about it, in words.
    """

    kind: str
    group: int
    row: int
    score: float
    suggested: int = -1
    other: int = -1
    note: str = ""


@dataclass(frozen=True, eq=False)
class Problems:
    """What `find_problems` found among N pictures.

    Attributes:
        findings: All findings, by kind, then group, the most certain first.
        exact: Leader of the group of files with the same bytes, for each row: int64, (N,).
        same: Leader of the group of the same picture, int64 (N,); files with the same bytes are the same picture.
        votes: What neighbors say about labels; None without labels.
        judged: Rows whose label could be judged, bool (N,).
        isolation: How far pictures are from all others.
        covers: Covers of classes, the worst first.
        additions: Pictures without a label that would improve covers.
        neighbors: Nearest neighbors without copies, those with labels if there are any.
        min_score: Score above which a label is a probable error.
    """

    findings: Sequence[Finding]
    exact: NDArray[np.int64]
    same: NDArray[np.int64]
    votes: Votes | None
    judged: NDArray[np.bool_]
    isolation: Isolation
    covers: Sequence[ClassCover]
    additions: Sequence[Additions]
    neighbors: Neighbors
    min_score: float

    def of_kind(self, kind: str) -> list[Finding]:
        """Return the findings of one of the `KINDS`.

        Raises:
            ValueError: If there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        return [finding for finding in self.findings if finding.kind == kind]


def find_problems(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    class_names: Sequence[str] = (),
    content_hashes: Sequence[Hashable] | None = None,
    perceptual_hashes: NDArray[np.uint64] | None = None,
    ranks: ArrayLike | None = None,
    same_picture: Callable[[int, int], float] | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    centers: int = 8,
    min_score: float = 0.9,
    progress: Callable[[int], object] | None = None,
) -> Problems:
    """Find copies, leaks, probable label errors, outliers and badly covered classes among N pictures.

    Copies count as one picture in everything after them: a copy is no evidence about a label.

    Args:
        embeddings: φ-normalized embeddings, floating point, (N, d).
        labels: Labels, −1 for a picture without one: integers (N,). None: no picture has one.
        class_names: Names of the labels 0..C−1, for notes; by default their numbers.
        content_hashes: Equal for files with the same bytes, (N,). None: no file is compared.
        perceptual_hashes: 64 bits that are nearly equal for the same picture: uint64, (N,).
        ranks: Rank of each picture, (N,); of copies, the one of the lowest rank leads its group. By default its row.
        same_picture: Called with two rows; returns how alike the pictures are, 0 if they are not the same but for
            encoding and size. None: no pixels are compared.
        splits: Splits of each picture, (N,), ``""`` for none, by a name that says whose splits they are.
        centers: Number of centers that cover a class.
        min_score: Score from which a label is a probable error, in [0.5, 1).
        progress: Called with the number of pictures that were searched since the last call.

    Returns:
        The problems.

    Raises:
        ValueError: On wrong shapes, values that are not finite, or options out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat([0, 1, 2], 20)
        >>> x = 0.6 * np.eye(3)[labels] + rng.normal(0, 0.02, (60, 3))
        >>> labels[7] = 2  # wrong
        >>> problems = find_problems(x, labels, content_hashes=[*range(59), 5])  # the last is a copy of number 5
        >>> for finding in problems.findings[:3]:
        ...     print(finding.kind, finding.row)
        exact copy 5
        exact copy 59
        label error 7
    """
    x, y = _checked(embeddings, labels)
    centers, count = as_int("centers", centers, 1), len(x)
    if not (is_finite(min_score) and 0.5 <= min_score < 1):
        raise ValueError(f"min_score: expected a number in [0.5, 1), got {min_score!r}")
    order = np.arange(count) if ranks is None else np.atleast_1d(plain_array("ranks", ranks, "numbers"))
    if not isinstance(splits, Mapping | None):
        raise ValueError(f"splits: expected those of each picture by name, got {type(splits).__name__}")
    of_pictures = {"content_hashes": content_hashes, "perceptual_hashes": perceptual_hashes, "ranks": order}
    for name, values in (*of_pictures.items(), *(splits or {}).items()):
        length = count if values is None else len(values) if isinstance(values, Sized) else "one value"
        if length != count:
            raise ValueError(f"{name}: expected one for each of {count} pictures, got {length}")
    largest, class_names = int(y.max()), as_tuple("class_names", class_names, "names")
    if others := [name for name in class_names if not isinstance(name, str)]:
        raise ValueError(f"class_names: expected texts, got {others[0]!r}")
    if 0 < len(class_names) <= largest:
        raise ValueError(f"class_names: expected one for each of {largest + 1} labels, got {len(class_names)}")
    names = {label: class_names[label] if len(class_names) else str(label) for label in np.unique(y[y >= 0]).tolist()}
    exact = np.arange(count) if content_hashes is None else group_equal(content_hashes, order)
    leaders = np.unique(exact)
    near = find_neighbors(x, leaders, exact, NEIGHBORS, progress)
    same, likeness = exact.copy(), np.ones(count)
    if same_picture is not None:
        pairs = candidate_pairs(leaders, perceptual_hashes, near)
        heads, likeness = group_same(pairs.tolist(), same_picture, order)
        same, likeness = heads[exact], likeness[exact]
    gallery = np.unique(same)
    with_labels = gallery[y[gallery] >= 0]
    if len(gallery) < len(leaders):
        near = find_neighbors(x, gallery, same, NEIGHBORS, progress)
    similar, apart = group_similar(near, gallery, x)
    if 0 < len(with_labels) < len(gallery):
        near = find_neighbors(x, with_labels, same, NEIGHBORS, progress)
    doubtful = _copies_with_other_labels(same, y)
    votes = count_votes(near, y, doubtful) if len(with_labels) else None
    judged = _judged(same, y)
    isolation = measure_isolation(near, y)
    wrong = np.zeros(count, bool) if votes is None else judged & (votes.suggested >= 0) & (votes.score > min_score)
    is_outlier = isolation.is_outlier & ~wrong
    sound = gallery[~wrong[gallery] & ~is_outlier[gallery] & ~doubtful[gallery]]
    covers = measure_covers(x, y, sound, centers)
    additions = list[Additions]()
    if votes is not None:
        unlabeled = gallery[(y[gallery] < 0) & (votes.other[gallery] >= _PROBABLE)]
        additions = choose_additions(x, y, sound, unlabeled, votes.suggested)
    found = _Listing(names, y)
    findings = [
        *found.copies("exact copy", exact, np.ones(count)),
        *found.copies("same picture", np.where(exact == np.arange(count), same, -1), likeness),
        *found.copies("similar", similar, 1.0 - apart / 2),
        *found.leaks(same, likeness, splits or {}),
        *([] if votes is None else found.label_errors(wrong, votes, near)),
        *found.outliers(is_outlier, isolation, near),
        *found.covers(covers),
        *found.additions(additions),
    ]
    return Problems(findings, exact, same, votes, judged, isolation, covers, additions, near, min_score)


def _checked(embeddings: ArrayLike, labels: ArrayLike | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x = as_rows("embeddings", embeddings)
    if not len(x):
        raise ValueError("embeddings: expected at least one, got none")
    if np.ma.is_masked(labels):
        raise ValueError("labels: expected all values, got a masked array; pass -1 for those that are masked")
    y = np.full(len(x), -1) if labels is None else plain_array("labels", labels, "integers")
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer) or y.min() < -1:
        raise ValueError(f"labels: expected {len(x)} integers from -1, got {y.dtype} of shape {y.shape}")
    return x, y.astype(np.int64)


def _copies_with_other_labels(same: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pictures have a copy with another label, bool (N,)."""
    found = np.zeros(len(labels), bool)
    for rows in members_of(same).values():
        found[rows] = len({label for label in labels[rows].tolist() if label >= 0}) > 1
    return found


def _judged(same: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whose labels can be judged: of at least two classes, with enough pictures that are no copies."""
    labeled = labels >= 0
    distinct = np.unique(np.stack([labels[labeled], same[labeled]], 1), axis=0)[:, 0]
    classes, sizes = np.unique(distinct, return_counts=True)
    return np.isin(labels, classes[sizes >= MIN_CLASS]) if len(classes) > 1 else np.zeros(len(labels), bool)


class _Listing:
    """Findings in order, with notes."""

    def __init__(self, names: Mapping[int, str], labels: NDArray[np.int64]) -> None:
        self.names, self.labels = names, labels

    def _label_note(self, rows: Sequence[int]) -> str:
        names = sorted({self.names[label] for label in self.labels[rows].tolist() if label >= 0})
        return f"labels differ: {', '.join(names)}" if len(names) > 1 else ""

    def copies(self, kind: str, leaders: NDArray[np.int64], scores: NDArray[np.float64]) -> Iterator[Finding]:
        """Yield the members of groups, groups with different labels first, then the most certain."""
        groups = []
        for leader, members in members_of(leaders).items():
            if leader >= 0:
                rows = sorted(members, key=lambda row: (row != leader, row))
                groups.append((self._label_note(rows), max(0.0, min(scores[rows])), rows))
        groups.sort(key=lambda group: (not group[0], -group[1], group[2]))
        for number, (note, _, rows) in enumerate(groups, 1):
            for row in rows:
                yield Finding(
                    kind, number, row, float(scores[row]), other=rows[0] if row != rows[0] else rows[1], note=note
                )

    def leaks(
        self, same: NDArray[np.int64], scores: NDArray[np.float64], splits: Mapping[str, Sequence[str]]
    ) -> Iterator[Finding]:
        """Yield the members of groups of copies in more than one split, those in train and test first."""
        groups = []
        for rows in members_of(same).values():
            for whose, split in splits.items():
                of_rows = {row: split[row] for row in rows if split[row]}
                found = sorted(set(of_rows.values()))
                if len(found) > 1:
                    severe = {"train", "test"} <= set(found)
                    groups.append((not severe, [*of_rows], f"{' and '.join(found)} of {whose}", of_rows))
                    break
        for number, (_, rows, note, of_rows) in enumerate(sorted(groups, key=lambda group: group[:2]), 1):
            for row in rows:
                other = next(one for one in rows if of_rows[one] != of_rows[row])
                yield Finding("leak", number, row, float(scores[row]), other=other, note=f"in {note}")

    def label_errors(self, wrong: NDArray[np.bool_], votes: Votes, near: Neighbors) -> Iterator[Finding]:
        """Yield pictures with probably wrong labels, the most certain first; each shows its nearest with the other."""
        rows, scores = np.flatnonzero(wrong), votes.score
        for number, row in enumerate(rows[np.argsort(-scores[rows], kind="stable")].tolist(), 1):
            found = near.rows[row]
            supporting = found[(found >= 0) & (self.labels[found] == votes.suggested[row])]
            other = int(supporting[0]) if len(supporting) else -1
            yield Finding("label error", number, row, float(scores[row]), int(votes.suggested[row]), other)

    @staticmethod
    def outliers(is_outlier: NDArray[np.bool_], isolation: Isolation, near: Neighbors) -> Iterator[Finding]:
        """Yield outliers, the most isolated first."""
        rows = np.flatnonzero(is_outlier)
        for number, row in enumerate(rows[np.argsort(-isolation.ratio[rows], kind="stable")].tolist(), 1):
            yield Finding("outlier", number, row, float(isolation.ratio[row]), other=int(near.rows[row, 0]))

    @staticmethod
    def covers(covers: Sequence[ClassCover]) -> Iterator[Finding]:
        """Yield the pictures that the centers of the worst covered classes leave farthest."""
        for number, cover in enumerate(covers[:_WORST], 1):
            for row, distance in cover.farthest:
                yield Finding("cover", number, row, distance, note=f"radius {cover.radius:.3f} with {cover.centers}")

    @staticmethod
    def additions(additions: Sequence[Additions]) -> Iterator[Finding]:
        """Yield pictures without a label that would improve the cover of a class."""
        for number, one in enumerate(additions, 1):
            before = one.radius
            for row, after in one.chosen:
                note = f"distance to the pictures of the class {before:.3f}, with it {after:.3f}"
                yield Finding("addition", number, row, before, one.label, note=note)
                before = after

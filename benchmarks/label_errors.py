"""Label errors found by ``ccpml clean`` beside those of cleanlab, on labels spoilt on purpose.

Usage: ``python -m benchmarks.label_errors groceries.npz [more.npz ...]``; files as ``ccpml embed`` writes them, and
``synthetic``. Needs cleanlab. Of each set, a fraction of the labels is replaced: by any other class, or by one of the
three classes whose centers are nearest. Rows: cleanlab's own way from features (the votes of 10 neighbors, as in its
Datalab; ``find_label_issues`` with its defaults), cleanlab given our probabilities, and ours.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.labels import NEIGHBORS, Votes, count_votes
from ccpml.cleaning.neighbors import Neighbors, find_neighbors

RATES = (0.0, 0.02, 0.05, 0.1, 0.2)
MIN_SCORE = 0.9
DATALAB_NEIGHBORS = 10


def synthetic(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return 1,000 points of 40 overlapping normal classes in 32 dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(40), 25)
    centers = rng.normal(size=(40, 32))
    return (0.8 * centers[labels] + rng.normal(size=(1000, 32))).astype(np.float32), labels


def spoil(
    x: NDArray[np.float32], labels: NDArray[np.int64], rate: float, near: bool, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return labels of which a fraction is replaced, and which ones."""
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    wrong = rng.random(len(labels)) < rate
    others = (np.arange(classes)[:, None] + np.arange(1, classes)) % classes  # (C, C - 1)
    if near:
        centers = np.stack([x[labels == label].mean(axis=0) for label in range(classes)])
        apart = np.linalg.norm(centers[:, None] - centers, axis=2)
        np.fill_diagonal(apart, np.inf)
        others = apart.argsort(axis=1)[:, :3]
    spoilt = np.where(wrong, others[labels, rng.integers(0, others.shape[1], len(labels))], labels)
    return spoilt, wrong


def datalab_probabilities(neighbors: Neighbors, labels: NDArray[np.int64], k: int = DATALAB_NEIGHBORS) -> Any:
    """Return the fraction of the k nearest neighbors that have each label, (N, C), as cleanlab's Datalab counts it."""
    found = np.zeros((len(labels), int(labels.max()) + 1))
    np.add.at(found, (np.arange(len(labels))[:, None], labels[neighbors.rows[:, :k]]), 1.0 / k)
    return found


def own_probabilities(votes: Votes, labels: NDArray[np.int64]) -> Any:
    """Return our probabilities of the given and of the most probable other label, (N, C); the rest is spread."""
    classes, rows = int(labels.max()) + 1, np.arange(len(labels))
    rest = np.maximum(1.0 - votes.own - votes.other, 0.0) / max(classes - 2, 1)
    found = np.repeat(rest[:, None], classes, axis=1)
    found[rows, labels] = votes.own
    found[rows, np.maximum(votes.suggested, 0)] = np.where(votes.suggested >= 0, votes.other, rest)
    return found / found.sum(axis=1, keepdims=True)


def compare(x: NDArray[np.float32], labels: NDArray[np.int64]) -> Iterator[str]:
    """Yield lines of a table: precision, recall, F1 and average precision of each way."""
    from cleanlab.filter import find_label_issues
    from sklearn.metrics import average_precision_score

    every = np.arange(len(labels))
    neighbors = find_neighbors(x, every, every, NEIGHBORS)
    for near in (False, True):
        for rate in RATES[1 if near else 0 :]:
            given, wrong = spoil(x, labels, rate, near, seed=0)
            votes = count_votes(neighbors, given)
            theirs, ours = datalab_probabilities(neighbors, given), own_probabilities(votes, given)
            ways = {
                "cleanlab, 10 neighbors": (find_label_issues(given, theirs), 1 - theirs[every, given]),
                "cleanlab, our probabilities": (find_label_issues(given, ours), 1 - ours[every, given]),
                "ccpml clean": (votes.score > MIN_SCORE, votes.score),
            }
            for name, (found, score) in ways.items():
                right = np.count_nonzero(found & wrong)
                cells = f"{np.count_nonzero(found):,}"
                if wrong.any():
                    precision, recall = right / max(np.count_nonzero(found), 1), right / np.count_nonzero(wrong)
                    f1 = 2 * right / (np.count_nonzero(found) + np.count_nonzero(wrong))
                    ap = average_precision_score(wrong, score)
                    cells += f" | {precision:.2f} | {recall:.2f} | {f1:.2f} | {ap:.2f}"
                kind = "near classes" if near else "any class"
                yield f"| {rate:.0%} {kind if rate else ''} | {name} | {cells} |"


def main() -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description="Compare label errors found on labels spoilt on purpose.")
    parser.add_argument("sets", nargs="+", help="files that ccpml embed wrote, or synthetic")
    for name in parser.parse_args().sets:
        if name == "synthetic":
            x, labels = synthetic()
        else:
            with np.load(name) as file:
                x, labels = file["embeddings"], np.unique(file["labels"], return_inverse=True)[1]
        print(f"{name}: {len(x):,} embeddings of {labels.max() + 1} classes")
        print("| spoilt | way | found | precision | recall | F1 | average precision |\n|---|---|---|---|---|---|---|")
        print("\n".join(compare(np.ascontiguousarray(x, dtype=np.float32), labels)))


if __name__ == "__main__":
    main()

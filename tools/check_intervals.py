"""Measure how often the 95 % intervals over classes hold the true value, by simulations whose truth is known.

Usage: ``python tools/check_intervals.py [--draws 500]``; it prints the table of docs/compare.md.

Classes are drawn at random. In the rows ``right answers``, each has a difficulty and a size, and queries are right or
wrong independently; ``nearly perfect`` has few classes with any error. In the rows ``retrieval``, classes are clusters
of vectors, and two systems that distort them differently are evaluated on all queries against each other, so that
classes also share a gallery; the truth is the mean over the draws.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ccpml.retrieval import class_bootstrap, evaluate

Scores = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Scores, NDArray[np.int64]]]


def right_answers(rng: np.random.Generator, classes: int) -> tuple[Scores, NDArray[np.int64]]:
    """Return whether queries are right, by two systems, (2, Q), and their classes."""
    sizes, difficulty = rng.integers(4, 20, classes), rng.normal(0, 1.5, classes)
    labels = np.repeat(np.arange(classes), sizes)
    gains = np.stack([np.zeros(classes), rng.normal(0.2, 0.4, classes)])
    rates = 1 / (1 + np.exp(-difficulty - gains))  # (2, C)
    return (rng.random((2, len(labels))) < rates[:, labels]).astype(np.float64), labels


def nearly_perfect(rng: np.random.Generator, classes: int) -> tuple[Scores, NDArray[np.int64]]:
    """Return the same for two systems that are right on nearly all classes."""
    labels = np.repeat(np.arange(classes), rng.integers(4, 20, classes))
    hard = rng.random((2, classes)) < 0.2
    rates = np.where(hard, rng.beta(4, 1, (2, classes)), 1.0)
    return (rng.random((2, len(labels))) < rates[:, labels]).astype(np.float64), labels


def retrieval(rng: np.random.Generator, classes: int) -> tuple[Scores, NDArray[np.int64]]:
    """Return MAP@R of queries by two systems, (2, Q), and their classes."""
    sizes, spread = rng.integers(4, 12, classes), rng.gamma(4, 0.2, classes)
    labels = np.repeat(np.arange(classes), sizes)
    vectors = rng.normal(size=(classes, 8))[labels] + spread[labels, None] * rng.normal(size=(len(labels), 8))
    scores = []
    for noise in (0.6, 0.5):
        found = evaluate(vectors + noise * rng.normal(size=vectors.shape), labels, recall_at=(), per_query=True)
        assert found.per_query is not None
        scores.append(found.per_query.map_at_r)
    return np.stack(scores), labels


CASES: Sequence[tuple[str, Draw]] = (
    ("right answers", right_answers),
    ("nearly perfect", nearly_perfect),
    ("retrieval", retrieval),
)


def coverage(draw: Draw, classes: int, draws: int, samples: int) -> tuple[float, float]:
    """Return how often the intervals of the first score and of the paired difference hold the truth."""
    rng = np.random.default_rng([classes, draws])
    found = [draw(rng, classes) for _ in range(draws)]
    more = found if draw is retrieval else [draw(rng, 1000) for _ in range(1000)]  # a gallery must keep its size
    queries = sum(len(labels) for _, labels in more)
    first, second = sum(scores.sum(axis=1) for scores, _ in more) / queries
    held = np.zeros(2)
    for number, (scores, labels) in enumerate(found):
        table = np.stack([scores[0], scores[1] - scores[0]])
        bootstrap = class_bootstrap(table, labels, samples=samples, seed=number)
        assert bootstrap is not None
        low, high = bootstrap.intervals().T
        held += (low <= (first, second - first)) & ((first, second - first) <= high)
    of_score, of_difference = (held / draws).tolist()
    return of_score, of_difference


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--samples", type=int, default=1999)
    parser.add_argument("--classes", type=int, nargs="+", default=[5, 10, 20, 40, 100])
    options = parser.parse_args()
    print("| case | classes | score | paired difference |\n|---|---|---|---|")
    for name, draw in CASES:
        for classes in options.classes:
            of_score, of_difference = coverage(draw, classes, options.draws, options.samples)
            print(f"| {name} | {classes} | {100 * of_score:.1f} % | {100 * of_difference:.1f} % |", flush=True)


if __name__ == "__main__":
    main()

"""Re-ranking as loops over sets, in float64, written from the definitions."""

import math

import numpy as np


def squared(a, b):
    return float(((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).sum())


def others(points, p, members):
    """Return ``members`` without p, from nearest to farthest, the lower number first among equal distances."""
    return sorted((g for g in members if g != p), key=lambda g: (squared(points[p], points[g]), g))


def k_reciprocal(points, queries, gallery, k1, k2, weight):
    """Rank the gallery, numbers of points, for each query, the number of a point."""
    everyone = range(len(points))
    ranking = {p: [p, *others(points, p, everyone)] for p in everyone}

    def reciprocal(p, k):
        return {g for g in ranking[p][: k + 1] if p in ranking[g][: k + 1]}

    encoded = {}
    for p in everyone:
        near = reciprocal(p, k1)
        expanded = set(near)
        for g in near:
            more = reciprocal(g, round(k1 / 2))
            if len(near & more) >= 2 / 3 * len(more) - 1e-9:
                expanded |= more
        encoded[p] = [math.exp(-squared(points[p], points[g])) if g in expanded else 0.0 for g in everyone]
    averaged = {p: np.mean([encoded[g] for g in ranking[p][:k2]], axis=0) for p in everyone}
    found = []
    for q in queries:
        score = {}
        for g in gallery:
            low, high = np.minimum(averaged[q], averaged[g]).sum(), np.maximum(averaged[q], averaged[g]).sum()
            score[g] = (1 - weight) * (1 - low / high) + weight * squared(points[q], points[g])
        found.append([(g, score[g]) for g in sorted(score, key=lambda g: (score[g], g)) if g != q])
    return found


def mean(vector, neighbors, alpha):
    """Return the weighted mean of a vector and its neighbors."""
    weights = [1.0, *(max(0.0, 1 - squared(vector, other) / 2) ** alpha for other in neighbors)]
    parts = np.array([vector, *neighbors], np.float64)
    total = sum(w * part for w, part in zip(weights, parts, strict=True))
    length = sum(w * np.linalg.norm(part) for w, part in zip(weights, parts, strict=True)) / sum(weights)
    return total / np.linalg.norm(total) * length


def rank(query, vectors):
    """Return the keys of some vectors, from nearest to farthest."""
    return sorted(vectors, key=lambda g: (squared(query, vectors[g]), g))

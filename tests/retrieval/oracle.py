"""The metrics as loops over queries, in float64, written from their definition."""

import numpy as np


def rank(query, gallery, exclude=None):
    """Return the indices of the gallery from nearest to farthest, the lower index first among equal distances."""
    distances = [float(((query - other) ** 2).sum()) for other in gallery]
    return sorted((j for j in range(len(gallery)) if j != exclude), key=lambda j: (distances[j], j))


def scores(embeddings, labels, gallery=None, gallery_labels=None, recall_at=(1, 2, 4, 8)):
    """Return means and per-query values as a dict; NaN for skipped queries."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    within = gallery is None
    gallery = embeddings if within else np.asarray(gallery, dtype=np.float64)
    gallery_labels = labels if within else gallery_labels
    table = np.full((3 + len(recall_at), len(embeddings)), np.nan)
    for i, (query, label) in enumerate(zip(embeddings, labels, strict=True)):
        ranking = rank(query, gallery, exclude=i if within else None)
        right = [bool(gallery_labels[j] == label) for j in ranking]
        relevant = sum(right)
        if relevant == 0:
            continue
        precisions = [sum(right[: j + 1]) / (j + 1) for j in range(relevant)]
        table[0, i] = sum(p for p, r in zip(precisions, right, strict=False) if r) / relevant
        table[1, i] = right[0]
        table[2, i] = sum(right[:relevant]) / relevant
        table[3:, i] = [any(right[:k]) for k in recall_at]
    counted = ~np.isnan(table[0])
    means = table[:, counted].mean(axis=1)
    return {
        "map_at_r": means[0],
        "precision_at_1": means[1],
        "r_precision": means[2],
        "recall_at": dict(zip(recall_at, means[3:], strict=True)),
        "num_queries": int(counted.sum()),
        "num_skipped": int((~counted).sum()),
        "per_query": table[:3],
    }

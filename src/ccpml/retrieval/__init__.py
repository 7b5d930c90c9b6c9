"""Exact nearest neighbors, retrieval metrics and cluster scores."""

from ccpml.retrieval.clusters import ClusterScores, cluster_scores
from ccpml.retrieval.evaluation import PerQuery, RetrievalScores, evaluate
from ccpml.retrieval.intervals import (
    ClassBootstrap,
    PairedDifference,
    class_bootstrap,
    class_interval,
    describe_intervals,
    paired_difference,
    score_intervals,
)
from ccpml.retrieval.neighbors import nearest_neighbors

__all__ = [
    "ClassBootstrap",
    "ClusterScores",
    "PairedDifference",
    "PerQuery",
    "RetrievalScores",
    "class_bootstrap",
    "class_interval",
    "cluster_scores",
    "describe_intervals",
    "evaluate",
    "nearest_neighbors",
    "paired_difference",
    "score_intervals",
]

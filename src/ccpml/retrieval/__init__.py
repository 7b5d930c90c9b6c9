"""Exact nearest neighbors, retrieval metrics and cluster scores."""

from ccpml.retrieval.clusters import ClusterScores, cluster_scores
from ccpml.retrieval.evaluation import PerQuery, RetrievalScores, evaluate
from ccpml.retrieval.intervals import class_interval, describe_intervals, score_intervals
from ccpml.retrieval.neighbors import nearest_neighbors

__all__ = [
    "ClusterScores",
    "PerQuery",
    "RetrievalScores",
    "class_interval",
    "cluster_scores",
    "describe_intervals",
    "evaluate",
    "nearest_neighbors",
    "score_intervals",
]

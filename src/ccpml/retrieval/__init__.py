"""Exact nearest neighbors, retrieval metrics and cluster scores."""

from ccpml.retrieval.clusters import ClusterScores, cluster_scores
from ccpml.retrieval.evaluation import PerQuery, RetrievalScores, evaluate
from ccpml.retrieval.neighbors import nearest_neighbors

__all__ = ["ClusterScores", "PerQuery", "RetrievalScores", "cluster_scores", "evaluate", "nearest_neighbors"]

"""Neighbours and exact retrieval metrics: what stands near what, and how often that is right."""

from ccpml.retrieval.clusters import ClusterScores, cluster_scores
from ccpml.retrieval.metrics import PerQuery, RetrievalScores, evaluate
from ccpml.retrieval.neighbors import nearest_neighbors

__all__ = ["ClusterScores", "PerQuery", "RetrievalScores", "cluster_scores", "evaluate", "nearest_neighbors"]

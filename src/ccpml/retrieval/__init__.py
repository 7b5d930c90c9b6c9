"""Neighbours and exact retrieval metrics: what stands near what, and how often that is right."""

from ccpml.retrieval.metrics import PerQuery, RetrievalScores, evaluate
from ccpml.retrieval.neighbors import nearest_neighbors

__all__ = ["PerQuery", "RetrievalScores", "evaluate", "nearest_neighbors"]

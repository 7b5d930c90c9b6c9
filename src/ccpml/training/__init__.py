"""The Lightning module, the CCP callback and the pool."""

from ccpml.training.callback import CCPCallback
from ccpml.training.embed import embed
from ccpml.training.module import MetricLearning, score_roles
from ccpml.training.pool import EmbeddingPool

__all__ = ["CCPCallback", "EmbeddingPool", "MetricLearning", "embed", "score_roles"]

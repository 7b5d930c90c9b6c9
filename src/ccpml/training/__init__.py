"""Training with Lightning: module, CCP callback, pool and schedules."""

from ccpml.training.callback import CCPCallback
from ccpml.training.embed import embed, pooled_features
from ccpml.training.head_start import HeadStartCallback
from ccpml.training.module import MetricLearning, evaluate_with_roles
from ccpml.training.pool import EmbeddingPool
from ccpml.training.schedule import ReduceOnPlateau, Warmup

__all__ = [
    "CCPCallback",
    "EmbeddingPool",
    "HeadStartCallback",
    "MetricLearning",
    "ReduceOnPlateau",
    "Warmup",
    "embed",
    "evaluate_with_roles",
    "pooled_features",
]

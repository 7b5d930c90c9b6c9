"""The paper: each equation once, in PyTorch alone."""

from ccpml.distributed import gather_batch
from ccpml.method.ccp import CCPLoss
from ccpml.method.cover import (
    average_covering_radius,
    average_interclass_distance,
    covering_radius,
    greedy_k_center,
)
from ccpml.method.losses import (
    ContrastiveLoss,
    CosineContrastiveLoss,
    MultiSimilarityLoss,
    TripletMarginLoss,
)
from ccpml.method.normalize import lipschitz_normalize
from ccpml.method.pair_loss import PairLoss
from ccpml.method.projections import AlternatingProjections
from ccpml.method.separation import MIN_SEPARATION, class_separation

__all__ = [
    "MIN_SEPARATION",
    "AlternatingProjections",
    "CCPLoss",
    "ContrastiveLoss",
    "CosineContrastiveLoss",
    "MultiSimilarityLoss",
    "PairLoss",
    "TripletMarginLoss",
    "average_covering_radius",
    "average_interclass_distance",
    "class_separation",
    "covering_radius",
    "gather_batch",
    "greedy_k_center",
    "lipschitz_normalize",
]

"""Deep metric learning with chance constraints: the public names, imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccpml.method import (
        AlternatingProjections,
        CCPLoss,
        ContrastiveLoss,
        CosineContrastiveLoss,
        MultiSimilarityLoss,
        PairLoss,
        TripletMarginLoss,
        average_covering_radius,
        average_interclass_distance,
        covering_radius,
        gather_batch,
        greedy_k_center,
        lipschitz_normalize,
    )
    from ccpml.models import EmbeddingModel
    from ccpml.retrieval import RetrievalScores, evaluate
    from ccpml.runs import Run, load_run
    from ccpml.training import CCPCallback

__all__ = [
    "AlternatingProjections",
    "CCPCallback",
    "CCPLoss",
    "ContrastiveLoss",
    "CosineContrastiveLoss",
    "EmbeddingModel",
    "MultiSimilarityLoss",
    "PairLoss",
    "RetrievalScores",
    "Run",
    "TripletMarginLoss",
    "average_covering_radius",
    "average_interclass_distance",
    "covering_radius",
    "evaluate",
    "gather_batch",
    "greedy_k_center",
    "lipschitz_normalize",
    "load_run",
]

__version__ = "0.1.0"

_FLOOR = {
    "CCPCallback": "training",
    "Run": "runs",
    "load_run": "runs",
    "EmbeddingModel": "models",
    "RetrievalScores": "retrieval",
    "evaluate": "retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ccpml' has no attribute {name!r}")
    value = getattr(import_module(f"ccpml.{_FLOOR.get(name, 'method')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

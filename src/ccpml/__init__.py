"""Deep metric learning with chance constraints: the public names, imported when they are first used."""

TYPE_CHECKING = False  # as typing's, which is not imported: the command line handles Ctrl-C only after this module
if TYPE_CHECKING:
    from typing import Any

    from ccpml.baselines import (
        ArcFaceLoss,
        CrossBatchMemory,
        ProxyAnchorLoss,
        ProxyNCALoss,
        SoftTripleLoss,
        SubCenterArcFaceLoss,
    )
    from ccpml.exported import ExportedModel
    from ccpml.exporting.export import export_run
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
    from ccpml.models import EmbeddingModel, create_model, start_head
    from ccpml.options import ProjectionOptions
    from ccpml.retrieval import ClusterScores, RetrievalScores, cluster_scores, evaluate, nearest_neighbors
    from ccpml.runs.inference import Run, load_run
    from ccpml.runs.settings import Settings
    from ccpml.runs.train import resume, train
    from ccpml.serving import Index
    from ccpml.training import CCPCallback, EmbeddingPool, pooled_features

__all__ = [
    "AlternatingProjections",
    "ArcFaceLoss",
    "CCPCallback",
    "CCPLoss",
    "ClusterScores",
    "ContrastiveLoss",
    "CosineContrastiveLoss",
    "CrossBatchMemory",
    "EmbeddingModel",
    "EmbeddingPool",
    "ExportedModel",
    "Index",
    "MultiSimilarityLoss",
    "PairLoss",
    "ProjectionOptions",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RetrievalScores",
    "Run",
    "Settings",
    "SoftTripleLoss",
    "SubCenterArcFaceLoss",
    "TripletMarginLoss",
    "average_covering_radius",
    "average_interclass_distance",
    "cluster_scores",
    "covering_radius",
    "create_model",
    "evaluate",
    "export_run",
    "gather_batch",
    "greedy_k_center",
    "lipschitz_normalize",
    "load_run",
    "nearest_neighbors",
    "pooled_features",
    "resume",
    "start_head",
    "train",
]

__version__ = "0.1.0"

# Modules of the names that are not in ccpml.method.
_MODULES = {
    **dict.fromkeys(["ArcFaceLoss", "SubCenterArcFaceLoss", "CrossBatchMemory"], "baselines"),
    **dict.fromkeys(["ProxyAnchorLoss", "ProxyNCALoss", "SoftTripleLoss"], "baselines"),
    **dict.fromkeys(["EmbeddingModel", "create_model", "start_head"], "models"),
    "export_run": "exporting.export",
    "ExportedModel": "exported",
    "ProjectionOptions": "options",
    **dict.fromkeys(["ClusterScores", "RetrievalScores"], "retrieval"),
    **dict.fromkeys(["cluster_scores", "evaluate", "nearest_neighbors"], "retrieval"),
    **dict.fromkeys(["Run", "load_run"], "runs.inference"),
    "Settings": "runs.settings",
    **dict.fromkeys(["resume", "train"], "runs.train"),
    "Index": "serving",
    **dict.fromkeys(["CCPCallback", "EmbeddingPool", "pooled_features"], "training"),
}


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module 'ccpml' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"ccpml.{_MODULES.get(name, 'method')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

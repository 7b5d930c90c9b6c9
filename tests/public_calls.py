"""Calls of public functions and classes, in which a test replaces each argument by wrong ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import ccpml
from ccpml import baselines, data, models, reranking, serving
from ccpml.calibration import Certificate
from ccpml.calibration.run import calibrate_run
from ccpml.cleaning import find_problems
from ccpml.comparison.compare import compare_runs
from ccpml.data import EvalTransform, TrainTransform
from ccpml.data.crops import cropped_batches
from ccpml.models import SmallConv
from ccpml.retrieval import class_bootstrap, class_interval, paired_difference
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import embed_run, evaluate_run
from ccpml.runs.inference.rankings import compare_rankings
from ccpml.serving.service import ServiceSettings
from ccpml.training import CCPCallback, HeadStartCallback, MetricLearning, Warmup, embed, evaluate_with_roles

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
ROWS, LABELS = X.numpy(), torch.arange(12) // 3
POINTS = X.view(4, 3, 4)
PIXELS = np.zeros((20, 30, 3), np.uint8)
SIZES: dict[str, Any] = {"num_classes": 4, "embedding_dim": 4}
RNG = np.random.default_rng(0)
NOWHERE = "/no/such/place"


def of(call: Callable[..., Any], /, *given: Any, **known: Any) -> Callable[[str], Callable[[Any], Any]]:
    """Return, for the name of an argument, the call with another value of it."""
    return lambda name: lambda value: call(*given, **{**known, name: value})


SCORES = {"values": [0.1, 0.2, 0.3, 0.4], "labels": [0, 0, 1, 1]}
# Public calls, by their name, with the arguments that are replaced by wrong ones.
CALLS: dict[str, tuple[Callable[[str], Callable[[Any], Any]], str]] = {
    "EmbeddingModel": (
        of(ccpml.EmbeddingModel, backbone=SmallConv(1), embedding_dim=4),
        "backbone embedding_dim pooling freeze_batchnorm bias trained_stages",
    ),
    "create_model": (
        of(models.create_model, backbone="small_conv"),
        "backbone embedding_dim pooling channels weights freeze_batchnorm image_size bias trained_stages",
    ),
    "freeze_batchnorm": (of(models.freeze_batchnorm), "module"),
    "make_splits": (of(data.make_splits), "source"),
    "CCPCallback": (of(CCPCallback), "pool"),
    "MetricLearning": (
        of(MetricLearning, model=nn.Linear(2, 2), criterion=nn.Linear(2, 2), lr=1.0),
        "model criterion lr",
    ),
    "Warmup": (of(Warmup, frozen=nn.Linear(2, 2), steps=1), "frozen steps"),
    "export_run.license_id": (of(ccpml.export_run, NOWHERE, "onnx"), "license_id"),
    "load_weights": (of(models.load_weights, nn.Linear(2, 2)), "path"),
    "TrainTransform": (of(TrainTransform, size=8), "size min_area max_area flip aspect"),
    "TrainTransform.call": (
        lambda name: lambda x: TrainTransform(8)(**{"image": PIXELS, "rng": RNG, name: x}),
        "image",
    ),
    "TrainTransform.rng": (lambda name: lambda x: TrainTransform(8)(PIXELS, x), "rng"),
    "EvalTransform": (of(EvalTransform, size=8), "size resize"),
    "EvalTransform.call": (of(EvalTransform(8)), "image"),
    "cropped_batches": (
        lambda name: (
            lambda x: list(
                cropped_batches(
                    **{"images": [PIXELS], "transform": EvalTransform(8), "channels": 3, "batch_size": 1, name: x}
                )
            )
        ),
        "images batch_size",
    ),
    "compare_rankings": (of(compare_rankings, NOWHERE), "rerank ensemble dtypes all_classes"),
    "compare_rankings.path": (of(compare_rankings), "path"),
    "Filter": (of(serving.Filter), "root"),
    "Filter.parse": (lambda name: serving.Filter.parse, "filter"),
    "class_bootstrap": (
        of(class_bootstrap, values=[SCORES["values"]], labels=SCORES["labels"]),
        "values labels samples seed",
    ),
    "class_interval": (of(class_interval, **SCORES), "values labels level samples seed bounds"),
    "paired_difference": (of(paired_difference, **SCORES, reference=SCORES["values"]), "values reference labels level"),
    "load_run": (of(ccpml.load_run), "path"),
    "RunDirectory": (of(RunDirectory.open), "path"),
    "Index.open": (of(ccpml.Index.open), "path"),
    "open_index": (of(serving.open_index), "location"),
    "find_pictures": (of(serving.find_pictures), "data"),
    "find_queries": (of(serving.find_queries), "given"),
    "Certificate.read": (of(Certificate.read), "path"),
    "ExportedModel": (of(ccpml.ExportedModel), "path"),
    "from_pretrained": (of(ccpml.EmbeddingModel.from_pretrained), "name"),
    "evaluate_run": (of(evaluate_run), "path"),
    "embed_run": (of(embed_run, data="glyphs", output=NOWHERE), "path"),
    "calibrate_run": (of(calibrate_run, NOWHERE), "precisions"),
    "compare_runs": (of(compare_runs), "paths"),
    "export_run": (of(ccpml.export_run, NOWHERE), "file_format"),
    "export_run.run": (of(ccpml.export_run, file_format="onnx"), "run"),
    "evaluate": (
        of(ccpml.evaluate, embeddings=X, labels=LABELS),
        "embeddings labels recall_at per_query chunk_elements",
    ),
    "cluster_scores": (of(ccpml.cluster_scores, embeddings=X, labels=LABELS), "embeddings labels seed"),
    "nearest_neighbors": (of(ccpml.nearest_neighbors, queries=X, k=2), "queries k chunk_elements"),
    "greedy_k_center": (of(ccpml.greedy_k_center, points=POINTS, centers=POINTS, k=2), "points centers k"),
    "covering_radius": (of(ccpml.covering_radius, points=POINTS, centers=POINTS), "points centers"),
    "average_covering_radius": (of(ccpml.average_covering_radius, embeddings=X, labels=LABELS), "embeddings labels"),
    "lipschitz_normalize": (of(ccpml.lipschitz_normalize), "x"),
    "CCPLoss": (
        of(ccpml.CCPLoss, ccpml.ContrastiveLoss(), **SIZES, proxies_per_class=2),
        "num_classes embedding_dim proxies_per_class nearest_positives",
    ),
    "CCPLoss.loss": (of(ccpml.CCPLoss, **SIZES, proxies_per_class=2), "loss"),
    "CrossBatchMemory": (
        of(ccpml.CrossBatchMemory, ccpml.ContrastiveLoss(), embedding_dim=4, memory_batches=2, batch_size=12),
        "embedding_dim memory_batches batch_size start",
    ),
    "ProxyAnchorLoss": (of(baselines.ProxyAnchorLoss, **SIZES), "num_classes embedding_dim"),
    "Codes.build": (of(reranking.Codes.build, rows=ROWS, dtype="int8"), "rows dtype"),
    **{
        name: (of(method, queries=ROWS, gallery=ROWS, k=2), "queries gallery k own")
        for name, method in (("nearest", reranking.nearest), *reranking.METHODS.items())
    },
}

TABLE = data.ImageTable(np.zeros((12, 8, 8), np.uint8), LABELS.numpy(), tuple("abcd"))
DATASET = data.ImageDataset(TABLE, TrainTransform(8), 1)
BATCHES = data.ClassBalancedBatches(LABELS.numpy(), 2, 2, 0)
NETWORK = nn.Linear(4, 4)


def ccp_loss() -> ccpml.CCPLoss:
    """Return a new loss, as projections change it."""
    return ccpml.CCPLoss(ccpml.ContrastiveLoss(), **SIZES, proxies_per_class=2)


def fields_of(kind: Any) -> str:
    """Return the names of the fields of a dataclass."""
    return " ".join(each.name for each in dataclasses.fields(kind))


CALLS |= {
    "Settings": (of(ccpml.Settings), fields_of(ccpml.Settings)),
    "ProjectionOptions": (of(ccpml.ProjectionOptions), fields_of(ccpml.ProjectionOptions)),
    "ServiceSettings": (of(ServiceSettings), fields_of(ServiceSettings)),
    "ImageTable": (
        of(
            data.ImageTable, images=np.zeros((4, 8, 8), np.uint8), labels=np.array([0, 0, 1, 1]), class_names=("a", "b")
        ),
        "images labels class_names roles numbers rotate",
    ),
    "from_classes": (of(data.ImageTable.from_classes, images=["a", "b"], classes=["x", "y"]), "images classes roles"),
    "subset": (of(TABLE.subset), "class_ids"),
    "select": (of(TABLE.select), "rows"),
    "ImageDataset": (
        of(data.ImageDataset, table=TABLE, transform=TrainTransform(8), channels=1),
        "table transform channels seed",
    ),
    "ClassBalancedBatches": (
        of(data.ClassBalancedBatches, labels=LABELS.numpy(), classes_per_batch=2, samples_per_class=2, seed=0),
        "labels classes_per_batch samples_per_class seed rank world_size",
    ),
    "BatchRange": (of(data.BatchRange, batches=BATCHES, start=0, stop=3), "start stop"),
    "eval_loader": (
        of(data.eval_loader, table=TABLE, transform=EvalTransform(8), channels=1, batch_size=2),
        "table transform channels batch_size workers pin_memory rank world_size",
    ),
    "train_loader": (
        of(data.train_loader, dataset=DATASET, batches=BATCHES.steps(0, 2)),
        "workers pin_memory persistent",
    ),
    "pool_draws": (of(data.pool_draws, labels=LABELS, per_class=2, seed=0, draw=0), "labels per_class seed draw"),
    "pool_rows": (of(data.pool_rows, labels=LABELS, per_class=2, seed=0, draw=0), "labels per_class seed draw"),
    "in_chunks": (of(data.in_chunks, draws=[data.Draw(0, 1)], size=2), "draws size"),
    "read_image": (of(data.read_image, source=PIXELS, channels=3), "source channels min_size rotate"),
    "check_images": (of(data.check_images, table=TABLE), "table skip_bad"),
    "all_gray": (of(data.all_gray), "table"),
    "load_csv": (of(data.load_csv), "file"),
    "load_folder": (of(data.load_folder), "path"),
    "load_source": (of(data.load_source), "name"),
    "load_benchmark": (of(data.load_benchmark, name="cub"), "name data_root"),
    "build_cache": (of(data.build_cache, name="folder:/no/such/place"), "name data_root side"),
    "make_splits.classes": (of(data.make_splits, source=data.Source(TABLE)), "test_classes folds fold"),
    "Source": (of(data.Source, table=TABLE), "table split_of_class"),
    "Splits": (of(data.Splits, train=TABLE, validation=TABLE, test=TABLE), "train validation"),
    "closed_form_head": (of(models.closed_form_head, features=X, labels=LABELS, dim=2), "features labels dim"),
    "start_head": (
        of(ccpml.start_head, layer=nn.Linear(4, 2), features=X, labels=LABELS),
        "layer features labels kind length",
    ),
    "pooled_features": (of(ccpml.pooled_features, batches=[]), "model"),
    "EmbeddingPool": (of(ccpml.EmbeddingPool, dataset=DATASET, per_class=2), "dataset per_class batch_size workers"),
    "embed": (of(embed, batches=[(X, LABELS)], module=NETWORK), "batches"),
    "evaluate_with_roles": (of(evaluate_with_roles, embeddings=X, labels=LABELS), "embeddings labels is_query"),
    "MetricLearning.options": (
        of(MetricLearning, model=NETWORK, criterion=NETWORK, lr=1.0),
        "weight_decay is_query proxy_lr_factor shard_proxies head_lr_factor",
    ),
    "HeadStartCallback": (of(HeadStartCallback, kind="pca", train=lambda *_: None), "kind train is_query"),
    "CCPCallback.options": (of(CCPCallback, pool=lambda *_: None), "monitor options strength patience"),
    "AlternatingProjections": (
        lambda name: lambda x: ccpml.AlternatingProjections(**{"model": NETWORK, "criterion": ccp_loss(), name: x}),
        "model criterion options strength patience",
    ),
    "TripletMarginLoss": (of(ccpml.TripletMarginLoss), "margin normalize"),
    "ContrastiveLoss": (of(ccpml.ContrastiveLoss), "pos_margin neg_margin normalize"),
    "ContrastiveLoss.call": (of(ccpml.ContrastiveLoss(), embeddings=X, labels=LABELS), "embeddings labels"),
    "CosineContrastiveLoss": (of(ccpml.CosineContrastiveLoss), "margin normalize"),
    "MultiSimilarityLoss": (of(ccpml.MultiSimilarityLoss), "alpha beta base normalize"),
    "PairLoss": (of(ccpml.PairLoss), "normalize"),
    "ArcFaceLoss": (of(ccpml.ArcFaceLoss, **SIZES), "num_classes embedding_dim margin scale"),
    "SoftTripleLoss": (of(ccpml.SoftTripleLoss, **SIZES), "scale gamma tau margin centers_per_class"),
    "SubCenterArcFaceLoss": (of(ccpml.SubCenterArcFaceLoss, **SIZES), "margin scale centers_per_class"),
    "ProxyNCALoss": (of(ccpml.ProxyNCALoss, **SIZES), "num_classes embedding_dim temperature"),
    "ProxyAnchorLoss.options": (of(ccpml.ProxyAnchorLoss, **SIZES), "margin alpha"),
    "CCPLoss.options": (
        of(ccpml.CCPLoss, ccpml.ContrastiveLoss(), **SIZES, proxies_per_class=2),
        "pair_weight proxy_weight class_rate seed",
    ),
    "CCPLoss.call": (
        lambda name: lambda x: ccp_loss()(**{"embeddings": X, "labels": LABELS, name: x}),
        "embeddings labels",
    ),
    "gather_batch": (of(ccpml.gather_batch, embeddings=X, labels=LABELS), "embeddings labels"),
    "average_interclass_distance": (
        of(ccpml.average_interclass_distance, embeddings=X, labels=LABELS),
        "embeddings labels",
    ),
    "cluster_scores.options": (of(ccpml.cluster_scores, embeddings=X, labels=LABELS), "iterations"),
    "evaluate.gallery": (
        of(ccpml.evaluate, embeddings=X, labels=LABELS, gallery_embeddings=X, gallery_labels=LABELS),
        "gallery_embeddings gallery_labels",
    ),
    "find_problems": (
        of(find_problems, embeddings=ROWS, labels=LABELS),
        "embeddings labels class_names content_hashes perceptual_hashes ranks splits centers min_score",
    ),
    "augmentation": (of(reranking.augmentation, queries=ROWS, gallery=ROWS, k=2), "count alpha"),
    "k_reciprocal": (of(reranking.k_reciprocal, queries=ROWS, gallery=ROWS, k=2), "k1 k2 weight"),
    "normalize": (of(reranking.normalize), "vectors"),
    "join": (of(reranking.join), "embeddings"),
    "index_exists": (of(serving.index_exists), "location"),
    "find_queries.ids": (of(serving.find_queries, given=["/no/such"]), "ids"),
    "Picture": (of(serving.Picture, path="a.png"), "path label metadata image"),
    "Query": (of(serving.Query), "pictures ids"),
    "train": (of(ccpml.train, path="/no/such/place"), "settings"),
    "resume": (of(ccpml.resume), "path"),
}

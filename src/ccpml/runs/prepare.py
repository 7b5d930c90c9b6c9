"""From an experiment to its parts: images, network, criterion."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ccpml.baselines import (
    ArcFaceLoss,
    CrossBatchMemory,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    SubCenterArcFaceLoss,
)
from ccpml.data import (
    BadImage,
    EvalTransform,
    ImageDataset,
    ImageTable,
    Splits,
    TrainTransform,
    Transform,
    all_grey,
    check_images,
    eval_loader,
    load_source,
    make_splits,
)
from ccpml.data.sources.own import Source
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.method import (
    CCPLoss,
    ContrastiveLoss,
    CosineContrastiveLoss,
    MultiSimilarityLoss,
    PairLoss,
    TripletMarginLoss,
)
from ccpml.models import EmbeddingModel, create_model
from ccpml.runs.settings import PAIR_LOSSES, Experiment

__all__ = [
    "Images",
    "batch_size",
    "build_criterion",
    "build_model",
    "cached_side",
    "evaluation_batches",
    "is_query",
    "load_images",
    "readable_images",
    "require_compiler",
    "require_weights",
    "transforms",
]

_LOSSES: dict[str, Callable[..., PairLoss]] = {
    "contrastive": ContrastiveLoss,
    "cosine_contrastive": CosineContrastiveLoss,
    "triplet": TripletMarginLoss,
    "multi_similarity": MultiSimilarityLoss,
}
_RIVALS: dict[str, Callable[..., nn.Module]] = {
    "proxy_anchor": ProxyAnchorLoss,
    "proxy_nca": ProxyNCALoss,
    "soft_triple": SoftTripleLoss,
    "arcface": ArcFaceLoss,
    "subcenter_arcface": SubCenterArcFaceLoss,
}


@dataclass(frozen=True)
class Images:
    """The images of an experiment.

    Attributes:
        splits: What trains, validates and tests.
        bad: What was left out because it cannot be read.
        channels: 1 or 3, as the network sees them.
    """

    splits: Splits
    bad: list[BadImage]
    channels: Literal[1, 3]

    def fingerprint(self, packed: bool | None = None) -> str:
        """Give a digest of which images of which classes are in which split, cached or not: not of their pixels.

        Args:
            packed: Whether they come from a cache; None as it is.
        """
        digest = hashlib.sha256()
        for table in (self.splits.train, self.splits.validation, self.splits.test):
            names = [table.name_of(row) for row in range(len(table))]
            digest.update(repr((names, table.labels.tolist(), table.class_names)).encode())
            digest.update(b"packed" if (table.packed if packed is None else packed) else b"")
        return digest.hexdigest()

    def require(self, fingerprint: str, run: Path) -> None:
        """Check that a run began with these images.

        Raises:
            ValueError: If it did not; the message says so, or that they came from a cache only then, or only now.
        """
        if fingerprint == self.fingerprint():
            return
        if fingerprint == self.fingerprint(packed=True):
            raise ValueError(
                f"{run}: this run began with the images of a cache that is no longer there or too small; make it "
                "again with `ccpml data cache`, or begin a new run"
            )
        if fingerprint == self.fingerprint(packed=False):
            raise ValueError(
                f"{run}: a cache was made after this run began, with other pixels; to go on, take the folder "
                ".ccpml-cache out of that of the images"
            )
        raise ValueError(f"{run}: the images or their classes are not those that this run began with")


def load_images(experiment: Experiment, progress: bool = True) -> Images:
    """Find, check and split the images.

    Raises:
        ValueError: On anything wrong with the data; the message names it.
    """
    source = load_source(experiment.data, experiment.data_root, experiment.allow_partial, cached_side(experiment))
    table, bad = readable_images(source, experiment.data, experiment.skip_bad_images, progress)
    checked = Source(table, source.split_of_class)
    splits = make_splits(checked, experiment.test_patterns(), experiment.folds, experiment.fold)
    return Images(splits, bad, _channels(experiment, table))


def cached_side(experiment: Experiment) -> int:
    """Give the shorter side that images in a cache must have, so as not to be enlarged for evaluation."""
    return transforms(experiment)[1].side


def readable_images(
    source: Source, name: str, skip_bad: bool, progress: bool = True
) -> tuple[ImageTable, list[BadImage]]:
    """Check that the images of a set can be read; say on standard error which are left out."""
    log = None if source.folder is None else CheckLog(source.folder, name)
    table, bad = check_images(source.table, skip_bad, progress, log)
    if bad:
        named = "; ".join(f"{image.name}: {image.reason}" for image in bad[:10])
        more = f"; and {len(bad) - 10:,} more" if len(bad) > 10 else ""
        print(f"left out {len(bad):,} images that cannot be read: {named}{more}", file=sys.stderr)
    return table, bad


def _channels(experiment: Experiment, table: ImageTable) -> Literal[1, 3]:
    if experiment.channels is not None:
        return experiment.channels
    return 1 if experiment.resolved().backbone == "small_conv" and all_grey(table) else 3


def transforms(experiment: Experiment) -> tuple[Transform, EvalTransform]:
    """Give the transforms of training and of evaluation."""
    settings = experiment.resolved()
    size = settings.image_size
    assert size is not None  # resolved
    if settings.augment == "paper":
        return TrainTransform(size), EvalTransform(size)
    whole = EvalTransform(size, resize=size)  # as much of the image as a square holds
    if settings.augment == "none":
        return whole, whole
    return TrainTransform(size, min_area=0.7, flip=False, aspect=(5 / 6, 6 / 5)), whole


def evaluation_batches(
    experiment: Experiment, table: ImageTable, channels: int, batch_size: int = 128, *, rank: int = 0, ranks: int = 1
) -> Any:
    """Load the images of a table in their order, as evaluation sees them; or a rank's share of them."""
    transform, processes = transforms(experiment)[1], workers(experiment, table)
    return eval_loader(table, transform, channels, batch_size, processes, rank=rank, world_size=ranks)


def workers(experiment: Experiment, table: ImageTable) -> int:
    """Give the number of processes that read images."""
    if experiment.workers is not None:
        return experiment.workers
    return 0 if isinstance(table.images, np.ndarray) else 2


def training_dataset(experiment: Experiment, table: ImageTable, channels: int) -> ImageDataset:
    """Give the training images, seen through the transform of training."""
    return ImageDataset(table, transforms(experiment)[0], channels, experiment.seed)


def pool_dataset(experiment: Experiment, table: ImageTable, channels: int) -> ImageDataset:
    """Give the training images as the pool sees them."""
    train, evaluation = transforms(experiment)
    transform = train if experiment.pool_transform == "train" else evaluation
    return ImageDataset(table, transform, channels, experiment.seed)


def build_model(experiment: Experiment, channels: int, weights: bool = True) -> EmbeddingModel:
    """Build the network.

    Args:
        experiment: What to build.
        channels: Of the images.
        weights: Whether to start from the experiment's weights, if it names any.
    """
    settings = experiment.resolved()
    assert settings.backbone is not None  # resolved
    return create_model(
        settings.backbone,
        embedding_dim=settings.embedding_dim,
        pooling=settings.pooling,
        channels=channels,
        weights=settings.weights if weights and settings.weights != "none" else None,
        freeze_batchnorm=bool(settings.freeze_batchnorm),
        image_size=settings.image_size,
    )


def require_compiler(experiment: Experiment) -> None:
    """Check that there is what torch.compile needs.

    Raises:
        ValueError: If a CPU shall be used and there is no C++ compiler.
    """
    cpu = experiment.device == "cpu" or (experiment.device == "auto" and not torch.accelerator.is_available())
    if cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ValueError(
            "compile: on a CPU torch.compile needs a C++ compiler such as g++; install one, or leave it off"
        )


def require_weights(experiment: Experiment) -> None:
    """Check that the weights to start from are there and fit, before images are read.

    Those of `small_conv` depend on the images' channels, and so are checked when it is built.

    Raises:
        ValueError: If they are not.
    """
    settings = experiment.resolved()
    if settings.weights not in {None, "none"} and settings.backbone != "small_conv":
        build_model(settings, channels=3)


def build_criterion(experiment: Experiment, num_classes: int) -> nn.Module:
    """Build the loss: alone (plain), with proxies (CCP), or with a memory of batches (XBM)."""
    settings, dim = experiment.resolved(), experiment.embedding_dim
    if settings.loss not in PAIR_LOSSES:
        return _RIVALS[settings.loss](num_classes=num_classes, embedding_dim=dim, **settings.loss_parameters())
    loss = _LOSSES[settings.loss](**settings.loss_parameters())
    if settings.method == "plain":
        return loss
    if settings.method == "xbm":
        assert settings.memory_batches is not None  # resolved
        return CrossBatchMemory(loss, dim, settings.memory_batches, batch_size(settings), start=settings.memory_start)
    assert settings.proxies_per_class is not None  # resolved
    return CCPLoss(
        loss,
        num_classes=num_classes,
        embedding_dim=dim,
        proxies_per_class=settings.proxies_per_class,
        pair_weight=settings.pair_weight,
        proxy_weight=settings.proxy_weight,
        class_rate=settings.class_rate,
        seed=settings.seed,
    )


def batch_size(experiment: Experiment) -> int:
    """Give the images of a training batch."""
    settings = experiment.resolved()
    assert settings.classes_per_batch is not None  # resolved
    assert settings.samples_per_class is not None
    return settings.classes_per_batch * settings.samples_per_class


def is_query(table: ImageTable) -> Tensor | None:
    """Say which images are queries, where the table has roles."""
    return None if table.roles is None else torch.from_numpy(table.roles == "query")

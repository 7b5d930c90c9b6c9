"""From settings to the parts of a run: network, criterion, transforms, loaders."""

import os
import shutil
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import nn

from ccpml.backbones import find_backbone
from ccpml.baselines import CrossBatchMemory
from ccpml.data import EvalTransform, ImageTable, TrainTransform, Transform, eval_loader
from ccpml.losses import LOSSES
from ccpml.method import CCPLoss
from ccpml.models import EmbeddingModel, create_model
from ccpml.numbers import size_text
from ccpml.runs.settings import ResolvedSettings

__all__ = [
    "available_device",
    "build_criterion",
    "build_model",
    "check_compiler",
    "check_device",
    "check_memory",
    "check_weights",
    "evaluation_batches",
    "transforms",
    "workers",
]


def build_criterion(settings: ResolvedSettings, num_classes: int) -> nn.Module:
    """Build the loss: alone (plain), with proxies (CCP), or with a memory of batches (XBM)."""
    dim = settings.embedding_dim
    loss_class = resolve_name(LOSSES[settings.loss].path)
    own = {"num_classes": num_classes, "embedding_dim": dim} if LOSSES[settings.loss].has_proxies else {}
    loss: nn.Module = loss_class(**own, **settings.loss_parameters)
    if settings.method == "plain":
        return loss
    if settings.method == "xbm":
        return CrossBatchMemory(loss, dim, settings.memory_batches, settings.batch_size, start=settings.memory_start)
    return CCPLoss(
        loss,
        num_classes=num_classes,
        embedding_dim=dim,
        proxies_per_class=settings.proxies_per_class,
        pair_weight=settings.pair_weight,
        proxy_weight=settings.proxy_weight,
        nearest_positives=None if settings.nearest_positives == "all" else settings.nearest_positives,
        class_rate=settings.class_rate,
        seed=settings.seed,
    )


def build_model(settings: ResolvedSettings, channels: int, initial_weights: bool = True) -> EmbeddingModel:
    """Build the network, with the initial weights that the settings name or with random ones."""
    return create_model(
        settings.backbone,
        embedding_dim=settings.embedding_dim,
        pooling=settings.pooling,
        channels=channels,
        weights=settings.weights if initial_weights and settings.weights != "none" else None,
        freeze_batchnorm=settings.freeze_batchnorm,
        image_size=settings.image_size,
        bias=settings.head_start != "random",
        trained_stages=settings.trained_stages,
    )


def check_weights(settings: ResolvedSettings) -> None:
    """Check that the initial weights can be loaded and suit the start, before images are read.

    Those of a backbone that takes gray images depend on the images' channels and are checked when it is built.
    """
    if settings.weights != "none" and not find_backbone(settings.backbone).takes_gray:
        check_features(settings, build_model(settings, channels=3))
    elif settings.head_start == "identity":
        check_features(settings, build_model(settings, channels=3, initial_weights=False))


def check_features(settings: ResolvedSettings, model: EmbeddingModel) -> None:
    """Check that embeddings that are the features themselves have as many dimensions."""
    features = model.linear.in_features
    if settings.head_start == "identity" and settings.embedding_dim != features:
        expected = f"{features}, the features of {settings.backbone}, for head_start identity"
        raise ValueError(f"embedding_dim: expected {expected}, got {settings.embedding_dim}")


def check_compiler(settings: ResolvedSettings) -> None:
    """Check that torch.compile has the compiler it needs, a C++ compiler on a CPU."""
    cpu = settings.device == "cpu" or (settings.device == "auto" and not torch.accelerator.is_available())
    if cpu and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ValueError("compile: no C++ compiler found, which torch.compile needs on a CPU; install g++ or omit it")


def check_device(settings: ResolvedSettings) -> None:
    """Check that the device is available."""
    kind, _, index = settings.device.partition(":")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= count:
        raise ValueError(f"device: {settings.device} is not available ({count} CUDA devices found); choose auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device: mps is not available (no GPU of Apple found); choose auto")


def available_device(name: str) -> torch.device:
    """Return the CUDA device of this name to compute on, another one where this machine lacks it, or else the CPU.

    A run is often used on another machine than that of its training. Devices without float64 (mps) are not used.

    Args:
        name: The setting ``device``.

    Example:
        >>> available_device("cpu")
        device(type='cpu')
    """
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind not in {"auto", "cuda"} or count == 0:
        return torch.device("cpu")
    return torch.device("cuda", int(index)) if index and int(index) < count else torch.device("cuda")


def check_memory(settings: ResolvedSettings, classes: int) -> None:
    """Check that a batch, and the pool of some training classes, fit into the memory of this machine.

    Allocating them might end the process, or take it minutes to fail. Ranks share the pool.

    Raises:
        ValueError: If one does not.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    batch, side, pool = settings.batch_size, settings.image_size, classes * settings.pool_size // settings.ranks
    batch_bytes = batch * 3 * side**2 * 4  # color, float32
    pool_bytes = pool * (settings.embedding_dim * 4 + 200) if settings.method == "ccp" else 0  # and what is drawn
    for names, what, needed in (
        (
            "image_size, classes_per_batch, samples_per_class",
            f"a batch of {batch} images of {side} pixels",
            batch_bytes,
        ),
        ("pool_size", f"a pool of {pool} embeddings", pool_bytes),
    ):
        if needed > memory:
            fits = f"expected what fits into memory ({size_text(memory)})"
            raise ValueError(f"{names}: {fits}, got {what}, which needs {size_text(needed)}")


def transforms(settings: ResolvedSettings) -> tuple[Transform, EvalTransform]:
    """Return the transforms of training and of evaluation."""
    size = settings.image_size
    if settings.augment == "paper":
        return TrainTransform(size), EvalTransform(size)
    whole = EvalTransform(size, resize=size)  # as much of the image as a square holds
    if settings.augment == "none":
        return whole, whole
    return TrainTransform(size, min_area=0.7, flip=False, aspect=(5 / 6, 6 / 5)), whole


def evaluation_batches(
    settings: ResolvedSettings, table: ImageTable, channels: int, *, rank: int = 0, ranks: int = 1
) -> Any:
    """Load the images of a table, or a rank's share of them, in order, under the transform of evaluation."""
    transform, processes = transforms(settings)[1], workers(settings, table)
    pinned = available_device(settings.device).type == "cuda"
    return eval_loader(table, transform, channels, 128, processes, pinned, rank=rank, world_size=ranks)


def workers(settings: ResolvedSettings, table: ImageTable) -> int:
    """Return the number of processes that read images."""
    if settings.workers != "auto":
        return settings.workers
    return 0 if isinstance(table.images, np.ndarray) else 2

"""The parts of a run: what is trained, on which batches, by which callbacks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import lightning as L
import torch

from ccpml.data import ClassBalancedBatches, Draw, ImageDataset, ImageTable
from ccpml.models import EmbeddingModel
from ccpml.runs.build import build_criterion, build_model, check_compiler, evaluation_batches, transforms, workers
from ccpml.runs.geometry import GeometrySet
from ccpml.runs.images import RunImages, is_query
from ccpml.runs.processes import launch_rank, local_and_node_counts
from ccpml.runs.settings import ResolvedSettings
from ccpml.training import (
    CCPCallback,
    EmbeddingPool,
    HeadStartCallback,
    MetricLearning,
    ReduceOnPlateau,
    Warmup,
)
from ccpml.training.embed import eval_mode
from ccpml.training.head_start import Batches

__all__ = ["EpochBatches", "Parts"]


class EpochBatches:
    """The batches between two validations, a Lightning epoch. They follow from the steps made, also after a resume."""

    def __init__(self, batches: ClassBalancedBatches, steps: int, module: L.LightningModule) -> None:
        self.batches = batches
        self.steps = steps
        self.module = module

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        done = self.module.global_step
        return iter(self.batches.steps(done, done + self.steps))


@dataclass(frozen=True)
class Parts:
    """The parts of a run, all built before its directory is created."""

    settings: ResolvedSettings  # with the channels of its images
    images: RunImages
    module: MetricLearning
    batches: EpochBatches
    geometry: GeometrySet
    head_start: HeadStartCallback | None  # unless the network is random and stays as it is
    ccp: CCPCallback | None  # for method ccp
    schedules: list[L.Callback]  # that change the learning rate or which weights are trained

    @classmethod
    def build(cls, settings: ResolvedSettings, images: RunImages) -> "Parts":
        """Build the parts; the network's random weights follow from the seed."""
        settings = replace(settings, channels=images.channels)
        if settings.threads != "auto":
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        table, size = images.splits.train, settings.image_size
        model = build_model(settings, images.channels)
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types floats alone
        if settings.compile:
            check_compiler(settings)
            model.compile()
        with eval_mode(model):  # an image size that the network cannot take fails here, not in training
            try:
                model(torch.zeros(1, images.channels, size, size))
            except ValueError as error:
                error.add_note("choose a larger image_size")
                raise
        module = MetricLearning(
            model,
            build_criterion(settings, table.num_classes),
            settings.lr,
            settings.weight_decay,
            is_query(images.splits.validation),
            settings.proxy_lr_factor,
            settings.shard_proxies,
            settings.head_lr_factor,
        )
        here, nodes = local_and_node_counts(settings.ranks)
        sizes = settings.classes_per_batch, settings.samples_per_class
        batches = ClassBalancedBatches(table.labels, *sizes, settings.seed, launch_rank(), here * nodes)
        return cls(
            settings=settings,
            images=images,
            module=module,
            batches=EpochBatches(batches, settings.validate_every, module),
            head_start=_build_head_start(settings, images, model),
            geometry=GeometrySet(settings, table, images.channels),
            ccp=_build_ccp(settings, images) if settings.method == "ccp" else None,
            schedules=list(_build_schedules(settings, model, len(table))),
        )


def _build_head_start(settings: ResolvedSettings, images: RunImages, model: EmbeddingModel) -> HeadStartCallback | None:
    """Build the start of the embedding layer; with initial weights, their features are scored on the test images."""
    kind, splits = settings.head_start, images.splits
    pretrained = settings.weights != "none"
    if kind == "random" and not pretrained:
        return None

    def batches(table: ImageTable) -> Batches:
        return lambda rank, ranks: evaluation_batches(settings, table, images.channels, rank=rank, ranks=ranks)

    test = batches(splits.test) if pretrained else None
    return HeadStartCallback(kind, batches(splits.train), test, is_query(splits.test))


def _build_schedules(settings: ResolvedSettings, model: EmbeddingModel, images: int) -> Iterator[L.Callback]:
    if settings.lr_schedule == "plateau":
        yield ReduceOnPlateau()
    if settings.warmup_epochs:
        yield Warmup(model.backbone, settings.warmup_epochs * math.ceil(images / settings.batch_size))


def _build_ccp(settings: ResolvedSettings, images: RunImages) -> CCPCallback:
    table, (train, evaluation) = images.splits.train, transforms(settings)
    transform = train if settings.pool_transform == "train" else evaluation
    dataset = ImageDataset(table, transform, images.channels, settings.seed)
    pool = EmbeddingPool(dataset, settings.pool_size, workers=workers(settings, table))
    return CCPCallback(pool, options=settings.projections)

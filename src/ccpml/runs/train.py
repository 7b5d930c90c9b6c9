"""Train an experiment into a run directory, and go on with one that was stopped."""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed

from ccpml.data import ClassBalancedBatches, Draw, ImageTable, pool_rows, train_loader
from ccpml.data_name import DataName
from ccpml.distributed import gather_rows
from ccpml.files import write_json, write_text
from ccpml.retrieval import RetrievalScores
from ccpml.runs.callbacks import Checkpoints, Interruption, OwnSignals, Progress, Recorder, SeedEpochs
from ccpml.runs.directory import RunDirectory
from ccpml.runs.geometry import GeometrySet
from ccpml.runs.inference import write_embeddings
from ccpml.runs.prepare import (
    Images,
    batch_size,
    build_criterion,
    build_model,
    evaluation_batches,
    is_query,
    load_images,
    pool_dataset,
    require_compiler,
    require_weights,
    training_dataset,
    workers,
)
from ccpml.runs.processes import is_main_process, launch_rank, local_and_node_counts, other_ranks, process_group_ended
from ccpml.runs.provenance import provenance
from ccpml.runs.settings import Experiment
from ccpml.training import (
    CCPCallback,
    EmbeddingPool,
    MetricLearning,
    ReduceOnPlateau,
    Warmup,
    embed,
    evaluate_with_roles,
)
from ccpml.training.embed import eval_mode

__all__ = ["resume", "train"]


def train(
    experiment: Experiment,
    path: Path,
    progress: bool = True,
    *,
    test: bool = True,
    callbacks: Sequence[L.Callback] = (),
) -> RunDirectory:
    """Train, test, and leave a run directory.

    Args:
        experiment: What to do.
        path: The run directory; there must be nothing.
        progress: Show a line of progress on standard error.
        test: Whether to score the test classes in the end; a run that did not is unfinished, and `resume` tests it.
        callbacks: Further callbacks of Lightning's; they come after ours, but for the one that writes checkpoints.

    Raises:
        ValueError: On anything wrong with the data or the settings, before training starts and anything is written.
        FileExistsError: If there is something at ``path``.
        Stopped: If Ctrl-C was pressed; `resume` goes on.
    """
    if is_main_process():
        RunDirectory.require_free(path)
    experiment = _settled(experiment)
    require_weights(experiment)
    parts = _Parts.build(experiment, load_images(experiment, progress and is_main_process()))
    run = RunDirectory(path)
    training = _Training.set_up(run, parts, progress, callbacks)
    if is_main_process():
        RunDirectory.create(path, parts.experiment)
        write_text(run.images_file, parts.images.fingerprint())
    training.of_all_ranks(run, parts, test)
    return run


def resume(
    path: Path, progress: bool = True, *, test: bool = True, callbacks: Sequence[L.Callback] = ()
) -> RunDirectory:
    """Go on with a run to the result that it would have had without the interruption.

    Args:
        path: The run directory. Nothing is done if the run is finished.
        progress: Show a line of progress on standard error.
        test: As for `train`.
        callbacks: As for `train`.

    Raises:
        FileNotFoundError: If there is no run at ``path``.
        ValueError: If its files are not those of a run, or the data are no longer what they were.
        Stopped: If Ctrl-C was pressed.
    """
    run = RunDirectory.open(path)
    if not run.finished:
        experiment = run.experiment()
        parts = _Parts.build(experiment, load_images(experiment, progress and is_main_process()))
        if run.images_file.is_file():
            parts.images.require(run.images_file.read_text(encoding="utf-8"), run.path)
        _Training.set_up(run, parts, progress, callbacks).of_all_ranks(run, parts, test)
    return run


def _settled(experiment: Experiment) -> Experiment:
    """Give the settings that reproduce the run: nothing left open, and files named from the root."""
    experiment = experiment.resolved()
    data = DataName.parse(experiment.data).resolved()
    root = experiment.data_root
    if data.is_benchmark:
        root = root or os.environ.get("CCPML_DATA")
    weights = experiment.weights
    if weights not in {None, "none", "imagenet"}:
        weights = _from_root(str(weights))
    return replace(experiment, data=str(data), data_root=root and _from_root(root), weights=weights)


def _from_root(path: str) -> str:
    return str(Path(path).expanduser().resolve())


class _EpochBatches:
    """The batches between two validations: a Lightning epoch. They follow from the steps made, also after a resume."""

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
class _Parts:
    """What is trained, on what, and by what: all built before a run directory is made."""

    experiment: Experiment
    images: Images
    module: MetricLearning
    batches: _EpochBatches
    geometry: GeometrySet
    ccp: CCPCallback | None
    schedules: list[L.Callback]

    @classmethod
    def build(cls, experiment: Experiment, images: Images) -> "_Parts":
        experiment = replace(experiment, channels=images.channels)
        if experiment.threads is not None:
            torch.set_num_threads(experiment.threads)
        torch.manual_seed(experiment.seed)
        table = images.splits.train
        model = build_model(experiment, images.channels)
        if experiment.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types floats alone
        if experiment.compile:
            require_compiler(experiment)
            model.compile()
        with eval_mode(model):  # an image size that the network cannot take shows here, not in training
            model(torch.zeros(1, images.channels, experiment.image_size or 1, experiment.image_size or 1))
        criterion = build_criterion(experiment, table.num_classes)
        assert experiment.lr is not None  # resolved
        assert experiment.proxy_lr_factor is not None
        assert experiment.classes_per_batch is not None
        assert experiment.samples_per_class is not None
        assert experiment.validate_every is not None
        queries = is_query(images.splits.validation)
        module = MetricLearning(
            model, criterion, experiment.lr, experiment.weight_decay, queries, experiment.proxy_lr_factor
        )
        here, nodes = local_and_node_counts(experiment.ranks)
        batches = ClassBalancedBatches(
            table.labels,
            experiment.classes_per_batch,
            experiment.samples_per_class,
            experiment.seed,
            launch_rank(),
            here * nodes,
        )
        epoch = _EpochBatches(batches, experiment.validate_every, module)
        geometry = GeometrySet(experiment, table, images.channels)
        schedules: list[L.Callback] = [ReduceOnPlateau()] if experiment.lr_schedule == "plateau" else []
        if experiment.warmup_epochs:
            steps = experiment.warmup_epochs * math.ceil(len(table) / batch_size(experiment))
            schedules.append(Warmup(model.backbone, steps))
        return cls(experiment, images, module, epoch, geometry, _ccp(experiment, images), schedules)


def _ccp(experiment: Experiment, images: Images) -> CCPCallback | None:
    if experiment.method != "ccp":
        return None
    assert experiment.pool_size is not None  # resolved
    table = images.splits.train
    dataset = pool_dataset(experiment, table, images.channels)
    return CCPCallback(
        EmbeddingPool(dataset, experiment.pool_size, workers=workers(experiment, table)),
        strength=experiment.strength,
        decay=experiment.decay,
        patience=experiment.instance_patience,
        min_delta=experiment.min_delta,
        space=experiment.center_space,
        rewind=experiment.rewind,
        reset_optimizer=experiment.reset_proxy_state,
    )


@dataclass(frozen=True)
class _Training:
    """The trainer and those of its callbacks that are asked something afterwards."""

    trainer: L.Trainer
    recorder: Recorder
    interruption: Interruption

    @classmethod
    def set_up(
        cls, run: RunDirectory, parts: _Parts, progress: bool, further: Sequence[L.Callback] = ()
    ) -> "_Training":
        """Set up a trainer; nothing is written yet."""
        experiment, interruption = parts.experiment, Interruption()
        recorder = Recorder(run, parts.geometry, experiment.patience, parts.ccp)
        assert experiment.max_steps is not None  # resolved
        assert experiment.validate_every is not None
        epochs = math.ceil(experiment.max_steps / experiment.validate_every)
        callbacks = [
            SeedEpochs(experiment.seed),
            OwnSignals(),
            *([parts.ccp] if parts.ccp else []),
            *parts.schedules,
            recorder,
        ]
        callbacks += [Progress(recorder, epochs * experiment.validate_every)] if progress else []
        callbacks += [*further, Checkpoints(run, recorder, interruption)]
        with _quiet():
            return cls(_trainer(run, experiment, epochs, callbacks), recorder, interruption)

    def of_all_ranks(self, run: RunDirectory, parts: _Parts, test: bool) -> None:
        """Train and test, on this rank and those beside it."""
        ranks = parts.experiment.ranks
        threads = parts.experiment.threads or max(1, torch.get_num_threads() // ranks)
        if not is_main_process():
            torch.set_num_threads(threads)
            with process_group_ended():
                self._finish(run, parts, test)
            return
        with run.locked(), self.interruption, other_ranks(run.path, ranks, threads):
            self._finish(run, parts, test)

    def _finish(self, run: RunDirectory, parts: _Parts, test: bool) -> None:
        """Train to the end, from the last checkpoint if there is one; then, if wanted, test with the best weights."""
        experiment, table = parts.experiment, parts.images.splits.train
        state = run.check_state()
        dataset = training_dataset(experiment, table, parts.images.channels)
        with _quiet():
            self.trainer.fit(
                parts.module,
                train_loader(dataset, parts.batches, workers(experiment, table), persistent=True),
                _share(parts, parts.images.splits.validation, self.trainer),
                ckpt_path=state,
                weights_only=True,
            )
        if not test:
            return
        last = _test(parts, self.trainer)[1] if experiment.score_last else None
        parts.module.load_state_dict(run.weights())
        _score(run, parts, self.recorder, self.trainer, last)


def _trainer(run: RunDirectory, experiment: Experiment, epochs: int, callbacks: list[L.Callback]) -> L.Trainer:
    kind, _, index = experiment.device.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {experiment.device} is not here ({torch.cuda.device_count()} CUDA devices are)")
    here, nodes = local_and_node_counts(experiment.ranks)
    options: dict[str, Any] = {"devices": [int(index)] if index else here, "num_nodes": nodes}
    if here * nodes > 1:
        gpus = torch.cuda.is_available() and kind in {"auto", "cuda"}
        unused = experiment.method == "ccp" and experiment.proxy_weight == 0
        options["strategy"] = DDPStrategy(
            process_group_backend="nccl" if gpus else "gloo", find_unused_parameters=unused
        )
        options["sync_batchnorm"] = gpus and not experiment.freeze_batchnorm
        options["plugins"] = [] if "TORCHELASTIC_RUN_ID" in os.environ else [LightningEnvironment()]
    return L.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        **options,
        precision=experiment.precision,
        max_epochs=epochs,
        gradient_clip_val=experiment.clip_norm,
        callbacks=callbacks,
        logger=TensorBoardLogger(run.path, name="tensorboard", version=""),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _share(parts: _Parts, table: ImageTable, trainer: L.Trainer) -> Any:
    """Give this rank's share of the images of a table, as batches."""
    rank, ranks = trainer.global_rank, trainer.world_size
    return evaluation_batches(parts.experiment, table, parts.images.channels, rank=rank, ranks=ranks)


def _embedded(parts: _Parts, table: ImageTable, trainer: L.Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed a table by the weights as they are, each rank its share: embeddings (N, d) and labels (N,)."""
    device = trainer.strategy.root_device
    found = embed(parts.module.to(device), _share(parts, table, trainer), device)
    embeddings, labels = (gather_rows(rows.to(device)).cpu() for rows in found)
    return embeddings, labels


def _test(parts: _Parts, trainer: L.Trainer) -> tuple[torch.Tensor, RetrievalScores]:
    """Embed and score the test classes by the weights as they are."""
    table = parts.images.splits.test
    embeddings, labels = _embedded(parts, table, trainer)
    ranks = distributed.group.WORLD if trainer.world_size > 1 else None
    return embeddings, evaluate_with_roles(embeddings, labels, is_query(table), group=ranks)


def _score(
    run: RunDirectory, parts: _Parts, recorder: Recorder, trainer: L.Trainer, last: RetrievalScores | None
) -> None:
    """Embed the splits by the best weights, test, and write what a finished run has."""
    splits = parts.images.splits
    some = pool_rows(splits.train.labels, 12, 0, 0)[:2000]
    tables = {"train": splits.train.select(np.unique(some)), "validation": splits.validation}
    embedded = {name: _embedded(parts, table, trainer)[0] for name, table in tables.items()}
    embedded["test"], scores = _test(parts, trainer)
    if not trainer.is_global_zero:
        return
    for name, table in {**tables, "test": splits.test}.items():
        write_embeddings(run.embeddings / f"{name}.npz", embedded[name], table)
    sizes = {
        name: {"classes": table.num_classes, "images": len(table)}
        for name, table in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
    }
    write_json(
        run.scores_file,
        {
            "test": scores.as_dict(),
            **({} if last is None else {"test_last": last.as_dict()}),
            "validation": {"map_at_r": recorder.best_score, "step": recorder.best_step},
            "steps": int(recorder.rows[-1]["step"]),
            "instances": parts.ccp.projections.instance if parts.ccp else 0,
            "splits": sizes,
            "partial": parts.experiment.allow_partial,
            "images_left_out": [f"{image.name}: {image.reason}" for image in parts.images.bad],
            "seed": parts.experiment.seed,
            **provenance(trainer.strategy.root_device),
        },
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice to itself while we train: each piece was considered, and a user can act on none."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

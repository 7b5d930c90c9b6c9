"""Lightning's trainer for a run."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from ccpml.data import ImageTable
from ccpml.files import write_bytes
from ccpml.runs.build import check_device, evaluation_batches
from ccpml.runs.callbacks import Checkpoints, Recorder, ReseedEachEpoch, RestoreSigterm, StopRequest
from ccpml.runs.directory import RunDirectory
from ccpml.runs.loggers.callback import Logging
from ccpml.runs.loggers.progress import Progress
from ccpml.runs.loggers.quiet import quiet
from ccpml.runs.parts import Parts
from ccpml.runs.processes import by_torchrun, local_and_node_counts
from ccpml.runs.settings import ResolvedSettings

__all__ = ["Training", "rank_batches"]


@dataclass(frozen=True)
class Training:
    """A trainer, and those of its callbacks that are read afterwards."""

    trainer: L.Trainer
    recorder: Recorder
    stop_request: StopRequest
    logging: Logging
    progress: bool  # whether it is shown

    @classmethod
    def set_up(cls, run: RunDirectory, parts: Parts, progress: bool, further: Sequence[L.Callback] = ()) -> "Training":
        """Set up a trainer; nothing is written yet."""
        settings, stop_request = parts.settings, StopRequest()
        starts_closed = settings.head_start != "random"
        recorder = Recorder(run, parts.geometry, settings.patience, parts.ccp, settings.max_steps, starts_closed)
        epochs = settings.total_steps // settings.validate_every
        if parts.head_start is not None:
            parts.head_start.progress = progress
        callbacks = [ReseedEachEpoch(settings.seed), RestoreSigterm()]
        callbacks += [
            *([parts.head_start] if parts.head_start else []),
            *([parts.ccp] if parts.ccp else []),
            *parts.schedules,
            recorder,
        ]
        callbacks += [Progress(recorder, settings.total_steps)] if progress and epochs else []
        logging = Logging(run, settings, recorder)
        callbacks += [*further, Checkpoints(run, recorder, stop_request, further), logging]
        if settings.precision == "64-true":  # as Lightning does, but only after it has loaded the state
            parts.module.double()
        with quiet():
            return cls(
                _trainer(settings, max(1, epochs), callbacks, logging), recorder, stop_request, logging, progress
            )


def _trainer(settings: ResolvedSettings, epochs: int, callbacks: list[L.Callback], logging: Logging) -> L.Trainer:
    check_device(settings)
    kind, _, index = settings.device.partition(":")
    here, nodes = local_and_node_counts(settings.ranks)
    options: dict[str, Any] = {"devices": [int(index)] if index else here, "num_nodes": nodes}
    plugins: list[Any] = [StateFile()]
    if here * nodes > 1:
        gpus = torch.cuda.is_available() and kind in {"auto", "cuda"}
        unused = settings.method == "ccp" and settings.proxy_weight == 0
        backend = "nccl" if gpus else "gloo"
        options["strategy"] = DDPStrategy(process_group_backend=backend, find_unused_parameters=unused)
        options["sync_batchnorm"] = gpus and not settings.freeze_batchnorm
    plugins += [] if by_torchrun() else [LightningEnvironment()]  # not of a cluster, whose job may train other runs
    return L.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        **options,
        plugins=plugins,
        precision=settings.precision,
        max_epochs=epochs,
        gradient_clip_val=settings.clip_norm,
        callbacks=callbacks,
        logger=logging.loggers or False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def rank_batches(parts: Parts, table: ImageTable, trainer: L.Trainer) -> Any:
    """Load this rank's share of the images of a table, as evaluation sees them."""
    rank, ranks = trainer.global_rank, trainer.world_size
    return evaluation_batches(parts.settings, table, parts.images.channels, rank=rank, ranks=ranks)


class StateFile(TorchCheckpointIO):
    """Writing of checkpoints that are either complete or absent; Lightning's own passes through $TMPDIR."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getbuffer())

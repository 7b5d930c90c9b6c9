"""What a run writes while it trains: metrics, instances and checkpoints."""

import csv
import io
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from tqdm import tqdm

from ccpml.files import write_arrays, write_text
from ccpml.interrupts import ending_signals
from ccpml.method import lipschitz_normalize
from ccpml.models.tensor_file import write_tensors
from ccpml.numbers import counted
from ccpml.progress import print_note
from ccpml.runs.directory import RECORD_KEY, RunDirectory
from ccpml.runs.geometry import GeometrySet, Snapshot, picture_classes, set_geometry
from ccpml.runs.processes import by_torchrun
from ccpml.training import CCPCallback, MetricLearning, embed

__all__ = [
    "Checkpoints",
    "Observer",
    "Recorder",
    "ReseedEachEpoch",
    "RestoreSigterm",
    "StopRequest",
    "Stopped",
    "names_of_others",
]

_THREADS_KEY = "ccpml_threads"
"""Key of the training state that holds the number of CPU threads, on which the last bits depend."""

_PASSED_ON: Final = 1.0
"""Seconds within which torchrun passes on to the ranks a signal that the terminal has sent them, too."""

_ENDED_KEY = "ccpml_ended"
"""Key of the training state that holds whether a caller's callback had ended the training."""

_CALLBACKS_KEY = "ccpml_callbacks"
"""Key of the training state that holds the names of a caller's callbacks, without which the result would differ."""

COLUMNS = (
    *("step", "seconds", "loss", "map_at_r", "precision_at_1", "r_precision", "instance", "strength", "separation"),
    *("train_covering_radius", "train_interclass_distance", "val_covering_radius", "val_interclass_distance"),
    *("proxy_covering_radius", "proxy_spread"),
)


class Stopped(BaseException):  # no error, and as KeyboardInterrupt, nothing that handles errors catches it
    """The run was stopped by the signal ``number``: by Ctrl-C, SIGTERM, or SIGHUP, the end of its terminal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class StopRequest:
    """Stop at a signal: in training after the current step, otherwise, and at a second one, at once.

    The signals are SIGINT (Ctrl-C), SIGTERM and, unless nohup ignores it, SIGHUP.
    """

    def __init__(self) -> None:
        self.signal = 0  # number of the one received
        self._signaled = 0.0  # when
        self.training = False  # whether steps are being made, the last of which would be lost

    def __enter__(self) -> "StopRequest":
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        if self._in_main_thread:
            self._before = {one: signal.signal(one, self._handle_signal) for one in ending_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_main_thread:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal and by_torchrun() and time.monotonic() - self._signaled < _PASSED_ON:
            return
        stop_now = self.signal or not self.training
        self.signal, self._signaled = number, time.monotonic()
        if number == signal.SIGHUP:  # the system and the shell may both send it
            signal.signal(number, signal.SIG_IGN)
        if stop_now:
            raise Stopped("stopped at once", number)
        tqdm.write("stopping after this step (Ctrl-C again to stop at once) ...", file=sys.stderr)


class RestoreSigterm(L.Callback):
    """Restore the SIGTERM handler that Lightning replaces: its own makes ranks communicate in the middle of a step."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the handler."""
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the handler."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


class ReseedEachEpoch(L.Callback):
    """Make torch's generator (dropout) a function of the seed, the step at the start of the epoch, and the rank."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reseed the generator."""
        torch.manual_seed((self.seed + 1) * 1_000_003 + trainer.global_step + (trainer.global_rank << 44))


class Recorder(L.Callback):
    """Write a row of metrics at each validation and a file for each instance; decide when to stop.

    The callback that projects, if any, runs before this one.
    """

    def __init__(
        self,
        run: RunDirectory,
        geometry: GeometrySet,
        patience: int,
        ccp: CCPCallback | None,
        max_steps: int,
        starts_closed: bool,
    ) -> None:
        self.run = run
        self.geometry = geometry
        self.patience = patience
        self.ccp = ccp
        self.max_steps = max_steps
        self.starts_closed = starts_closed  # the start may be the best of the run, so it is scored
        self.rows: list[dict[str, float]] = []
        self.best_score = -1.0  # MAP@R on validation
        self.best_step = 0
        self.stale = 0  # validations since then
        self.improved = False  # by the last validation
        self.step_losses = torch.empty(0)  # of the steps up to `last_step`, float32 (steps,)
        self.last_step = 0
        self.saved_step = 0  # up to which the state holds the history
        self._losses: list[torch.Tensor] = []
        self._instance = -1
        self._started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the first proxies; stop at once if the run had reached its end before it was killed."""
        assert isinstance(pl_module, MetricLearning)
        self._started = time.monotonic() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        self.write_rows(trainer)
        if self.ccp is not None and self.ccp.projections.started and self._instance < 0:
            self._record_instance(trainer, self.geometry.embed(pl_module, pl_module.device))
        if not self.rows and (self.starts_closed or self.max_steps == 0):
            self._record_start(trainer, pl_module)
        trainer.should_stop = self.stale >= self.patience or self.max_steps == 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        """Record the loss."""
        self._losses.append(outputs["loss"].detach())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, write the row, and decide whether to stop."""
        losses = torch.stack(self._losses)
        loss = losses.mean().item()
        self.step_losses = torch.cat([self.step_losses, losses.float().cpu()])
        self.last_step = trainer.global_step
        self._losses.clear()
        names = ("map_at_r", "precision_at_1", "r_precision")
        scores = {name: float(trainer.callback_metrics[name]) for name in names}
        self._record(trainer, pl_module, {"loss": loss, **scores})

    def _record_start(self, trainer: L.Trainer, module: MetricLearning) -> None:
        """Validate before the first step, as Lightning does after others."""
        batches: Any = trainer.val_dataloaders
        with trainer.precision_plugin.val_step_context():
            embeddings, labels = embed(module, batches, module.device, forward=module.embed_again)
        self._record(trainer, module, module.score_validation(embeddings, labels))

    def _record(self, trainer: L.Trainer, module: L.LightningModule, scores: dict[str, float]) -> None:
        """Add a row of scores and of what else is measured; decide whether to stop."""
        assert isinstance(module, MetricLearning)
        row: dict[str, float] = {"step": trainer.global_step, "seconds": round(time.monotonic() - self._started, 1)}
        row |= scores
        if self.ccp is not None:
            row |= {"instance": self.ccp.projections.instance, "strength": self.ccp.projections.strength_now}
            if self._instance < 0 and self.ccp.projections.separation is not None:  # measured in this validation
                row["separation"] = self.ccp.projections.separation
        row |= self._geometry(trainer, module)  # on all ranks, as each may hold a shard of the proxies
        self.rows.append(row)
        self.improved = row["map_at_r"] > self.best_score
        if self.improved:
            self.best_score, self.best_step, self.stale = row["map_at_r"], int(row["step"]), 0
        else:
            self.stale += 1
            trainer.should_stop = self.stale >= self.patience
        self.write_rows(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        names = ("rows", "best_score", "best_step", "stale", "_instance", "step_losses", "last_step")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        vars(self).update(state_dict)
        self.saved_step = int(self.rows[-1]["step"]) if self.rows else 0

    def _geometry(self, trainer: L.Trainer, module: MetricLearning) -> dict[str, float]:
        """Measure covers and distances; write the instance if it is new."""
        snapshot, row = self.geometry.embed(module, module.device), dict[str, float]()
        if self.ccp is not None and self.ccp.projections.started:
            criterion = self.ccp.projections.criterion
            row |= self.geometry.measure_proxies(snapshot, criterion.gather_classes(criterion.proxies.detach()))
            if self.ccp.projections.instance > self._instance:
                self._record_instance(trainer, snapshot)
        row |= self.geometry.measure(snapshot)
        assert module.validation is not None
        embeddings, labels = module.validation
        return row | set_geometry(embeddings.cpu(), labels.cpu(), "val")

    def write_rows(self, trainer: L.Trainer) -> None:
        """Write ``metrics.csv``."""
        if not trainer.is_global_zero:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.run.metrics_file, text.getvalue())

    def _record_instance(self, trainer: L.Trainer, snapshot: Snapshot) -> None:
        """Write the samples, converged proxies and next proxies of a projection for the pictures."""
        assert self.ccp is not None
        projections, converged = self.ccp.projections, self.ccp.converged
        gather = projections.criterion.gather_classes
        shown = picture_classes(snapshot.labels)
        samples, names = torch.isin(snapshot.labels, shown), np.array(self.geometry.table.class_names)
        arrays: dict[str, Any] = {
            "record": self.run.record().digest,
            "step": trainer.global_step,
            "classes": shown.numpy(),
            "class_names": names[np.searchsorted(self.geometry.classes, shown.numpy())],
            "samples": snapshot.embeddings[samples].numpy(),
            "labels": snapshot.labels[samples].numpy(),
            "next": lipschitz_normalize(gather(projections.criterion.proxies.detach()).cpu()[shown]).numpy(),
        }
        if converged is not None:
            arrays["converged"] = lipschitz_normalize(gather(converged).cpu()[shown]).numpy()
        self._instance = projections.instance
        if trainer.is_global_zero:
            write_arrays(self.run.instances / f"{self._instance:03d}.npz", **arrays)


class Observer(L.Callback):
    """A callback that changes nothing in the training it watches, so that the result is the same without it."""


def names_of_others(callbacks: Sequence[L.Callback]) -> list[str]:
    """Return the names of callbacks that may change the training, in alphabetical order."""
    return sorted(type(one).__qualname__ for one in callbacks if not isinstance(one, Observer))


class Checkpoints(Checkpoint):  # so that Lightning runs it after those that stop a training
    """Write the best weights and the state to resume from after each validation. The recorder runs before this one.

    ``further`` are the callbacks of a caller. They may average weights, and put others back before the end of a
    validation, so the weights are copied when it begins.
    """

    def __init__(
        self, run: RunDirectory, recorder: Recorder, stop_request: StopRequest, further: Sequence[L.Callback] = ()
    ) -> None:
        self.run = run
        self.recorder = recorder
        self.stop_request = stop_request
        self.further = names_of_others(further)
        self._scored: dict[str, torch.Tensor] | None = None
        self._ended = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the digest of the run's record, as a callback may save the state from here on."""
        self.record = self.run.record().digest

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if a callback had ended the training."""
        trainer.should_stop |= self._ended
        self._save_best(trainer, pl_module)  # the start, if it was scored
        self.stop_request.training = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once from now on."""
        self.stop_request.training = False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Stop after the step if requested."""
        if self.stop_request.signal:
            raise self._stopped(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the digest of the record, and mark the epoch as completed, or Lightning would resume within it."""
        checkpoint[RECORD_KEY] = self.record
        checkpoint[_THREADS_KEY] = torch.get_num_threads()
        ended = trainer.should_stop and bool(self.further)  # by patience, it is decided again
        checkpoint |= {_CALLBACKS_KEY: self.further, _ENDED_KEY: ended}
        for progress in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            progress["completed"] = progress["processed"]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what can make results differ: other callbacks, of which those with a state must be there, or threads.

        Earlier states have neither.
        """
        self._ended = checkpoint.get(_ENDED_KEY, False)
        if missing := sorted((Counter(checkpoint.get(_CALLBACKS_KEY, ())) - Counter(self.further)).elements()):
            names, way_out = ", ".join(missing), "pass them to ccpml.resume(path, callbacks=[...])"
            with_state = {key.partition("{")[0] for key in checkpoint["callbacks"]}  # arguments may follow the name
            if with_state & {*missing}:
                raise ValueError(f"{self.run.path}: expected the callbacks it was trained with ({names}); {way_out}")
            if trainer.is_global_zero:
                text = f"trained with the callbacks {names} until now, and now without, so the result may differ"
                print_note(f"{self.run.path}: {text}; {way_out}")
        now = torch.get_num_threads()
        before = checkpoint.get(_THREADS_KEY, now)
        if before != now and trainer.is_global_zero and trainer.strategy.root_device.type == "cpu":
            threads = f"trained with {counted(before, 'thread')} until now, and now with {now}"
            given = self.run.settings().threads != "auto"
            way_out = f"threads: {before} in {self.run.settings_file}" if given else f"OMP_NUM_THREADS={before}"
            differ = f"scores may differ in the last digits; {way_out} gives those of an unbroken run"
            print_note(f"{self.run.path}: {threads}: {differ}")

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the weights that are about to be scored, on all ranks, as it is collective where proxies are sharded."""
        if self.further:
            self._scored = {name: weight.detach().clone() for name, weight in pl_module.state_dict().items()}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write both, the state last: a run killed in between resumes from the previous state.

        Whether to stop is as on the main process, which alone may have observers.
        """
        trainer.should_stop = trainer.strategy.broadcast(trainer.should_stop)
        self._save_best(trainer, pl_module)
        trainer.save_checkpoint(self.run.state_file)  # collective; only the main process writes, by StateFile
        self.recorder.saved_step = trainer.global_step
        if self.stop_request.signal:
            raise self._stopped(trainer)

    def _save_best(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.recorder.improved:
            # Collective where proxies are sharded.
            weights = module.state_dict() if self._scored is None else self._scored
            if trainer.is_global_zero:
                write_tensors(self.run.weights_file, weights, {"record": self.record})

    def _stopped(self, trainer: L.Trainer) -> Stopped:
        where = f"stopped after step {trainer.global_step:,}, saved at step {self.recorder.saved_step:,}"
        return Stopped(where, self.stop_request.signal)

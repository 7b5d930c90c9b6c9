"""The progress of a training on standard error."""

from typing import Any

import lightning as L
from tqdm import tqdm

from ccpml.method import MIN_SEPARATION
from ccpml.progress import progress_bar
from ccpml.runs.callbacks import Recorder

__all__ = ["Progress"]


class Progress(L.Callback):
    """Show one line: steps, rate, time left, loss, score, instance and covering radius."""

    def __init__(self, recorder: Recorder, total: int) -> None:
        self.recorder = recorder
        self.total = total
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the progress bar."""
        if trainer.is_global_zero:
            self._bar = progress_bar(self.total, "step", initial=trainer.global_step)
            self.on_validation_end()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Count the step."""
        if self._bar is not None:
            self._bar.update()

    def teardown(self, *_: Any, stage: str = "") -> None:
        """Close the progress bar; a message after it starts on its own line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_exception(self, *_: Any) -> None:
        """Close the progress bar."""
        self.teardown()

    def on_validation_end(self, *_: Any) -> None:
        """Show the new numbers."""
        if self._bar is None or not self.recorder.rows:
            return
        row = self.recorder.rows[-1]
        parts = [f"loss {row['loss']:.3f}"] if "loss" in row else []
        parts += [f"MAP@R {row['map_at_r']:.3f} (best {self.recorder.best_score:.3f})"]
        if "separation" in row:
            parts.append(f"separation {row['separation']:.2f} of {MIN_SEPARATION}")
        if "instance" in row:
            parts.append("no proxies yet" if row["instance"] < 0 else f"instance {row['instance']:.0f}")
        parts.append(f"radius {row.get('proxy_covering_radius', row['train_covering_radius']):.3f}")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)

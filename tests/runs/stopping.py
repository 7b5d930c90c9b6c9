"""An interruption of a training by an error."""

import lightning as L


class StopAt(L.Callback):
    """Raise an error before a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        """Raise it."""
        if trainer.global_step == self.step:
            raise RuntimeError("stopped by the test")

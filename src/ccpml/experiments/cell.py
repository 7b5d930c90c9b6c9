"""Train one cell of a benchmark in a process of its own: ``python -m ccpml.experiments.cell <settings> <run>``."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from ccpml.experiments.config import Experiment
from ccpml.experiments.rundir import RunDirectory


def main(settings: Path, path: Path) -> int:
    """Train, or go on with, a run; return 0, 1 for a failure, or 128 and the number of the signal that stopped it."""
    from ccpml.experiments.callbacks import Stopped
    from ccpml.experiments.train import resume, train

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a benchmark in a shell's background would ignore it
    end_with(os.getppid())
    try:
        if RunDirectory(path).experiment_file.is_file():
            resume(path, progress=False)
        else:
            train(Experiment(**json.loads(settings.read_text(encoding="utf-8"))), path, progress=False)
    except (Stopped, KeyboardInterrupt) as stopped:
        return 128 + getattr(stopped, "number", signal.SIGINT)
    except Exception as error:
        print(f"{' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def end_with(parent: int) -> None:
    """Stop as by SIGTERM when the parent is gone, be it by ``kill -9``: two processes must never train one run."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

"""Train one cell of a benchmark in its own process: ``python -m ccpml.benchmark.cell_process <settings> <run>``."""

import json
import os
import signal
import sys
from pathlib import Path

from ccpml.runs.directory import RunDirectory
from ccpml.runs.processes import exit_with_parent
from ccpml.runs.settings import ResolvedSettings


def main(settings: Path, path: Path) -> int:
    """Train or resume a run; return 0, 1 after a failure, or 128 + the number of the signal that stopped it."""
    from ccpml.runs.callbacks import Stopped
    from ccpml.runs.train import resume, train

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit SIG_IGN
    exit_with_parent(os.getppid())
    try:
        if RunDirectory(path).settings_file.is_file():
            resume(path, progress=False)
        else:
            train(ResolvedSettings.from_dict(json.loads(settings.read_text(encoding="utf-8"))), path, progress=False)
    except (Stopped, KeyboardInterrupt) as stopped:
        return 128 + getattr(stopped, "number", signal.SIGINT)
    except Exception as error:
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

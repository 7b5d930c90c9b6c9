"""One of the other ranks of a training: ``python -m ccpml.runs.rank <run> [no-test] [no-features]``."""

import os
import signal
import sys
from pathlib import Path

from ccpml.interrupts import exit_with_parent
from ccpml.system_errors import REFUSED, is_refused, message_of


def main(path: Path, test: bool, features: bool) -> int:
    """Train with the main process, which writes and decides when to stop; return 0, or 1 or `REFUSED` for a failure.

    The main process has blocked SIGINT and SIGHUP for this one: it handles them, and ends this process.
    """
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))  # Lightning's handler waits for other ranks
    exit_with_parent()
    from ccpml.runs.processes import launch_rank, lost_contact
    from ccpml.runs.train import resume

    try:
        resume(path, progress=False, test=test, features=features)
    except Exception as error:
        if lost_contact(error):  # the main process has ended, or reports why this one has
            return 1
        message = " ".join(message_of(error).split()) or type(error).__name__
        print(f"ccpml: rank {launch_rank()}: {message}", file=sys.stderr)
        return REFUSED if is_refused(error) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *(part not in sys.argv[2:] for part in ("no-test", "no-features"))))

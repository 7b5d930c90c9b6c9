"""Train one cell of a benchmark in its own process: ``python -m ccpml.benchmark.cell_process <settings> <run>``."""

import json
import sys
from pathlib import Path

from ccpml.interrupts import exit_code, exit_with_parent, raise_at_signals
from ccpml.system_errors import REFUSED, is_refused, message_of, shortage_in_words


def main(settings: Path, path: Path) -> int:
    """Train or resume a run; return 0, 1 or `REFUSED` after a failure, or 128 + the number of a signal."""
    try:
        raise_at_signals()  # some of which the benchmark has blocked for this process
        exit_with_parent()
        return _train(settings, path)
    except KeyboardInterrupt as interrupt:
        return exit_code(interrupt)
    except Exception as error:
        reason = shortage_in_words(error) or message_of(error)
        print(" ".join(reason.split()) or type(error).__name__, file=sys.stderr)
        return REFUSED if is_refused(error) else 1


def _train(settings: Path, path: Path) -> int:
    from ccpml.allocator import keep_freed_memory
    from ccpml.runs.callbacks import Stopped
    from ccpml.runs.directory import RunDirectory
    from ccpml.runs.settings import ResolvedSettings
    from ccpml.runs.train import resume, train

    keep_freed_memory()
    try:
        if RunDirectory(path).settings_file.is_file():
            resume(path, progress=False, features=False)
        else:
            given = json.loads(settings.read_text(encoding="utf-8"))
            train(
                ResolvedSettings.from_dict(given["settings"]),
                path,
                progress=False,
                chosen=given["chosen"],
                features=False,
                data_digest=given["data_digest"],
            )
    except Stopped as stopped:
        return exit_code(stopped)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

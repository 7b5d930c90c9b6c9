"""Kill a process that changes an index, and check what it has left."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ccpml.serving import Index
from tests.serving.changes import EMBEDDER, check_log, check_search, state_of

ROOT = Path(__file__).parents[2]


def kill_and_check(folder: Path, chance: random.Random, seed: int, seconds: float) -> str:
    """Start changes of an index, kill the process at a random moment, and check the index; return what was found."""
    with Index.open(folder) as index:
        before = state_of(index)
    log = folder.with_name(f"{folder.name}.log")
    command = [sys.executable, "-m", "tests.serving.changes", str(folder), str(log), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    lines = log.read_text().splitlines()
    with Index.open(folder, EMBEDDER) as index:
        verified = index.verify()
        assert not verified.problems, verified.problems
        found = state_of(index)
        check_log(log, found, before)
        check_search(index, found)
        index.remove([])  # as the next writer, removes what the killed one has left
        assert index.verify() == (len(found), [], verified.leftovers if _has_tail(verified.leftovers) else [], set())
    during = lines[-1].split()[1] if lines and lines[-1].startswith("begin") else "between changes"
    acknowledged = sum(line.startswith("done") for line in lines)
    return f"{acknowledged} changes acknowledged, killed during {during}, {len(found)} items, {verified.leftovers}"


def _has_tail(leftovers: list[str]) -> bool:
    return any("interrupted writer" in sentence for sentence in leftovers)

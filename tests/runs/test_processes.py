"""Threads of a process group end before the interpreter does."""

import subprocess
import sys

import pytest

from ccpml.runs import processes

# atexit calls the last registered function first, so threads are counted after `process_group_cleanup` is done.
FAILING = """
import atexit
import sys
from pathlib import Path

from torch import distributed

from ccpml.runs.processes import process_group_cleanup


def gloo_threads():
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


def fail():
    held = [distributed.group.WORLD]
    held.append(held)  # a reference cycle, as a trainer has
    raise OSError(f"{gloo_threads()} threads")


atexit.register(lambda: print(gloo_threads()))
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
distributed.barrier()  # a thread of the group gets its name once it has run
try:
    with process_group_cleanup():
        fail()
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in Linux's /proc")
def test_no_thread_of_the_group_is_left_after_a_failure(tmp_path):
    command = [sys.executable, "-c", FAILING, str(tmp_path / "store")]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    before, after = finished.stdout.splitlines()
    assert int(before.split()[0]) > 0
    assert after == "0"


def test_readers_that_ended_at_a_signal_of_torchrun_are_told_from_those_that_were_killed(monkeypatch):
    ended = RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert not processes.readers_were_told_to_end(ended)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert processes.readers_were_told_to_end(ended)
    assert not processes.readers_were_told_to_end(killed)

"""A process group leaves no thread behind that could meet an interpreter that is ending."""

import subprocess
import sys

import pytest

# atexit calls what was registered last first: the threads are counted after all that `process_group_ended` does.
FAILING = """
import atexit
import sys
from pathlib import Path

from torch import distributed

from ccpml.runs.processes import process_group_ended


def gloo_threads():
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


def fail():
    held = [distributed.group.WORLD]
    held.append(held)  # as a trainer holds itself
    raise OSError(f"{gloo_threads()} threads")


atexit.register(lambda: print(gloo_threads()))
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
distributed.barrier()  # a thread of the group has run, so it bears its name; one that has only been made does not
try:
    with process_group_ended():
        fail()
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in Linux's /proc")
def test_a_failure_leaves_no_thread_of_the_group(tmp_path):
    command = [sys.executable, "-c", FAILING, str(tmp_path / "store")]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    before, after = finished.stdout.splitlines()
    assert int(before.split()[0]) > 0
    assert after == "0"

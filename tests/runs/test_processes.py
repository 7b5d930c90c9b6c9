"""Threads of a process group end before the interpreter does; what ended a rank is known by its exit code."""

import errno
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from ccpml.runs import processes, rank
from ccpml.system_errors import REFUSED, RefusedError, WriteError, is_refused, message_of

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


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (OSError(errno.EMFILE, "Too many open files"), REFUSED, RefusedError),
        (WriteError(errno.ENOSPC, "No space left on device", "last.ckpt"), REFUSED, RefusedError),
        (ValueError("no images"), 1, RuntimeError),
    ],
)
def test_what_the_system_refuses_another_rank_is_told_from_its_other_errors(monkeypatch, capsys, error, code, kind):
    """A search of settings or a benchmark then ends, and spends no trial and no cell."""
    monkeypatch.setattr("ccpml.runs.rank.exit_with_parent", lambda: None)
    monkeypatch.setattr("ccpml.runs.train.resume", mock.Mock(side_effect=error))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    assert rank.main(Path("run"), test=True, features=True) == code
    said = capsys.readouterr().err
    assert said == f"ccpml: rank 0: {message_of(error)}\n"
    assert "Errno" not in said
    with pytest.raises(
        RuntimeError, match=rf"rank 1 failed \(exit code {code}\); its error, if any, is printed"
    ) as caught:
        processes._check_exit_codes([mock.Mock(poll=lambda: code)])
    assert type(caught.value) is kind
    assert is_refused(caught.value) == (kind is RefusedError)

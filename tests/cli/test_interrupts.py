"""Ctrl-C at any moment from the first instruction on: exit code 130, no traceback, no process left."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ccpml.interrupts import PARENT, block_signals

# Sends SIGINT to itself at the n-th import, then runs the command line.
PROGRAM = """
import os
import signal
import sys

left = int(sys.argv.pop(1))


def interrupt(event, arguments):
    global left
    if event == "import":
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        left -= 1


sys.addaudithook(interrupt)
{start}
"""
COMMAND_LINE = "from ccpml.cli import main; sys.exit(main())"
CELL = "from ccpml.benchmark.cell_process import main; sys.exit(main(sys.argv[1], sys.argv[2]))"


def interrupted(start: str, moment: int, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PROGRAM.replace("{start}", start), str(moment), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


# Modules 0 and 1 are ccpml and ccpml.cli, which imports nothing before it is ready.
@pytest.mark.parametrize("moment", [2, 3, 5, 9, 20, 45, 90, 200, 500, 1800])
def test_an_interrupted_import_is_exit_code_130_without_a_traceback(moment: int, folder: Path, tmp_path: Path) -> None:
    result = interrupted(COMMAND_LINE, moment, "train", f"folder:{folder}", "--max-steps=1", "--run", tmp_path / "run")
    assert "Traceback" not in result.stderr
    assert "Error" not in result.stderr
    assert result.returncode == 130
    assert not list(tmp_path.iterdir())


def test_an_import_that_is_interrupted_after_the_run_has_begun_says_how_to_resume(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    program = f"""
import os, signal, sys
def interrupt(event, arguments):
    if event == "import" and arguments[0].startswith("tensorboard."):
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
{COMMAND_LINE}
"""
    command = [sys.executable, "-c", program, "train", f"folder:{folder}", "--max-steps=1", "--run", run]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 130
    assert result.stderr.endswith(f"ccpml: interrupted; resume with: ccpml train --resume {run}\n")


@pytest.mark.parametrize("moment", [0, 20, 600])
def test_a_cell_of_a_benchmark_that_is_interrupted_while_it_imports_ends_quietly(moment: int) -> None:
    with block_signals():  # as the benchmark starts it
        result = interrupted(CELL, moment, "settings", "run")
    assert "Traceback" not in result.stderr
    assert result.returncode == 130


def test_an_interrupt_in_a_destructor_ends_the_process() -> None:
    program = """
import os, signal, time
from ccpml.interrupts import raise_at_signals
class Destructor:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
raise_at_signals()
Destructor()
time.sleep(5)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert (result.returncode, result.stderr) == (130, "ccpml: interrupted\n")


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "ccpml: interrupted\n"),
        (signal.SIGTERM, 143, "ccpml: interrupted by SIGTERM\n"),
        (signal.SIGHUP, 129, "ccpml: interrupted by SIGHUP\n"),
    ],
)
def test_each_signal_that_ends_a_command_is_named(number: int, code: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").touch()
    program = f"""
import os, sys
from ccpml.cli import main
import ccpml.cli.report
ccpml.cli.report.announce_libraries = lambda: [os.kill(os.getpid(), {number}) for _ in range(2)]
sys.exit(main())
"""
    command = [sys.executable, "-c", program, "report", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (result.returncode, result.stderr) == (code, message)


def test_the_end_of_the_terminal_is_ignored_under_nohup() -> None:
    program = """
import os, signal
from ccpml.interrupts import ending_signals, raise_at_signals
raise_at_signals()
os.kill(os.getpid(), signal.SIGHUP)
print(*(number.name for number in ending_signals()))
"""
    command = ["nohup", sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout == "SIGINT SIGTERM\n"


def test_an_interrupt_is_of_the_command_in_which_it_came() -> None:
    program = """
import os, signal
from ccpml.interrupts import interruption, raise_at_signals
raise_at_signals()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print(interruption())
raise_at_signals()  # the next command in this process
print(interruption())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout == "interrupted\nNone\n"


@pytest.mark.parametrize("module", ["ccpml.benchmark.cell_process", "ccpml.runs.rank"])
def test_a_process_whose_parent_has_ended_before_it_could_look_ends(module: str, tmp_path: Path) -> None:
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), PARENT: "1"}  # not the parent of this one
    command = [sys.executable, "-X", "importtime", "-m", module, str(tmp_path / "settings"), str(tmp_path / "run")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode in {-signal.SIGTERM, 128 + signal.SIGTERM}
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "ccpml.interrupts" in imported
    assert "torch" not in imported


def test_a_stopped_process_ends_with_its_parent() -> None:
    child = "import time; from ccpml.interrupts import exit_with_parent; exit_with_parent(); print(flush=True)"
    parent = f"""
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "{child}; time.sleep(999)"], stdout=subprocess.PIPE)
child.stdout.readline()
child.send_signal(signal.SIGSTOP)
os.waitid(os.P_PID, child.pid, os.WSTOPPED)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # It returns when the child has closed its end of the pipe, too.
    ended = subprocess.run([sys.executable, "-c", parent], stderr=subprocess.PIPE, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, b"")


def test_a_signal_that_another_thread_takes_waits_for_the_end_of_the_block():
    taken, order = [], []
    before = signal.signal(signal.SIGINT, lambda number, _: taken.append((number, list(order))))
    try:
        with block_signals():
            thread = threading.Thread(target=signal.pthread_kill, args=(own_thread(), signal.SIGINT))
            thread.start()
            thread.join()
            order.append("block")
            assert taken == []
        end = time.monotonic() + 10
        while not taken and time.monotonic() < end:  # Python runs a handler between two of its instructions
            time.sleep(0.01)
        assert taken == [(signal.SIGINT, ["block"])]
        signal.raise_signal(signal.SIGINT)
        assert len(taken) == 2
    finally:
        signal.signal(signal.SIGINT, before)


def own_thread():
    """A thread that does not block signals, as the kernel of a notebook has; the system gives it the signal."""
    started = threading.Event()

    def wait():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        started.set()
        time.sleep(0.5)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    started.wait()
    return thread.ident

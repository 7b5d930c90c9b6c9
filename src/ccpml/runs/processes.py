"""Start and end the processes of a training, one rank each.

The main process starts the others on its machine, unless torchrun has started them all, as on several machines.
"""

import atexit
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from ccpml.interrupts import PARENT, block_signals, ending_signals
from ccpml.progress import announce
from ccpml.system_errors import REFUSED, RefusedError

__all__ = [
    "by_torchrun",
    "first_rank",
    "is_main_process",
    "launch_rank",
    "local_and_node_counts",
    "lost_contact",
    "main_process_handles_signals",
    "other_ranks",
    "process_group_cleanup",
    "readers_were_told_to_end",
    "report_ready",
]

RANK, READY = "CCPML_RANK", "CCPML_READY"
"""Environment variables of a process that the main process started: its rank, and the pipe for `report_ready`."""

_PATIENCE = 2.0
"""Seconds that a process has to handle a signal."""

_END = b"\0"
"""What ends the watch over signals, none of which has this number."""


def by_torchrun() -> bool:
    """Whether torchrun has started the ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def first_rank() -> Iterator[None]:
    """Be the first rank to Lightning within the block, whatever a launcher of other runs has set for this process."""
    of_lightning: Any = rank_zero_only
    before, of_lightning.rank = of_lightning.rank, 0
    try:
        yield
    finally:
        of_lightning.rank = before


@contextmanager
def main_process_handles_signals() -> Iterator[None]:
    """Ignore signals in another rank that torchrun has started: it ends with the main process, which saves."""
    handled = by_torchrun() and threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (ending_signals() if handled else ())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch_rank() -> int:
    """Return the rank as which this process was started; 0 for a process alone."""
    return int(os.environ["RANK"] if by_torchrun() else os.environ.get(RANK, "0"))


def is_main_process() -> bool:
    """Whether this process is the one that writes files."""
    return launch_rank() == 0


def local_and_node_counts(ranks: int) -> tuple[int, int]:
    """Return the number of processes on this machine and of machines; torchrun's own numbers take precedence."""
    if not by_torchrun():
        return ranks, 1
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


@contextmanager
def other_ranks(run: Path, ranks: int, threads: int, test: bool = True, features: bool = True) -> Iterator[None]:
    """Run the other ranks of a training while the block, in the main process, trains; end them afterwards.

    Args:
        run: Run directory with the settings.
        ranks: Number of ranks, including the main process.
        threads: CPU threads per rank.
        test: Whether they take part in scoring the test classes.
        features: Whether they take part in scoring untouched features.

    Raises:
        RuntimeError: If another rank failed; it prints its error to standard error.
    """
    if ranks == 1 or by_torchrun():
        with process_group_cleanup():
            yield
        return
    with _environment(ranks, threads):
        processes, ready = _start(run, ranks, {"test": test, "features": features})
        try:
            _wait_until_ready(processes, ready)
            with _exit_if_a_rank_dies(processes), _end_at_second_signal(processes), process_group_cleanup():
                yield
            _wait(processes, 60)
            _check_exit_codes(processes)
        except Exception as error:
            if lost_contact(error):  # another rank is the cause, and is about to end
                _wait(processes, 5)
                _check_exit_codes(processes)
            raise
        finally:
            os.close(ready)
            _end(processes)


def report_ready() -> None:
    """Report to the main process that this rank is about to join the process group."""
    if READY in os.environ:
        number = int(os.environ.pop(READY))
        os.write(number, b".")
        os.close(number)


@contextmanager
def process_group_cleanup() -> Iterator[None]:
    """Destroy the process group after the block: threads that outlive the interpreter would abort it."""
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
            atexit.register(gc.collect)  # threads end with the last reference, which a traceback may hold


def readers_were_told_to_end(error: BaseException) -> bool:
    """Whether the processes that read images have ended themselves, at a SIGTERM that torchrun passes on to all."""
    return by_torchrun() and str(error).startswith("DataLoader worker") and "exited unexpectedly" in str(error)


def lost_contact(error: BaseException) -> bool:
    """Whether an error means that another rank has ended, rather than being the cause itself."""
    words = ("gloo", "NCCL", "Connection")
    return isinstance(error, distributed.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in words)
    )


@contextmanager
def _environment(ranks: int, threads: int) -> Iterator[None]:
    """Set the variables by which Lightning and torch connect the ranks, for the duration of the block."""
    variables = {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0", "LOCAL_RANK": "0"},
        **{"WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": str(threads)},
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(run: Path, ranks: int, takes_part: Mapping[str, bool]) -> "tuple[list[subprocess.Popen[bytes]], int]":
    """Start the other ranks; return them, and the end of a pipe from which each sends a byte once it is ready."""
    left_out = (f"no-{part}" for part, taken in takes_part.items() if not taken)
    command = [sys.executable, "-m", "ccpml.runs.rank", str(run), *left_out]
    ready, theirs = os.pipe()
    common = {**os.environ, PARENT: str(os.getpid()), READY: str(theirs)}
    own = ({RANK: str(rank), "LOCAL_RANK": str(rank)} for rank in range(1, ranks))
    null = subprocess.DEVNULL
    try:
        with block_signals():  # for good: the main process handles Ctrl-C and ends the others
            return [subprocess.Popen(command, env=common | each, stdin=null, pass_fds=(theirs,)) for each in own], ready
    finally:
        os.close(theirs)


def _wait_until_ready(processes: "list[subprocess.Popen[bytes]]", ready: int) -> None:
    """Wait until all ranks are about to join the process group, where waiting could not be interrupted.

    Raises:
        RuntimeError: If one of them ends before.
    """
    announce(f"starting {len(processes) + 1} ranks")
    waiting = len(processes)
    while waiting:
        if select.select([ready], [], [], 0.1)[0]:
            arrived = len(os.read(ready, waiting))
            if not arrived:  # all have ended
                _wait(processes, 5)
                _check_exit_codes(processes)
                raise RuntimeError("training stopped: the other ranks ended before training started")
            waiting -= arrived
        _check_exit_codes(processes)


@contextmanager
def _exit_if_a_rank_dies(processes: "list[subprocess.Popen[bytes]]") -> Iterator[None]:
    """Exit with code 1 if another rank fails before it has joined the process group.

    torch waits half an hour for it there, in C++, where no signal is handled. No file is being written then.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2) and not distributed.is_initialized():
            try:
                _check_exit_codes(processes)
            except RuntimeError as error:
                if ended.wait(2) or distributed.is_initialized():  # the main process may report it itself
                    return
                print(f"ccpml: error: {error}", file=sys.stderr, flush=True)
                for process in processes:
                    process.kill()
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _end_at_second_signal(processes: "list[subprocess.Popen[bytes]]") -> Iterator[None]:
    """Kill the other ranks at a second signal that this process does not handle.

    It waits for them in C++, where no handler runs, and for half an hour if one of them hangs or is stopped. Once they
    have ended, it continues.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone has signals
        yield
        return
    noted, note = os.pipe()  # the system's handler writes the number of each signal, wherever the process is
    os.set_blocking(note, False)
    before, ended = signal.set_wakeup_fd(note, warn_on_full_buffer=False), threading.Event()

    def watch() -> None:
        count = 0
        while (number := os.read(noted, 1)) != _END:
            if number[0] not in ending_signals():
                continue
            count += 1
            if ended.wait(_PATIENCE):
                continue
            if count == 1:
                announce("waiting for the other ranks (Ctrl-C again to stop at once)")
                continue
            for process in processes:
                process.kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.write(note, _END)  # closing it is no end: processes that read images have it too
        thread.join()
        os.close(note)
        os.close(noted)


def _check_exit_codes(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Raise RuntimeError if a process has failed; it is RefusedError if the system has refused it something."""
    codes = {rank: process.poll() for rank, process in enumerate(processes, 1)}
    failed = ", ".join(f"rank {rank} {_ended(code)}" for rank, code in codes.items() if code)
    if failed:
        kind = RefusedError if REFUSED in codes.values() else RuntimeError
        raise kind(f"training stopped: {failed}; its error, if any, is printed above")


def _ended(code: int) -> str:
    return f"failed (exit code {code})" if code > 0 else f"was killed by signal {-code}"


def _wait(processes: "list[subprocess.Popen[bytes]]", seconds: float) -> None:
    """Wait until all processes have ended, at most for some seconds."""
    end = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.05)


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End the processes that still run; they have nothing to save."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    _wait(processes, 2)
    for process in processes:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

"""The processes of a training on several devices, a rank each: the first starts the others on its machine.

Where torchrun has started them all, as on several machines, there is nothing to start.
"""

import atexit
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

__all__ = [
    "exit_with_parent",
    "is_main_process",
    "launch_rank",
    "local_and_node_counts",
    "lost_contact",
    "other_ranks",
    "process_group_ended",
]

RANK = "CCPML_RANK"
"""Tells the processes that the first one starts which they are."""


def launch_rank() -> int:
    """Give this process's number among those that train the same run; 0 where it is alone."""
    return int(os.environ["RANK"] if _by_torchrun() else os.environ.get(RANK, "0"))


def is_main_process() -> bool:
    """Say whether this process is the one that writes."""
    return launch_rank() == 0


def local_and_node_counts(ranks: int) -> tuple[int, int]:
    """Give the processes on this machine, and the machines: what was asked for, or what torchrun has started."""
    if not _by_torchrun():
        return ranks, 1
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return here, int(os.environ["WORLD_SIZE"]) // here


@contextmanager
def other_ranks(run: Path, ranks: int, threads: int) -> Iterator[None]:
    """Have the other ranks train a run too while this process, the first, does; afterwards there are none.

    Args:
        run: The run directory; it has its settings.
        ranks: How many there are.
        threads: CPU threads of each.

    Raises:
        RuntimeError: If one of them failed; it has said why on standard error.
    """
    if ranks == 1 or _by_torchrun():
        with process_group_ended():
            yield
        return
    with _environment(ranks, threads):
        command = [sys.executable, "-m", "ccpml.runs.rank", str(run)]
        processes = [
            subprocess.Popen(
                command, env={**os.environ, RANK: str(rank), "LOCAL_RANK": str(rank)}, stdin=subprocess.DEVNULL
            )
            for rank in range(1, ranks)
        ]
        try:
            with process_group_ended():
                yield
            _wait(processes, 60)
            _require_success(processes)
        except Exception as error:
            if lost_contact(error):  # it is the other that failed, and about to end
                _wait(processes, 5)
                _require_success(processes)
            raise
        finally:
            _end(processes)


@contextmanager
def _environment(ranks: int, threads: int) -> Iterator[None]:
    """Set what Lightning and torch must know to find each other, for as long as it lasts."""
    ours = {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0", "LOCAL_RANK": "0"},
        **{"WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": str(threads)},
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def lost_contact(error: BaseException) -> bool:
    """Say whether an error is that another rank has gone, rather than the cause."""
    words = ("gloo", "NCCL", "Connection")
    return isinstance(error, distributed.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in words)
    )


@contextmanager
def process_group_ended() -> Iterator[None]:
    """Take the process group apart afterwards: its threads must not outlive the interpreter, or that aborts."""
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
            atexit.register(gc.collect)  # its threads end with its last reference, and a failure's traceback has some


def exit_with_parent(parent: int) -> None:
    """Stop this process, as by SIGTERM, once its parent is gone: two processes must never train one run."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _require_success(processes: "list[subprocess.Popen[bytes]]") -> None:
    """Raise RuntimeError if one has failed."""
    codes = {rank: process.poll() for rank, process in enumerate(processes, 1)}
    failed = ", ".join(f"{rank} (exit code {code})" for rank, code in codes.items() if code)
    if failed:
        raise RuntimeError(f"the training cannot go on without rank {failed}; what it said stands above, if anything")


def _wait(processes: "list[subprocess.Popen[bytes]]", seconds: float) -> None:
    """Wait until all have ended, but not for long."""
    end = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.05)


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End those that have not ended; there is nothing that they would have to save."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    _wait(processes, 2)
    for process in processes:
        process.kill()
        process.wait()


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

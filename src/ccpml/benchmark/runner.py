"""Train the cells of a benchmark, each in its own process, several at once. Finished cells are skipped."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from filelock import FileLock, Timeout

from ccpml.benchmark.prepare import check_run
from ccpml.benchmark.protocol import Benchmark, Cell
from ccpml.files import NewerVersionError, WriteError, write_json, write_text
from ccpml.interrupts import PARENT, Interrupted, block_signals, ending_signals, raise_interrupted
from ccpml.runs.directory import RunDirectory
from ccpml.system_errors import REFUSED, RefusedError

__all__ = ["Progress", "RunningCell", "run_cells"]


@dataclass
class RunningCell:
    """A cell in training; ``started`` is by the monotonic clock, ``lock`` is held until it has ended."""

    cell: Cell
    device: str
    process: "subprocess.Popen[bytes]"
    started: float
    lock: FileLock


@dataclass
class Progress:
    """Progress of a benchmark.

    Attributes:
        total: Number of cells.
        at_once: Number of cells trained at the same time.
        finished: Cells that have their scores, including those of earlier calls.
        failed: Reasons of the cells that failed, by title.
        elsewhere: Cells that another process trains for the same benchmark; they are awaited.
        repeated: Files of finished cells that were damaged or lost, so that the cells are scored again.
        durations: Seconds of each cell that finished in this call.
    """

    total: int
    at_once: int
    finished: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    running: list[RunningCell] = field(default_factory=list)
    elsewhere: list[Cell] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)

    def seconds_left(self) -> float | None:
        """Return the estimated seconds that remain; None before the first cell has finished."""
        if not self.durations:
            return None
        mean = sum(self.durations) / len(self.durations)
        remaining = self.total - len(self.finished) - len(self.failed)
        elapsed = sum(min(time.monotonic() - running.started, mean) for running in self.running)
        return max(0.0, remaining * mean - elapsed) / self.at_once


def run_cells(
    benchmark: Benchmark,
    devices: Sequence[str],
    at_once: int,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train all cells that are not finished.

    Finished cells are skipped and killed cells resumed. A cell that fails is recorded and does not stop the others.
    Several processes may share the folder of a benchmark: cells that another one trains are left to it, and awaited.

    Args:
        benchmark: The benchmark.
        devices: Devices, assigned to the cells in turn.
        at_once: Number of cells to train at the same time.
        watch: Function called about once a second, and after each cell.

    Raises:
        RefusedError: If the system refuses, as a full disk does; the cells under way resume, and no other is started.
        Interrupted: After Ctrl-C, SIGTERM or SIGHUP, when all running cells have written their checkpoints.
    """
    cells = list(benchmark.cells())
    progress = Progress(len(cells), at_once)
    waiting = [cell for cell in cells if _needs_training(benchmark, cell, progress)]
    digest = "" if benchmark.facts is None else benchmark.facts.digest
    free = deque(devices[i % len(devices)] for i in range(at_once))
    with _raising_at_signals():
        try:
            while waiting or progress.running:
                _start_cells(progress, waiting, free, digest)
                watch(progress)
                _wait(progress.running)
                for ended in [running for running in progress.running if running.process.poll() is not None]:
                    progress.running.remove(ended)
                    free.append(ended.device)
                    _record_end(progress, ended)
            watch(progress)
        except BaseException:
            _stop(progress.running)
            raise
    return progress


def _needs_training(benchmark: Benchmark, cell: Cell, progress: Progress) -> bool:
    """Whether a cell is neither finished nor damaged, as is recorded; scores that are to be made again are removed."""
    try:
        with _lock(cell):
            problem = _damage(benchmark, cell)
            if problem:
                progress.repeated.append(problem)
                RunDirectory(cell.path).scores_file.unlink()
    except Timeout:  # another process trains it
        return True
    except NewerVersionError as error:
        progress.failed[cell.title] = str(error)
        return False
    except ValueError as error:
        way_out = f"restore it from a copy, or remove {cell.path} to train the cell again"
        progress.failed[cell.title] = f"{str(error).partition('; ')[0]}; {way_out}"
        return False
    if RunDirectory(cell.path).finished:
        progress.finished.append(cell)
        return False
    return True


def _lock(cell: Cell) -> FileLock:
    """Return the lock of a cell; acquiring it raises Timeout if another process holds it."""
    try:
        cell.path.parent.mkdir(parents=True, exist_ok=True)
        cell.lock_file.touch()
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(cell.path)) from error
    return FileLock(cell.lock_file, timeout=0)


def _start_cells(progress: Progress, waiting: list[Cell], free: deque[str], data_digest: str) -> None:
    """Start as many cells as devices are free for, except those that another process trains."""
    progress.elsewhere = []
    for cell in list(waiting):
        if not free:
            return
        lock = _lock(cell)
        try:
            lock.acquire()
        except Timeout:
            progress.elsewhere.append(cell)
            continue
        waiting.remove(cell)
        if RunDirectory(cell.path).finished:  # another process has trained it
            lock.release()
            progress.finished.append(cell)
            continue
        progress.running.append(_start(cell, free.popleft(), data_digest, lock))


def _damage(benchmark: Benchmark, cell: Cell) -> str:
    """Return what is wrong with the scores of a cell, or with the embeddings that ensembles need; empty if nothing.

    Raises:
        ValueError: If the record or the settings of the cell are damaged or lost, if the run is that of another cell,
            or if what a cell with such damage would be scored again from is damaged too.
    """
    run = RunDirectory(cell.path)
    check_run(cell)
    if run.record_file.exists():
        run.settings()
    if not run.finished:
        return ""
    embeddings = run.embeddings / "test.npz"
    problem = "" if len(benchmark.folds) == 1 or embeddings.is_file() else f"{embeddings}: not found"
    try:
        scores = run.scores()
        if not {"test", "validation"} <= scores.keys():
            problem = f"{run.scores_file}: not the scores of a finished run"
    except (OSError, ValueError, TypeError) as error:
        problem = str(error).partition("; ")[0]
    if problem:
        run.settings()
        run.check_state()
    return problem


def _start(cell: Cell, device: str, data_digest: str, lock: FileLock) -> RunningCell:
    """Start the process of a cell, in a session of its own, so that Ctrl-C reaches it once and only through us."""
    settings = {**cell.settings.as_dict(), "device": device}
    write_json(cell.settings_file, {"settings": settings, "chosen": cell.chosen, "data_digest": data_digest})
    environment = {**os.environ, PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    if cell.settings.threads != "auto":
        environment["OMP_NUM_THREADS"] = str(cell.settings.threads)
    write_text(cell.log_file, "\n", sync=False)  # which leaves room for a message that the disk is full
    with cell.log_file.open("ab") as log, block_signals():
        command = [sys.executable, "-m", "ccpml.benchmark.cell_process", str(cell.settings_file), str(cell.path)]
        null = subprocess.DEVNULL
        process = subprocess.Popen(
            command, stdin=null, stdout=null, stderr=log, env=environment, start_new_session=True
        )
    return RunningCell(cell, device, process, time.monotonic(), lock)


def _wait(running: Sequence[RunningCell], seconds: float = 1.0) -> None:
    """Wait until a process has ended, at most for some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(each.process.poll() is None for each in running):
        time.sleep(0.05)


def _record_end(progress: Progress, ended: RunningCell) -> None:
    cell, code = ended.cell, ended.process.returncode
    if RunDirectory(cell.path).finished:
        progress.finished.append(cell)
        progress.durations.append(time.monotonic() - ended.started)
    else:
        reason = cell.last_message() or (f"killed by signal {-code}" if code < 0 else f"ended with code {code}")
        progress.failed[cell.title] = f"{reason} ({cell.log_file})"
    ended.lock.release()  # last: a process that has waited for the cell writes its log again
    if code == REFUSED:
        raise RefusedError(f"{cell.title}: {reason}")


def _stop(running: Sequence[RunningCell]) -> None:
    """Stop all cells after their current step, and wait for them; a second Ctrl-C stops them at once."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        for each in running:
            if each.process.poll() is None:
                each.process.send_signal(number)
        try:
            for each in running:
                each.process.wait()
        except KeyboardInterrupt:
            continue
        for each in running:
            each.lock.release()
        return


@contextmanager
def _raising_at_signals() -> Iterator[None]:
    """Make signals that end this process raise `Interrupted`. Only the main thread can change handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = [one for one in ending_signals() if signal.getsignal(one) is not raise_interrupted]
    before = {one: signal.signal(one, _raise) for one in others}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    """Raise the interrupt for a caller that may go on: it is not remembered for the errors of the whole command."""
    raise Interrupted(number)

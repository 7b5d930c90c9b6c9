"""Run a benchmark: every cell in a process of its own, several at once; what is finished stays finished."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ccpml.benchmark.protocol import Benchmark, Cell
from ccpml.data import load_source, make_splits
from ccpml.files import write_json, write_text
from ccpml.runs.directory import RunDirectory

__all__ = ["Progress", "Running", "begin", "read_scores", "read_state", "run_cells"]

_INCIDENTAL = {"device", "threads", "workers", "data_root"}
"""Settings that decide where and how fast a cell is trained, not what it is."""


@dataclass
class Running:
    """A cell in training.

    Attributes:
        cell: Which.
        device: Where.
        process: Its process.
        started: When, by the monotonic clock.
    """

    cell: Cell
    device: str
    process: "subprocess.Popen[bytes]"
    started: float


@dataclass
class Progress:
    """How far a benchmark is.

    Attributes:
        total: Cells.
        finished: Cells that have their scores, those of earlier calls among them.
        failed: Cells that could not be trained, and why.
        running: Cells in training.
        seconds: What each cell that finished in this call took.
        at_once: How many are trained at the same time.
    """

    total: int
    at_once: int
    finished: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def time_left(self) -> float | None:
        """Give the seconds that are left, None before the first cell has finished."""
        if not self.seconds:
            return None
        mean = sum(self.seconds) / len(self.seconds)
        left = self.total - len(self.finished) - len(self.failed)
        begun = sum(min(time.monotonic() - cell.started, mean) for cell in self.running)
        return max(0.0, left * mean - begun) / self.at_once


def begin(benchmark: Benchmark, at_once: int = 1) -> Benchmark:
    """Write what is to be done, or check that an earlier call wanted the same.

    Rows and repeats may differ: more of them extend a table. What all cells share may not.

    Args:
        benchmark: What to do.
        at_once: How many cells will be trained at the same time.

    Returns:
        The benchmark with the threads of a cell settled: unless they were given, those of the call that began it.
        Results are equal bit for bit for equal threads, however many cells are trained at once.

    Raises:
        FileExistsError: If there is something else, or a benchmark with other settings.
        ValueError: If a row's settings do not go together, or the data cannot be found or split; nothing is written.
    """
    list(benchmark.cells())
    above = next(place for place in (benchmark.out, *benchmark.out.parents) if place.exists())
    if not above.is_dir():
        raise FileExistsError(f"{benchmark.out}: {above} is a file; choose another place with --out")
    _require_splits(benchmark)
    file = benchmark.out / "benchmark.yaml"
    wanted = {
        "protocol": benchmark.protocol,
        "ablation": benchmark.ablation,
        "folds": list(benchmark.folds),
        "settings": benchmark.settings,
    }
    found: dict[str, Any] = {}
    if file.is_file():
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        differing = _differing(found, wanted) or _changed_rows(found, benchmark)
        if differing:
            raise FileExistsError(
                f"{benchmark.out}: there is a benchmark with other settings ({'; '.join(differing)}); "
                "choose another place with --out, or give it the settings that it began with"
            )
    elif benchmark.out.exists() and any(benchmark.out.iterdir()):
        raise FileExistsError(
            f"{benchmark.out}: there is something that is no benchmark; choose another place with --out"
        )
    threads = benchmark.base.threads
    if threads == "auto":
        threads = found.get("threads") or _threads(at_once)
    rows = {**(found.get("rows") or {}), **_changes(benchmark)}
    content = {**wanted, "repeats": benchmark.repeats, "threads": threads, "rows": rows}
    write_text(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return replace(benchmark, base=replace(benchmark.base, threads=threads))


def _threads(at_once: int) -> int:
    """Share the cores among the cells that are trained at the same time."""
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return int(wished) if wished.isdigit() and int(wished) else max(1, (os.cpu_count() or 1) // at_once)


def _require_splits(benchmark: Benchmark) -> None:
    """Find and split the images once, so that what is wrong with them is said once and not by every cell."""
    base = benchmark.base
    source = load_source(base.data, base.data_root, base.allow_partial)
    for fold in benchmark.folds:
        make_splits(source, base.resolved().test_classes or None, base.folds, fold)


def _differing(found: Any, wanted: dict[str, Any]) -> list[str]:
    """Say in which settings two benchmarks differ, but for those that change no score."""
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        return ["benchmark.yaml is damaged"]
    pairs = [(name, found.get(name), wanted[name]) for name in ("protocol", "ablation", "folds")]
    pairs += [
        (name, found["settings"].get(name), value)
        for name, value in wanted["settings"].items()
        if name not in _INCIDENTAL
    ]
    return [f"{name}: {was} there, {now} now" for name, was, now in pairs if was != now]


def _changes(benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    return {row.name: dict(row.changes) for row in benchmark.rows}


def _changed_rows(found: dict[str, Any], benchmark: Benchmark) -> list[str]:
    """Say which rows of the same name were something else."""
    before = found.get("rows") or {}
    changes = _changes(benchmark)
    return [
        f"{name}: {before[name]} there, {changes[name]} now"
        for name in changes
        if before.get(name, changes[name]) != changes[name]
    ]


def run_cells(
    benchmark: Benchmark,
    devices: Sequence[str],
    at_once: int,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train all cells that are not finished.

    Finished cells are skipped, killed ones resumed; a cell that fails is remembered, and the others go on.

    Args:
        benchmark: What to train.
        devices: As `Settings.device`; cells take them in turn.
        at_once: How many cells to train at the same time.
        watch: Called about once a second, and after each cell.

    Raises:
        KeyboardInterrupt: On Ctrl-C, after all cells in training have written what they go on from.
    """
    cells = list(benchmark.cells())
    progress = Progress(len(cells), at_once)
    progress.finished += [cell for cell in cells if _finished(benchmark, cell)]
    waiting = deque(cell for cell in cells if cell not in progress.finished)
    free = deque(devices[i % len(devices)] for i in range(at_once))
    before = _terminate_as_interrupt()
    try:
        while waiting or progress.running:
            while waiting and free:
                progress.running.append(_start(benchmark, waiting.popleft(), free.popleft()))
            watch(progress)
            _wait(progress.running)
            for ended in [running for running in progress.running if running.process.poll() is not None]:
                progress.running.remove(ended)
                free.append(ended.device)
                _take(benchmark, progress, ended)
        watch(progress)
    except BaseException:
        _stop(progress.running)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return progress


def _terminate_as_interrupt() -> Any:
    """Let SIGTERM end a benchmark as Ctrl-C does; give the handler that was there."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, interrupt)


def _finished(benchmark: Benchmark, cell: Cell) -> bool:
    """Say whether a cell has its scores, and embeddings if its table needs them; damaged scores are removed."""
    run = RunDirectory(cell.path)
    try:
        scores = run.scores()
        whole = "test" in scores and "validation" in scores
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError):
        whole = False
    if whole and (len(benchmark.folds) == 1 or (run.embeddings / "test.npz").is_file()):
        return True
    run.scores_file.unlink()
    return False


def _start(benchmark: Benchmark, cell: Cell, device: str) -> Running:
    """Start the process of a cell. It has a session of its own, so that Ctrl-C reaches it through us alone, once."""
    settings, log = _files(benchmark, cell)
    write_json(settings, {**cell.settings.as_dict(), "device": device})
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if cell.settings.threads != "auto":
        environment["OMP_NUM_THREADS"] = str(cell.settings.threads)
    command = [sys.executable, "-m", "ccpml.benchmark.cell", str(settings), str(cell.path)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
    return Running(cell, device, process, time.monotonic())


def _wait(running: Sequence[Running], seconds: float = 1.0) -> None:
    """Wait until a process has ended, but not for long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(one.process.poll() is None for one in running):
        time.sleep(0.05)


def _take(benchmark: Benchmark, progress: Progress, ended: Running) -> None:
    """Note how a cell ended."""
    cell = ended.cell
    if RunDirectory(cell.path).finished:
        progress.finished.append(cell)
        progress.seconds.append(time.monotonic() - ended.started)
        return
    log = _files(benchmark, cell)[1]
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    code = ended.process.returncode
    why = lines[-1] if lines else f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
    progress.failed[cell.title] = f"{why} ({log})"


def _stop(running: Sequence[Running]) -> None:
    """Ask all cells to stop after the step under way, and wait for it; a second Ctrl-C stops them at once."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        for one in running:
            if one.process.poll() is None:
                one.process.send_signal(number)
        try:
            for one in running:
                one.process.wait()
        except KeyboardInterrupt:
            continue
        return


def _files(benchmark: Benchmark, cell: Cell) -> tuple[Path, Path]:
    """Give where the settings of a cell and its messages lie."""
    folder = benchmark.out / "cells" / cell.row.name
    name = f"repeat{cell.repeat}-fold{cell.fold}"
    return folder / f"{name}.json", folder / f"{name}.log"


def read_state(cell: Cell) -> dict[str, float]:
    """Give the last row of a cell's metrics, empty before its first validation."""
    try:
        rows = RunDirectory(cell.path).metrics()
    except (OSError, ValueError):
        return {}
    return rows[-1] if rows else {}


def read_scores(cell: Cell) -> dict[str, Any]:
    """Read the scores of a finished cell."""
    scores: dict[str, Any] = json.loads(RunDirectory(cell.path).scores_file.read_text(encoding="utf-8"))
    return scores

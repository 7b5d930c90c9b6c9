"""Prepare a benchmark: check its settings and data, and write ``benchmark.yaml`` or compare with an earlier one."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from ccpml.benchmark.protocol import Benchmark, Cell
from ccpml.data import Source, make_splits
from ccpml.data.images.read import MAX_LISTED
from ccpml.files import WriteError, read_folder_file, waiting_lock, write_folder_file
from ccpml.progress import print_note
from ccpml.runs.defaults import FOLDS, DataFacts, fitting_folds
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import find_images, read_facts
from ccpml.runs.values import differences, portable
from ccpml.system_errors import check_writable

__all__ = ["BenchmarkExistsError", "check_run", "prepare_benchmark"]


class BenchmarkExistsError(FileExistsError):
    """The folder of a benchmark holds something else."""


def prepare_benchmark(benchmark: Benchmark, at_once: int = 1) -> Benchmark:
    """Write what the benchmark is, or check that an earlier call had the same settings.

    Rows and repeats may differ, since more of them extend a table. The settings that all cells share may not.
    ``at_once`` is the number of cells that will be trained at the same time.

    Returns:
        The benchmark with the facts of the images, from which settings that are left open are chosen for all cells,
        and a fixed number of threads per cell: the given one, or that of the first call. Both are those of the first
        call, so that results are equal bit for bit, however many cells are trained at once and on which machine.

    Raises:
        BenchmarkExistsError: If the folder holds something else, or a benchmark with other settings.
        ValueError: If settings contradict each other, or the data cannot be loaded or split; nothing is written.
    """
    list(benchmark.cells())
    existing = next(path for path in (benchmark.out, *benchmark.out.parents) if path.exists())
    if not existing.is_dir():
        raise BenchmarkExistsError(f"{existing}: expected a folder, got a file")
    check_writable(benchmark.out / "benchmark.yaml")
    source = find_images(benchmark.base)
    facts = read_facts(benchmark.base, source)
    benchmark = _with_fitting_folds(benchmark, facts)
    _check_splits(benchmark, source, facts)
    _read_earlier(benchmark)  # before anything is written to a folder of something else
    with _locked(benchmark):
        prepared = _write(benchmark, facts, at_once)
    for note in prepared.notes():
        print_note(note)
    return prepared


def _write(benchmark: Benchmark, facts: DataFacts, at_once: int) -> Benchmark:
    """Write ``benchmark.yaml``, and return the benchmark with what an earlier call has fixed there."""
    found, file = _read_earlier(benchmark), benchmark.out / "benchmark.yaml"
    if "facts" in found:
        try:
            facts = replace(DataFacts(**found["facts"]), digest=facts.digest)
        except TypeError as error:
            way_out = "restore it from a copy, or use the ccpml that wrote it"
            raise BenchmarkExistsError(f"{file}: damaged, or of another ccpml: unknown facts; {way_out}") from error
    threads = benchmark.base.threads
    if threads == "auto":
        threads = found.get("threads") or _threads_per_cell(at_once)
    content = {
        **_shared(benchmark),
        "settings": benchmark.settings,
        "repeats": benchmark.repeats,
        "threads": threads,
        "facts": asdict(facts),
        "rows": {**found.get("rows", {}), **_row_changes(benchmark)},
    }
    write_folder_file(file, content)
    return replace(benchmark, base=replace(benchmark.base, threads=threads), facts=facts)


@contextmanager
def _locked(benchmark: Benchmark) -> Iterator[None]:
    """Keep other processes from writing ``benchmark.yaml`` after it was read and before it is written."""
    file = benchmark.out / ".locks" / "benchmark"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(benchmark.out / "benchmark.yaml")) from error
    with waiting_lock(FileLock(file), f"{benchmark.out}: another process is preparing this benchmark"):
        yield


def check_run(cell: Cell) -> None:
    """Check that a run in the directory of a cell is that of the cell.

    Raises:
        ValueError: If it is another one, or its record is damaged, or lost.
    """
    run, settings = RunDirectory(cell.path), cell.settings.flat()
    if run.record_file.exists() or run.has_lost_record:
        own = {"method", "loss", "seed", "fold", *cell.row.changes} - {"weights"}  # a path, which differs by the folder
        started_with = {name: settings[name] for name in sorted(own & settings.keys())}
        run.record().check_started_with(started_with, run.record_file)


def _with_fitting_folds(benchmark: Benchmark, facts: DataFacts) -> Benchmark:
    """Return a benchmark whose number of folds is fixed; if it was left open, it is the protocol's unless too many."""
    if benchmark.base.folds is not None:
        return benchmark
    count = fitting_folds(facts.classes)
    if count < FOLDS:
        print_note(f"folds {count}: two or more of the {facts.classes} classes that are not for testing in each")
    return replace(benchmark, base=replace(benchmark.base, folds=count), folds=benchmark.folds[:count])


def _check_splits(benchmark: Benchmark, source: Source, facts: DataFacts) -> None:
    """Split the images once, so that an error in them is reported once and not by every cell."""
    settings = benchmark.base.resolved(facts)
    for fold in benchmark.folds:
        make_splits(source, settings.test_classes or None, settings.folds, fold)
    _check_started_cells(benchmark, source)


def _check_started_cells(benchmark: Benchmark, source: Source) -> None:
    """Check that the images are those that the cells of an earlier call were started with."""
    started, differing = 0, dict[Path, str]()
    for cell in benchmark.cells():
        run = RunDirectory(cell.path)
        try:
            changes = run.record().changes(source) if run.record_file.is_file() else None
        except ValueError:  # a damaged record, which is named when the cell is reached; it stops no other cell
            continue
        started += changes is not None
        if changes:
            differing[cell.path] = str(changes)
    if differing:
        path, difference = next(iter(differing.items()))
        way_out = f"remove {_listed(differing)} to train on the data as they are"
        if len(differing) == started:
            way_out = "start a benchmark in another folder"
        raise BenchmarkExistsError(
            f"{benchmark.base.data}: expected the data that {path} was started with, got {difference}; restore "
            f"them, or {way_out}"
        )


def _listed(paths: Collection[Path]) -> str:
    more = f" and {len(paths) - MAX_LISTED:,} more" if len(paths) > MAX_LISTED else ""
    return ", ".join(map(str, list(paths)[:MAX_LISTED])) + more


def _read_earlier(benchmark: Benchmark) -> dict[str, Any]:
    """Return the ``benchmark.yaml`` of an earlier call, which must be of the same benchmark; empty if there is none."""
    file, fields = benchmark.out / "benchmark.yaml", {"settings": dict, "rows": dict}
    found = read_folder_file(file, "benchmark", fields, BenchmarkExistsError)
    if found is None:
        return {}
    shared, rows = _shared(benchmark), _row_changes(benchmark)
    changed = differences({name: found.get(name) for name in shared}, shared)
    changed += differences(portable(found["settings"]), portable(benchmark.settings))
    changed += differences(found["rows"], {name: rows.get(name, row) for name, row in found["rows"].items()})
    if changed:
        raise BenchmarkExistsError(f"{benchmark.out}: holds a benchmark with other settings ({'; '.join(changed)})")
    return found


def _shared(benchmark: Benchmark) -> dict[str, Any]:
    return {"protocol": benchmark.protocol, "ablation": benchmark.ablation, "folds": list(benchmark.folds)}


def _row_changes(benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    return {row.name: dict(row.changes) for row in benchmark.rows}


def _threads_per_cell(at_once: int) -> int:
    """Return OMP_NUM_THREADS if it is set, otherwise the share of the cores of each of ``at_once`` cells."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    return int(requested) if requested.isdigit() and int(requested) else max(1, (os.cpu_count() or 1) // at_once)

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import yaml
from filelock import FileLock

from ccpml.benchmark import cell_process, runner
from ccpml.benchmark.prepare import BenchmarkExistsError, prepare_benchmark
from ccpml.benchmark.protocol import Benchmark, Row
from ccpml.benchmark.results import collect_results
from ccpml.benchmark.rows import table_rows
from ccpml.benchmark.runner import Progress, run_cells
from ccpml.data.class_records import ClassRecord
from ccpml.files import WriteError, write_yaml
from ccpml.interrupts import interruption
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.images import load_images, read_facts
from ccpml.system_errors import REFUSED, RefusedError, message_of, shortage_in_words
from tests.benchmark.finished import make_benchmark, make_cell
from tests.toy import quick_settings, toy_folder

pytestmark = pytest.mark.usefixtures("preloaded", "no_pictures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


def benchmark(folder, out, rows=None, repeats=1, **settings):
    base = quick_settings(data=f"folder:{folder}", **settings)
    rows = rows or table_rows(["c2"], ["plain"])
    return Benchmark(base, rows, out, repeats=repeats, folds=tuple(range(base.folds)))


def scores(benchmark):
    return {
        str(cell.path.relative_to(benchmark.out)): RunDirectory(cell.path).scores()["test"]
        for cell in benchmark.cells()
    }


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A benchmark that ran to its end without interruption."""
    made = benchmark(folder, tmp_path_factory.mktemp("whole") / "out")
    prepare_benchmark(made)
    progress = run_cells(made, ["cpu"], at_once=2)
    assert (len(progress.finished), progress.failed) == (2, {})
    return made


def test_cells_that_were_started_with_other_data_are_refused(tmp_path):
    folder = toy_folder(tmp_path / "toy")
    made = prepare_benchmark(benchmark(folder, tmp_path / "out"))
    cell = next(made.cells())
    record = RunRecord(cell.settings.flat(), load_images(cell.settings, progress=False).classes)
    record.write(RunDirectory(cell.path).record_file)
    prepare_benchmark(made)
    shutil.rmtree(folder / "group2" / "class11")
    with pytest.raises(BenchmarkExistsError, match=r"fold0.* was started with, got 1 class \(group2/class11\) missing"):
        prepare_benchmark(made)


def test_the_way_out_of_other_data_depends_on_whether_all_cells_have_them(tmp_path):
    folder = toy_folder(tmp_path / "toy")
    made = prepare_benchmark(benchmark(folder, tmp_path / "out"))
    cells = list(made.cells())
    classes = load_images(cells[0].settings, progress=False).classes
    for cell in cells:
        RunRecord(cell.settings.flat(), {"a": ClassRecord("train", 1, "")}).write(cell.path / "record.json")
    with pytest.raises(BenchmarkExistsError, match=r"restore them, or start a benchmark in another folder$"):
        prepare_benchmark(made)
    RunRecord(cells[0].settings.flat(), classes).write(cells[0].path / "record.json")
    with pytest.raises(BenchmarkExistsError, match=f"or remove {cells[1].path} to train on the data as they are$"):
        prepare_benchmark(made)
    shutil.rmtree(cells[1].path)
    prepare_benchmark(made)


@pytest.mark.parametrize("lost", ["record.json", "experiment.yaml"])
def test_what_a_finished_cell_has_lost_is_named(folder, tmp_path, monkeypatch, lost):
    made = prepare_benchmark(benchmark(folder, tmp_path / "out"))
    for seed, cell in enumerate(made.cells()):
        make_cell(cell, seed)
        write_yaml(cell.path / "experiment.yaml", cell.settings.as_dict())
        RunRecord(cell.settings.flat(), load_images(cell.settings, progress=False).classes).write(
            cell.path / "record.json"
        )
        run = RunDirectory(cell.path)
        run.write_scores(json.loads(run.scores_file.read_text()))
    cell = next(made.cells())
    (cell.path / lost).unlink()
    monkeypatch.setattr(runner, "_start", None)
    progress = run_cells(prepare_benchmark(made), ["cpu"], 1)
    assert len(progress.finished) == 1
    way_out = f"restore it from a copy, or remove {cell.path} to train the cell again"
    assert progress.failed == {cell.title: f"{cell.path / lost}: not found; {way_out}"}
    (result,) = collect_results(made)
    assert len(result.cells) == (1 if lost == "record.json" else 2)


def test_two_benchmarks_in_one_folder_share_the_cells(folder, tmp_path, monkeypatch):
    made = prepare_benchmark(benchmark(folder, tmp_path / "out"))
    ours, theirs = made.cells()
    held, started = FileLock(theirs.lock_file), []
    held.acquire()

    def watch(progress):
        if progress.elsewhere:
            assert (progress.elsewhere, progress.finished) == ([theirs], [ours])
            (theirs.path / "scores.json").parent.mkdir()
            (theirs.path / "scores.json").touch()
            held.release()

    def start(cell, *of):
        started.append(cell)
        cell.path.mkdir()
        return finished_at_once(cell, *of)

    monkeypatch.setattr(runner, "_start", start)
    monkeypatch.setattr(runner, "_wait", lambda running: None)
    progress = run_cells(made, ["cpu"], 1, watch)
    assert (started, progress.finished, progress.failed) == ([ours], [ours, theirs], {})
    assert not any(FileLock(cell.lock_file).acquire(timeout=0).lock.release() for cell in (ours, theirs))


def test_each_cell_is_a_normal_run(whole):
    for cell in whole.cells():
        settings = yaml.safe_load((cell.path / "experiment.yaml").read_text())
        assert (settings["fold"], settings["seed"], settings["method"]) == (cell.fold, cell.repeat, "plain")
        assert (cell.path / "checkpoints" / "best.safetensors").is_file()
        with np.load(cell.path / "embeddings" / "test.npz", allow_pickle=False) as file:
            assert file["embeddings"].shape == (30, 8)


def test_finished_cells_are_skipped(whole):
    before = {cell.path: (cell.path / "scores.json").stat().st_mtime_ns for cell in whole.cells()}
    seen = []
    progress = run_cells(whole, ["cpu"], 1, lambda progress: seen.append(len(progress.finished)))
    assert (len(progress.finished), progress.durations, seen) == (2, [], [2])
    assert before == {cell.path: (cell.path / "scores.json").stat().st_mtime_ns for cell in whole.cells()}


def test_cells_with_damaged_scores_or_lost_embeddings_are_named_and_scored_again(tmp_path, monkeypatch):
    made = make_benchmark(tmp_path / "out", repeats=2, methods=["plain"])
    cells = list(made.cells())
    files = [cells[0].path / "scores.json", cells[1].path / "scores.json", cells[2].path / "embeddings" / "test.npz"]
    files[0].write_text(files[0].read_text()[:40])
    files[1].write_text("{}")
    files[2].unlink()
    for cell in cells[:3]:
        write_yaml(cell.path / "experiment.yaml", cell.settings.as_dict())
    started = []
    monkeypatch.setattr(runner, "_start", lambda cell, *of: started.append(cell) or finished_at_once(cell, *of))
    progress = run_cells(made, ["cpu"], 1)
    assert started == cells[:3]
    assert [problem.partition(":")[0] for problem in progress.repeated] == [str(file) for file in files]


def test_a_cell_with_a_damaged_record_stops_no_other_and_keeps_its_scores(folder, tmp_path, monkeypatch):
    made = prepare_benchmark(benchmark(folder, tmp_path / "out", repeats=2))
    cells = list(made.cells())
    for seed, cell in enumerate(cells):
        make_cell(cell, seed)
        write_yaml(cell.path / "experiment.yaml", cell.settings.as_dict())
    for cell in cells[:2]:  # one with whole scores, one to be scored again
        record = RunRecord(cell.settings.flat(), {"a": ClassRecord("train", 1, "")})
        record.write(cell.path / "record.json")
        (cell.path / "record.json").write_bytes((cell.path / "record.json").read_bytes().replace(b"digest", b"digesu"))
    (cells[1].path / "embeddings" / "test.npz").unlink()
    (cells[2].path / "embeddings" / "test.npz").unlink()
    (cells[2].path / "experiment.yaml").write_text("")  # what it would be scored again from
    (cells[3].path / "scores.json").unlink()
    given = []
    monkeypatch.setattr(runner, "_start", lambda *of: given.append(of[2]) or finished_at_once(*of))
    scores = {cell.path: (cell.path / "scores.json").read_bytes() for cell in cells[:3]}
    progress = run_cells(prepare_benchmark(made), ["cpu"], 1)
    assert progress.finished == [cells[3]]
    assert given == [read_facts(made.base).digest]  # with which the cell compares the data
    assert list(progress.failed) == [cell.title for cell in cells[:3]]
    for cell, file in zip(cells, ["record.json", "record.json", "experiment.yaml"], strict=False):
        assert progress.failed[cell.title].startswith(f"{cell.path / file}: ")
        assert f"restore it from a copy, or remove {cell.path} to train" in progress.failed[cell.title]
        assert (cell.path / "scores.json").read_bytes() == scores[cell.path]


def test_a_run_in_the_place_of_another_cell_is_named_and_is_not_in_the_table(folder, tmp_path, monkeypatch):
    made = prepare_benchmark(benchmark(folder, tmp_path / "out", repeats=1))
    cells = list(made.cells())
    for seed, cell in enumerate(cells):
        make_cell(cell, seed)
        RunRecord(cells[0].settings.flat(), {"a": ClassRecord("train", 1, "")}).write(cell.path / "record.json")
    monkeypatch.setattr(runner, "_start", finished_at_once)
    progress = run_cells(made, ["cpu"], 1)
    expected = (
        f"{cells[1].path / 'record.json'}: of another run, which was started with other settings (fold: was 1, is 0)"
    )
    assert progress.failed[cells[1].title].startswith(f"{expected}; restore it from a copy, or remove")
    (result,) = collect_results(made)
    assert [each.cell for each in result.cells] == [cells[0]]
    assert result.problems[0] == f"{cells[1].title}: {expected}; restore it from a copy"


def finished_at_once(cell, device, data_digest, lock):
    (cell.path / "scores.json").touch()
    return runner.RunningCell(cell, device, mock.Mock(returncode=0, poll=lambda: 0), time.monotonic(), lock)


def test_a_benchmark_that_is_killed_and_restarted_gives_the_same_scores(whole, folder, tmp_path):
    made = benchmark(folder, tmp_path / "out")
    prepare_benchmark(made)
    program = (
        "from pathlib import Path; from ccpml.runs.settings import Settings\n"
        "from ccpml.benchmark.protocol import Benchmark\n"
        "from ccpml.benchmark.rows import table_rows\n"
        "from ccpml.benchmark.runner import run_cells\n"
        f"base = Settings.from_dict({made.base.as_dict()!r})\n"
        f"run_cells(Benchmark(base, table_rows(['c2'], ['plain']), Path({str(made.out)!r}), folds=(0, 1)), ['cpu'], 2)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    states = [cell.path / "checkpoints" / "last.ckpt" for cell in made.cells()]
    deadline = time.monotonic() + 300
    while not any(state.exists() for state in states) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(state.exists() for state in states)
    progress = run_cells(made, ["cpu"], at_once=2)
    assert progress.failed == {}
    assert scores(made) == scores(whole)


def test_how_many_cells_at_once_changes_no_score(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    made = benchmark(folder, tmp_path / "out", threads="auto")
    assert prepare_benchmark(made, at_once=2).base.threads == 3
    assert prepare_benchmark(made, at_once=6).base.threads == 3
    assert prepare_benchmark(benchmark(folder, tmp_path / "out", threads=1), at_once=6).base.threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert prepare_benchmark(benchmark(folder, tmp_path / "other", threads="auto"), at_once=2).base.threads == 5


def test_leftovers_of_a_process_killed_while_creating_the_run_are_removed(folder, tmp_path):
    made = benchmark(folder, tmp_path / "out")
    cell = next(prepare_benchmark(made).cells())
    cell.path.mkdir(parents=True)
    (cell.path / ".experiment.123.tmp.yaml").touch()
    assert run_cells(made, ["cpu"], 2).failed == {}
    assert not list(cell.path.glob(".*.tmp*"))


def test_a_cell_that_fails_is_reported_and_does_not_stop_the_others(folder, tmp_path):
    rows = (Row("contrastive", "plain", "large", {"classes_per_batch": 100}), Row("contrastive", "plain"))
    made = benchmark(folder, tmp_path / "out", rows)
    prepare_benchmark(made)
    progress = run_cells(made, ["cpu"], at_once=2)
    assert {cell.row.variant for cell in progress.finished} == {""}
    assert len(progress.finished) == 2
    assert set(progress.failed) == {f"C2 (large), repeat 0, fold {fold}" for fold in (0, 1)}
    assert all("classes_per_batch: expected at most 3" in why for why in progress.failed.values())


def test_a_refusal_of_the_system_ends_the_benchmark_and_leaves_the_other_cells_open(folder, tmp_path, monkeypatch):
    made = prepare_benchmark(benchmark(folder, tmp_path / "out", repeats=2))
    first, second, *others = made.cells()
    running = mock.Mock(poll=lambda: None)
    ends = {first.path: mock.Mock(returncode=REFUSED, poll=lambda: REFUSED), second.path: running}

    def start(cell, device, data_digest, lock):
        cell.log_file.write_text("a/last.ckpt: cannot be written (No space left on device)\n")
        return runner.RunningCell(cell, device, ends[cell.path], time.monotonic(), lock)

    monkeypatch.setattr(runner, "_start", start)
    with pytest.raises(RefusedError, match=rf"{first.title}: a/last\.ckpt: cannot be written .No space left"):
        run_cells(made, ["cpu"], at_once=2)
    running.send_signal.assert_called_once_with(signal.SIGINT)
    assert not any(cell.log_file.exists() for cell in others)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WriteError(errno.ENOSPC, "No space left on device", "last.ckpt"), REFUSED),
        (OSError(errno.EMFILE, "Too many open files", "a.png"), REFUSED),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), REFUSED),
        (RuntimeError("can't start new thread"), REFUSED),
        (
            RuntimeError("can't allocate memory: you tried to allocate 2500000 bytes"),
            1,
        ),  # a smaller cell may not need it
        (ValueError("lr: expected a finite number > 0"), 1),
    ],
)
def test_the_exit_code_of_a_cell_says_whether_others_would_fail_too(tmp_path, monkeypatch, capsys, error, code):
    monkeypatch.setattr(cell_process, "exit_with_parent", mock.Mock(side_effect=error))
    monkeypatch.setattr(cell_process, "raise_at_signals", mock.Mock())
    assert cell_process.main(tmp_path / "cell.json", tmp_path / "cell") == code
    assert capsys.readouterr().err == f"{shortage_in_words(error) or message_of(error)}\n"


def test_cells_stopped_by_ctrl_c_resume(whole, folder, tmp_path):
    made = benchmark(folder, tmp_path / "out")
    prepare_benchmark(made)

    def interrupt(progress):
        for one in progress.running:
            while one.process.poll() is None and not (one.cell.path / "checkpoints" / "last.ckpt").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_cells(made, ["cpu"], 1, interrupt)
    assert interruption() is None  # a program that catches it goes on
    assert run_cells(made, ["cpu"], 2).failed == {}
    assert scores(made) == scores(whole)


def test_a_benchmark_with_other_settings_is_refused(whole, folder, tmp_path):
    prepare_benchmark(
        benchmark(folder, whole.out, table_rows(["c2", "ms"], ["plain"]), repeats=2)
    )  # rows and repeats may be added
    prepare_benchmark(benchmark(folder, whole.out, threads=2))  # another machine
    with pytest.raises(BenchmarkExistsError, match=r"other settings .lr: was None, is 0.1"):
        prepare_benchmark(benchmark(folder, whole.out, lr=0.1))
    moved = shutil.copytree(folder, tmp_path / "moved" / folder.name)
    for same in (f"{folder}/", f"{folder}/../{folder.name}", moved):  # the images are compared, not where they are
        prepare_benchmark(benchmark(same, whole.out))
    with pytest.raises(BenchmarkExistsError, match=r"other settings .data: was folder:\S+, is folder:other.$"):
        prepare_benchmark(benchmark(moved.rename(tmp_path / "other"), whole.out))
    shutil.rmtree(tmp_path / "other")
    prepare_benchmark(benchmark(folder, whole.out, (Row("triplet", "ccp", "free", {"projections.strength": 0.0}),)))
    with pytest.raises(BenchmarkExistsError, match=r"triplet-ccp-free: was .*0.0., is .*1.0."):
        prepare_benchmark(benchmark(folder, whole.out, (Row("triplet", "ccp", "free", {"projections.strength": 1.0}),)))
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(BenchmarkExistsError, match="not the folder of a benchmark"):
        prepare_benchmark(benchmark(folder, tmp_path))


def test_a_description_of_a_benchmark_that_was_changed_is_named(folder, tmp_path):
    made = benchmark(folder, tmp_path / "out", repeats=1)
    before = prepare_benchmark(made)
    assert prepare_benchmark(made) == before
    file = made.out / "benchmark.yaml"
    text = file.read_text()
    for was, becomes in (("  color:", "  bolor:"), ("threads: ", "threads: 1"), ("side: ", "side: 1")):
        file.write_text(text.replace(was, becomes))
        assert file.read_text() != text
        with pytest.raises(BenchmarkExistsError, match=rf"{file}: damaged; restore it from a copy"):
            prepare_benchmark(made)
    older = [line for line in text.splitlines() if not line.startswith(("version:", "digest:"))]
    file.write_text("\n".join(older))  # as an older ccpml wrote it
    assert prepare_benchmark(made) == before
    file.write_text("\n".join(older).replace("  color:", "  tint:"))
    with pytest.raises(BenchmarkExistsError, match=rf"{file}: damaged, or of another ccpml: unknown facts; restore it"):
        prepare_benchmark(made)


def test_two_processes_cannot_train_one_run(whole):
    run = RunDirectory(next(whole.cells()).path)
    program = (
        "import sys; from pathlib import Path; from ccpml.runs.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(timeout=0.1): print('held')"
    )
    command = [sys.executable, "-c", program, str(run.path)]
    with run.locked():
        other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process is training this run" in other.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"


def test_the_time_left_is_estimated_from_the_finished_cells():
    progress = Progress(total=10, at_once=2)
    assert progress.seconds_left() is None
    progress.finished, progress.durations = [None] * 4, [10.0, 20.0]
    assert progress.seconds_left() == pytest.approx(6 * 15 / 2)

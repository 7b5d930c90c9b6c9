import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from ccpml.benchmark.cells import Progress, begin, read_scores, run_cells
from ccpml.benchmark.protocol import Benchmark, Row, table_rows
from ccpml.runs.directory import RunDirectory
from tests.toy import quick_settings, toy_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


def benchmark(folder, out, rows=None, repeats=1, **settings):
    base = quick_settings(data=f"folder:{folder}", **settings)
    rows = rows or table_rows(["c2"], ["plain"])
    return Benchmark(base, rows, out, repeats=repeats, folds=tuple(range(base.folds)))


def scores(benchmark):
    return {str(cell.path.relative_to(benchmark.out)): read_scores(cell)["test"] for cell in benchmark.cells()}


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A benchmark that ran to its end without interruption."""
    made = benchmark(folder, tmp_path_factory.mktemp("whole") / "out")
    begin(made)
    progress = run_cells(made, ["cpu"], at_once=2)
    assert (len(progress.finished), progress.failed) == (2, {})
    return made


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
    assert (len(progress.finished), progress.seconds, seen) == (2, [], [2])
    assert before == {cell.path: (cell.path / "scores.json").stat().st_mtime_ns for cell in whole.cells()}


def test_a_benchmark_killed_in_the_middle_and_restarted_gives_the_same(whole, folder, tmp_path):
    made = benchmark(folder, tmp_path / "out")
    begin(made)
    program = (
        "from pathlib import Path; from ccpml.runs.settings import Settings\n"
        "from ccpml.benchmark.cells import run_cells\n"
        "from ccpml.benchmark.protocol import Benchmark, table_rows\n"
        f"base = Settings.from_dict({made.base.as_dict()!r})\n"
        f"run_cells(Benchmark(base, table_rows(['c2'], ['plain']), Path({str(made.out)!r}), folds=(0, 1)), ['cpu'], 2)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    states = [cell.path / "checkpoints" / "last.ckpt" for cell in made.cells()]
    deadline = time.monotonic() + 120
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
    assert begin(made, at_once=2).base.threads == 3
    assert begin(made, at_once=6).base.threads == 3
    assert begin(benchmark(folder, tmp_path / "out", threads=1), at_once=6).base.threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert begin(benchmark(folder, tmp_path / "other", threads="auto"), at_once=2).base.threads == 5


def test_what_a_process_left_that_was_killed_as_it_made_the_directory(folder, tmp_path):
    made = benchmark(folder, tmp_path / "out")
    cell = next(begin(made).cells())
    cell.path.mkdir(parents=True)
    (cell.path / ".experiment.123.tmp.yaml").touch()
    assert run_cells(made, ["cpu"], 2).failed == {}
    assert not list(cell.path.glob(".*.tmp*"))


def test_a_cell_that_fails_is_reported_and_the_others_go_on(folder, tmp_path):
    rows = (Row("contrastive", "plain", "large", {"classes_per_batch": 100}), Row("contrastive", "plain"))
    made = benchmark(folder, tmp_path / "out", rows)
    begin(made)
    progress = run_cells(made, ["cpu"], at_once=2)
    assert {cell.row.variant for cell in progress.finished} == {""}
    assert len(progress.finished) == 2
    assert set(progress.failed) == {f"C2 (large), repeat 0, fold {fold}" for fold in (0, 1)}
    assert all("a batch needs 100 classes and there are 3" in why for why in progress.failed.values())


def test_ctrl_c_stops_the_cells_which_then_go_on(whole, folder, tmp_path):
    made = benchmark(folder, tmp_path / "out")
    begin(made)

    def interrupt(progress):
        if any((one.cell.path / "checkpoints" / "last.ckpt").exists() for one in progress.running):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_cells(made, ["cpu"], 1, interrupt)
    assert run_cells(made, ["cpu"], 2).failed == {}
    assert scores(made) == scores(whole)


def test_other_settings_need_another_place(whole, folder, tmp_path):
    begin(benchmark(folder, whole.out, table_rows(["c2", "ms"], ["plain"]), repeats=2))  # more of the same is welcome
    begin(benchmark(folder, whole.out, threads=2))  # and so is another machine
    with pytest.raises(FileExistsError, match=r"other settings .lr: None there, 0.1 now"):
        begin(benchmark(folder, whole.out, lr=0.1))
    begin(benchmark(folder, whole.out, (Row("triplet", "ccp", "free", {"projections.strength": 0.0}),)))
    with pytest.raises(FileExistsError, match=r"triplet-ccp-free: .*0.0. there, .*1.0. now"):
        begin(benchmark(folder, whole.out, (Row("triplet", "ccp", "free", {"projections.strength": 1.0}),)))
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match="something that is no benchmark"):
        begin(benchmark(folder, tmp_path))


def test_two_processes_do_not_train_one_run(whole):
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


def test_time_left_is_that_of_the_cells_not_begun_and_of_the_rest_of_those_running():
    progress = Progress(total=10, at_once=2)
    assert progress.time_left() is None
    progress.finished, progress.seconds = [None] * 4, [10.0, 20.0]
    assert progress.time_left() == pytest.approx(6 * 15 / 2)


def test_the_scores_of_a_cell_are_those_in_its_file(whole):
    cell = next(whole.cells())
    assert read_scores(cell) == json.loads((cell.path / "scores.json").read_text())

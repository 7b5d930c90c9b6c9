"""A run on two ranks equals that of one process, with sharded proxies too; it ends, fails and resumes as one."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from ccpml.runs.directory import RunDirectory
from tests.end_to_end.test_interruption import command, wait_for_rows
from tests.toy import QUICK, toy_folder

pytestmark = pytest.mark.usefixtures("preloaded", "no_pictures")

# BatchNorm is frozen: on CPUs each rank would use the statistics of its part of a batch.
SETTINGS = {
    **{**QUICK, "classes_per_batch": 4, "freeze_batchnorm": True, "max_steps": 24, "validate_every": 3, "lr": 3e-3},
    "score_last": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"), classes=16)


def begin(folder, path, **options):
    flags = [f"--{name}={value}" for name, value in {**SETTINGS, **options}.items()]
    return command("train", f"folder:{folder}", *flags, "--run", path)


SHARDED = {"ranks": 2, "shard_proxies": True}


@pytest.fixture(scope="module")
def two_ranks(folder, tmp_path_factory):
    """An uninterrupted run on two ranks."""
    path = tmp_path_factory.mktemp("runs") / "two"
    subprocess.run(begin(folder, path, ranks=2), check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory):
    """An uninterrupted run on two ranks with sharded proxies."""
    path = tmp_path_factory.mktemp("runs") / "sharded"
    subprocess.run(begin(folder, path, **SHARDED), check=True, capture_output=True)
    return path


def numbers(path):
    with (path / "metrics.csv").open() as file:
        return [[float(x) for name, x in row.items() if x and name != "seconds"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("options", "variants"),
    [
        ({"loss": "triplet", "head_start": "whitening"}, [{"ranks": 2}, SHARDED]),
        ({"method": "xbm", "memory_batches": 3, "memory_start": 2}, [{"ranks": 2, "workers": 1}]),
    ],
    ids=["ccp", "xbm"],
)
def test_two_ranks_equal_one_process(folder, tmp_path, options, variants):
    for number, variant in enumerate([{}, *variants]):
        # In float64: Adam makes steps of full size of gradients that are rounding errors.
        run = begin(folder, tmp_path / str(number), max_steps=9, precision="64-true", **options, **variant)
        subprocess.run(run, check=True, capture_output=True)
    expected = RunDirectory(tmp_path / "0")
    for number, _ in enumerate(variants, 1):
        run = RunDirectory(tmp_path / str(number))
        for row, expected_row in zip(numbers(run.path), numbers(expected.path), strict=True):
            assert row == pytest.approx(expected_row, rel=1e-6, abs=1e-9)
        for split in ("test", "test_last"):
            assert run.scores()[split] == pytest.approx(expected.scores()[split], rel=1e-6)
        torch.testing.assert_close(run.weights(), expected.weights(), rtol=1e-6, atol=1e-9)
        for one, other in zip(*(sorted(each.instances.glob("*.npz")) for each in (run, expected)), strict=True):
            with np.load(one) as arrays, np.load(other) as expected_arrays:
                assert arrays.files == expected_arrays.files
                np.testing.assert_allclose(arrays["next"], expected_arrays["next"], rtol=1e-6, atol=1e-9)


PRUNED = """
import json, sys
from ccpml import Settings, resume, train
from ccpml.runs.callbacks import Observer

class Pruner(Observer):
    def on_validation_end(self, trainer, pl_module):
        trainer.should_stop = trainer.global_step >= 6

settings = Settings().changed(json.loads(sys.argv[1]))
run = train(settings, sys.argv[2], progress=False, test=False, callbacks=[Pruner()])
print(run.metrics()[-1]["step"], run.finished)
print(resume(run.path, progress=False).finished)
"""


def test_a_trial_that_the_main_process_alone_prunes_ends_on_all_ranks_and_is_not_tested(folder, two_ranks, tmp_path):
    settings, path = json.dumps({**SETTINGS, "data": f"folder:{folder}", "ranks": 2}), tmp_path / "run"
    python = [sys.executable, "-c", PRUNED, settings, path]
    finished = subprocess.run(python, check=True, capture_output=True, text=True)
    assert finished.stdout.split() == ["6.0", "False", "True"]
    assert numbers(path) == numbers(two_ranks)  # resumed, it is as if nothing had been


@pytest.mark.parametrize("options", [{"ranks": 2}, SHARDED], ids=["two_ranks", "sharded"])
def test_ctrl_c_ends_all_ranks_and_the_run_resumes_to_the_same_result(folder, tmp_path, request, options):
    expected = request.getfixturevalue("sharded" if "shard_proxies" in options else "two_ranks")
    path = tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, **options), stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 2, process)
    others = ranks_beside(process.pid)
    for one in (process.pid, *others):  # as a terminal does
        os.kill(one, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "gloo" not in error
    assert f"ccpml train --resume {path}" in error
    assert len(others) == 1
    assert not any(is_alive(one) for one in others)
    subprocess.run(command("train", "--resume", path), check=True, capture_output=True)
    assert numbers(path) == numbers(expected)
    weights = "checkpoints/best.safetensors"
    assert (path / weights).read_bytes() == (expected / weights).read_bytes()


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGKILL, "was killed by signal 9"), (signal.SIGTERM, "failed (exit code 143)")]
)
def test_a_killed_rank_ends_the_run(folder, tmp_path, number, end):
    path = tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, ranks=2, max_steps=999), stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 1, process)
    os.kill(ranks_beside(process.pid)[0], number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"error: training stopped: rank 1 {end}; its error, if any, is printed above; then resume with" in error
    assert "Traceback" not in error


def test_a_second_ctrl_c_ends_a_run_one_of_whose_ranks_is_stopped(folder, tmp_path):
    path = tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, ranks=2, max_steps=9999), stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 1, process)
    (other,) = ranks_beside(process.pid)
    os.kill(other, signal.SIGSTOP)
    for _ in range(2):
        time.sleep(0.3)  # in which the main process comes to wait for it
        process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stopped at once; resume with: ccpml train --resume" in error
    assert "Traceback" not in error
    assert not is_alive(other)


def test_an_error_of_the_main_process_is_reported(tmp_path):
    folder, path = toy_folder(tmp_path / "gloo", classes=16), tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, ranks=2, max_steps=999), stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 1, process)
    for image in folder.rglob("*.png"):
        image.write_bytes(b"rubbish")
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "ccpml: error:" in error
    assert "not an image of a known format" in error
    assert "Traceback" not in error


def test_torchrun_starts_the_ranks_itself(folder, two_ranks, tmp_path):
    path = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]
    train = begin(folder, path)
    finished = subprocess.run([*torchrun, *train[2:]], check=True, capture_output=True, text=True)
    assert finished.stdout.count("\nreport ") == 1  # only the main process reports
    assert numbers(path) == numbers(two_ranks)


def test_ctrl_c_in_the_terminal_of_torchrun_says_how_to_resume(folder, tmp_path):
    """The terminal signals all processes, and torchrun passes it on to the ranks, which would take it for a second."""
    path = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]
    train = [*torchrun, *begin(folder, path, ranks=2, max_steps=9999)[2:]]
    process = subprocess.Popen(train, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_rows(path, 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert "stopping after this step (Ctrl-C again to stop at once)" in error
    assert "; resume with: ccpml train --resume" in error
    assert "ccpml: error" not in error


def test_a_batch_that_ranks_cannot_share_fails_before_anything_is_written(folder, tmp_path):
    run = begin(folder, tmp_path / "run", ranks=3)
    failed = subprocess.run(run, check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "expected a multiple of 3, the number of ranks, got 4" in failed.stderr
    assert not (tmp_path / "run").exists()


def ranks_beside(pid):
    command = ["ps", "-o", "pid=,comm=,args=", "--ppid", str(pid)]
    listed = subprocess.run(command, check=False, capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "runs.rank" in line]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def started_rank(process):
    """The process of the other rank, as soon as it exists: it has imported nothing yet."""
    while process.poll() is None:
        found = ranks_beside(process.pid)
        if found:
            return found[0]
        time.sleep(0.01)
    pytest.fail(f"the run ended before its rank started: {process.communicate()}")


def test_a_rank_that_dies_before_training_starts_ends_the_run(folder, tmp_path):
    process = subprocess.Popen(begin(folder, tmp_path / "run", ranks=2), stderr=subprocess.PIPE, text=True)
    os.kill(started_rank(process), signal.SIGKILL)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "error: training stopped: rank 1 was killed by signal 9" in error


def test_ctrl_c_while_ranks_start_ends_all_at_once(folder, tmp_path):
    path = tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, ranks=2), stderr=subprocess.PIPE, text=True)
    other = started_rank(process)
    for one in (other, process.pid):  # as a terminal does
        os.kill(one, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert f"ccpml train --resume {path}" in error
    assert not is_alive(other)

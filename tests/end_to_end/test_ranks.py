"""A run on two ranks gives what one process gives, and ends, fails and resumes as one."""

import csv
import os
import signal
import subprocess
import sys

import pytest
import torch

from ccpml.runs.directory import RunDirectory
from tests.end_to_end.test_interruption import command, wait_for_rows
from tests.toy import QUICK, toy_folder

# BatchNorm is frozen: on CPUs each rank has its own statistics of a batch.
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


@pytest.fixture(scope="module")
def two_ranks(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "two"
    subprocess.run(begin(folder, path, ranks=2), check=True, capture_output=True)
    return path


def numbers(path):
    with (path / "metrics.csv").open() as file:
        return [[float(x) for name, x in row.items() if x and name != "seconds"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("options", [{"loss": "triplet"}, {"method": "xbm", "memory_batches": 3, "memory_start": 2}])
def test_two_ranks_equal_one_process(folder, tmp_path, options):
    for ranks in (1, 2):
        # In float64, as Adam makes steps of one size of gradients that are nothing but rounding.
        run = begin(folder, tmp_path / str(ranks), ranks=ranks, max_steps=9, precision="64-true", **options)
        subprocess.run(run, check=True, capture_output=True)
    one, two = tmp_path / "1", tmp_path / "2"
    for row, expected in zip(numbers(two), numbers(one), strict=True):
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-9)
    scores, expected = RunDirectory(two).scores(), RunDirectory(one).scores()
    for split in ("test", "test_last"):
        assert scores[split] == pytest.approx(expected[split], rel=1e-6)
    weights = RunDirectory(two).weights()
    for name, tensor in RunDirectory(one).weights().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-9)


def test_ctrl_c_ends_all_ranks_and_the_run_resumes_to_the_same(folder, two_ranks, tmp_path):
    path = tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, ranks=2), stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 2, process)
    others = ranks_beside(process.pid)
    for one in (process.pid, *others):  # as a terminal does
        os.kill(one, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "gloo" not in error
    assert f"ccpml train --resume {path}" in error
    assert len(others) == 1
    assert not any(is_alive(one) for one in others)
    subprocess.run(command("train", "--resume", path), check=True, capture_output=True)
    assert numbers(path) == numbers(two_ranks)
    weights = "checkpoints/best.safetensors"
    assert (path / weights).read_bytes() == (two_ranks / weights).read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_rank_that_is_killed_is_missed(folder, tmp_path, number, code):
    path = tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, ranks=2, max_steps=999), stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 1, process)
    os.kill(ranks_beside(process.pid)[0], number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"error: the training cannot go on without rank 1 (exit code {code})" in error
    assert "Traceback" not in error


def test_the_first_ranks_own_error_is_the_one_that_is_told(tmp_path):
    folder, path = toy_folder(tmp_path / "gloo", classes=16), tmp_path / "run"
    process = subprocess.Popen(begin(folder, path, ranks=2, max_steps=999), stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 1, process)
    for image in folder.rglob("*.png"):
        image.write_bytes(b"rubbish")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ccpml: error:" in error
    assert "not an image of a known format" in error
    assert "Traceback" not in error


def test_torchrun_starts_the_ranks_itself(folder, two_ranks, tmp_path):
    path = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]
    train = begin(folder, path)
    finished = subprocess.run([*torchrun, *train[2:]], check=True, capture_output=True, text=True)
    assert finished.stdout.count("MAP@R") == 1  # the first rank alone reports
    assert numbers(path) == numbers(two_ranks)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_written(folder, tmp_path):
    run = begin(folder, tmp_path / "run", ranks=3)
    failed = subprocess.run(run, check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "4 classes per batch cannot be shared by 3 processes; take a multiple of 3" in failed.stderr
    assert not (tmp_path / "run").exists()


def ranks_beside(pid):
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], check=True, capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "runs.rank" in line]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

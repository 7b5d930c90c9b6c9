"""Runs that are killed or stopped resume to the result of an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.toy import QUICK, toy_folder

pytestmark = pytest.mark.usefixtures("preloaded", "no_pictures")

SETTINGS = {**QUICK, "max_steps": 60, "validate_every": 3, "projections.patience": 2, "lr": 3e-3}


def command(*arguments):
    return [sys.executable, "-m", "ccpml.cli", *map(str, arguments)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


def start_command(folder, path, **options):
    flags = [f"--{name}={value}" for name, value in {**SETTINGS, **options}.items()]
    return command("train", f"folder:{folder}", *flags, "--run", path)


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    subprocess.run(start_command(folder, path), check=True, capture_output=True)
    assert '"instances": 0' not in (path / "scores.json").read_text()  # so that resuming projections is tested too
    return path


def wait_for_rows(path, rows, process):
    metrics = path / "metrics.csv"
    while process.poll() is None:
        if metrics.is_file() and len(metrics.read_text().splitlines()) > rows:
            return
        time.sleep(0.01)
    pytest.fail(f"the run ended before it could be interrupted: {process.communicate()}")


def assert_same(path, other):
    assert (path / "scores.json").read_text() == (other / "scores.json").read_text()
    assert (path / "checkpoints/best.safetensors").read_bytes() == (other / "checkpoints/best.safetensors").read_bytes()
    without_seconds = [
        [cells[:1] + cells[2:] for cells in (line.split(",") for line in (p / "metrics.csv").read_text().splitlines())]
        for p in (path, other)
    ]
    assert without_seconds[0] == without_seconds[1]
    assert sorted(p.name for p in (path / "instances").iterdir()) == sorted(
        p.name for p in (other / "instances").iterdir()
    )


def test_a_run_killed_at_random_steps_resumes_to_the_same_result(folder, uninterrupted, tmp_path):
    path, moment = tmp_path / "run", random.Random(os.getpid())
    start = start_command(folder, path)
    for rows in (moment.randint(1, 6), moment.randint(8, 14)):
        process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for_rows(path, rows, process)
        time.sleep(moment.random() * 0.2)
        process.kill()
        process.communicate()
        start = command("train", "--resume", path)
    assert not (path / "scores.json").exists()
    subprocess.run(start, check=True, capture_output=True)
    assert_same(path, uninterrupted)


def test_a_run_killed_before_its_first_checkpoint_restarts(folder, uninterrupted, tmp_path):
    path = tmp_path / "run"
    process = subprocess.Popen(start_command(folder, path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (path / "experiment.yaml").is_file():
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not (path / "checkpoints" / "last.ckpt").exists()
    subprocess.run(command("train", "--resume", path), check=True, capture_output=True)
    assert_same(path, uninterrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_run_after_the_step_and_prints_how_to_resume(folder, uninterrupted, tmp_path, number, code):
    path = tmp_path / "a run"
    process = subprocess.Popen(start_command(folder, path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_rows(path, 2, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == code
    assert "Traceback" not in error
    assert f"resume with: ccpml train --resume '{path}'" in error
    assert not (path / "scores.json").exists()
    finished = subprocess.run(command("train", "--resume", path), check=True, capture_output=True, text=True)
    assert "MAP@R" in finished.stdout
    assert_same(path, uninterrupted)


def test_ctrl_c_before_the_first_step_stops_at_once(folder, uninterrupted, tmp_path):
    path = tmp_path / "run"
    process = subprocess.Popen(start_command(folder, path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (path / "experiment.yaml").is_file():
        time.sleep(0.001)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert f"resume with: ccpml train --resume {path}" in error
    subprocess.run(command("train", "--resume", path), check=True, capture_output=True)
    assert_same(path, uninterrupted)


def test_a_signal_to_the_whole_group_stops_the_run_though_it_ends_the_workers(folder, tmp_path):
    path = tmp_path / "run"
    start = start_command(folder, path, workers=1)
    process = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_rows(path, 2, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 143, error
    assert "Traceback" not in error
    assert f"resume with: ccpml train --resume {path}" in error

import csv
import os
import random
import signal
import subprocess
import sys
import time
from importlib import util

import pytest
import yaml

from ccpml.cli import main
from ccpml.runs.directory import RunDirectory
from tests.toy import QUICK

pytestmark = pytest.mark.usefixtures("preloaded", "no_pictures")

pytest.importorskip("optuna", reason="Optuna is an extra: ccpml[tune]")

SEARCH = ["--preset", "lambda-proxies", "--search", "proxies_per_class=1..5", "--trials", "3", "--startup-trials", "1"]


@pytest.fixture(scope="module")
def arguments(folder):
    settings = {**QUICK, "max_steps": 24, "validate_every": 3, "lr": 3e-3}
    del settings["proxies_per_class"], settings["pool_size"]
    return ["tune", f"folder:{folder}", *(f"--{name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="module")
def study(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("tune") / "a study"
    assert main([*arguments, *SEARCH, "--warmup_validations=1", "--out", str(out)]) == 0
    return out


def rows(out):
    with (out / "trials.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name not in {"seconds", "run"}} for row in csv.DictReader(file)
        ]


def test_every_trial_is_a_run_whose_test_classes_were_not_scored(study):
    table = rows(study)
    assert [int(row["number"]) for row in table] == [0, 1, 2]
    for row in table:
        run = RunDirectory(study / f"trial-000{row['number']}")
        assert not run.finished
        assert not run.embeddings.exists()
        settings = run.settings()
        assert (settings.projections.strength, settings.proxies_per_class) == (
            float(row["projections.strength"]),
            int(row["proxies_per_class"]),
        )
        assert float(row["map_at_r"]) == max(step["map_at_r"] for step in run.metrics())
        assert row["state"] == "pruned" or run.metrics()[-1]["step"] == 24


def test_the_best_run_can_be_tested_and_its_settings_trained(study, tmp_path, capsys):
    best = max((row for row in rows(study) if row["state"] == "complete"), key=lambda row: float(row["map_at_r"]))
    assert main(["train", "--config", str(study / "best.yaml"), "--run", str(tmp_path / "again")]) == 0
    again = RunDirectory(tmp_path / "again").scores()
    assert again["validation"]["map_at_r"] == float(best["map_at_r"])
    assert main(["train", "--resume", str(study / f"trial-000{best['number']}")]) == 0
    assert RunDirectory(study / f"trial-000{best['number']}").scores() == again
    assert yaml.safe_load((study / "best.yaml").read_text())["pool_size"] == 12


def test_the_same_command_again_prints_the_same_results(study, arguments, capsys):
    before = rows(study)
    assert main([*arguments, *SEARCH, "--warmup_validations=1", "--out", str(study)]) == 0
    out = capsys.readouterr().out
    assert rows(study) == before
    assert "trials     3: " in out
    assert "best       trial" in out
    assert f"ccpml train --resume '{study}/trial-000" in out
    contour = "contour-projections.strength-proxies_per_class.png"
    for name in ("trials.csv", "best.yaml", "history.png", "slices.png", contour):
        assert str(study / name) in out
        assert (study / name).stat().st_size > 0
    best = study / out.partition("ccpml train --resume '")[2].rpartition("/")[2].partition("'")[0]
    best.rename(study / "moved")
    best.touch()
    assert main([*arguments, *SEARCH, "--warmup_validations=1", "--out", str(study)]) == 0
    best.unlink()
    (study / "moved").rename(best)
    out, err = capsys.readouterr()
    assert "--resume" not in out
    assert f"note: {best}: expected a folder, got a file; to score its settings, train them again" in err


def test_a_killed_study_resumes_to_the_same_trials(study, arguments, tmp_path):
    out, moment = tmp_path / "killed", random.Random(os.getpid())
    command = [*arguments, *SEARCH, "--warmup_validations=1", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "ccpml.cli", *command], stderr=subprocess.PIPE, text=True)
    trial = moment.randint(0, 1)
    metrics, validations = (
        out / f"trial-000{trial}" / "metrics.csv",
        1 if trial else moment.randint(1, 5),
    )  # 1 is pruned
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > validations):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert main(command) == 0
    assert rows(out) == rows(study)
    for number in range(3):
        pair = [RunDirectory(place / f"trial-000{number}") for place in (out, study)]
        assert pair[0].weights_file.read_bytes() == pair[1].weights_file.read_bytes()


def test_ctrl_c_prints_how_to_resume(arguments, tmp_path, capsys):
    command = [
        *arguments,
        "--search",
        "lr=1e-4,1e-3",
        "--trials",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--max_steps=9999",
    ]
    process = subprocess.Popen([sys.executable, "-m", "ccpml.cli", *command], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out" / "trial-0000" / "metrics.csv"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 3:  # names, before the first step, a step
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "stopped after step" in error
    assert f"resume with: ccpml tune {arguments[1]} --classes_per_batch=3" in error
    assert "Traceback" not in error


def test_all_trials_failing_is_exit_code_1(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*arguments, "--search", "lr=1e29,1e30", "--trials", "2", "--out", str(out)]) == 1
    assert [(row["state"], row["map_at_r"]) for row in rows(out)] == [("failed", "")] * 2
    error = capsys.readouterr().err.removeprefix("loading libraries ...\n")
    assert "trial 1 failed: embeddings: expected finite values, the training has diverged" in error
    assert not (out / "best.yaml").exists()
    assert not list(out.glob("*.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "search: expected a preset"),
        (["--search", "speed=1..2"], "expected a numeric setting, got 'speed'; numeric settings are "),
        (["--search", "loss=1..2"], "expected a numeric setting, got 'loss'"),
        (["--search", "lr=0..1"], "search lr: expected a finite number > 0, got 0.0"),
        (["--search", "lr=1..2", "--search=lr=3,4"], "search lr: given twice"),
        (["--search"], "--search"),
        (["lr=1e-4..1e-2:log"], "lr=1e-4..1e-2:log: expected data, got a setting; write --search lr=1e-4..1e-2:log"),
        (["--preset", "nonsense"], "preset: expected lambda-proxies, got 'nonsense'"),
        (["--preset", "lambda-proxies", "--method", "plain"], "no effect with method plain"),
        (["--preset", "lambda-proxies", "--pool_size", "12"], "at most pool_size = 12, got 16"),
        (["--preset", "lambda-proxies", "--trials", "0"], "trials: expected at least 1, got 0"),
        (["--preset", "lambda-proxies", "--trials", "many"], "trials: expected int, got 'many'"),
        (["--preset", "lambda-proxies", "--timeout", "-1"], "timeout: expected a finite number of seconds > 0"),
        (["--preset", "lambda-proxies", "--out", ""], "--out: expected a value, got nothing"),
        (["--preset", "lambda-proxies", "--out", "a{b}"], "out: expected a path without {, }, ? and %"),
        (["--preset", "lambda-proxies", "--lr", "0"], "lr: expected a finite number > 0"),
        (["--preset", "lambda-proxies", "--nonsense", "0"], "nonsense"),
        (["--preset", "lambda-proxies", "--data", "folder:/no/such"], "folder:/no/such: folder not found"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *([] if "--data" in options else ["glyphs"]), *options]) == 2
    error = capsys.readouterr().err.removeprefix("loading libraries ...\n")
    assert error.startswith("ccpml: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_a_study_is_not_touched(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(["tune", "glyphs", "--preset", "lambda-proxies", "--out", str(tmp_path)]) == 2
    assert (
        "not the folder of a study (study.yaml not found); choose another --out or --study" in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_error_says_how_to_install_optuna(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ccpml.extras.find_spec", lambda name: None if name == "optuna" else util.find_spec(name))
    assert main(["tune", "glyphs", "--preset", "lambda-proxies", "--out", str(tmp_path / "out")]) == 2
    assert "tune: needs optuna, not installed; pip install optuna (the extra tune of ccpml)" in capsys.readouterr().err


def test_the_core_does_not_import_optuna():
    code = "import sys, ccpml, ccpml.cli.tune, ccpml.tuning.search_space; assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

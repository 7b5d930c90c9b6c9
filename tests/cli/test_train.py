import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from ccpml.cli import main
from ccpml.runs.settings import Settings
from tests.toy import QUICK, toy_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def flags():
    return [f"--{name}={value}" for name, value in QUICK.items()]


@pytest.fixture(scope="module")
def run(folder, flags, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", f"folder:{folder}", *flags, "--run", str(path)]) == 0
    return path


def test_train_prints_scores_and_places(folder, flags, tmp_path, capsys):
    path = tmp_path / "run"
    assert main(["train", f"folder:{folder}", *flags, "--method", "plain", "--run", str(path)]) == 0
    out = capsys.readouterr().out
    scores = json.loads((path / "scores.json").read_text())
    assert f"MAP@R {scores['test']['map_at_r']:.4f}" in out
    assert "test             6 classes" in out
    assert f"run     {path}" in out
    assert f"report  {path / 'report.html'}" in out
    assert (path / "report.html").is_file()


def test_config_file_and_flags(folder, flags, tmp_path, capsys):
    config = tmp_path / "settings.yaml"
    config.write_text("loss: triplet\nseed: 7\n")
    arguments = ["train", "--config", str(config), f"folder:{folder}", *flags, "--seed", "8"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--print_config"])
    assert stop.value.code in {0, None}
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["loss"], printed["seed"], printed["proxies_per_class"]) == ("triplet", 8, 2)
    assert printed["data"] == f"folder:{folder}"
    assert printed.keys() == Settings().as_dict().keys()  # settings, and nothing else


def test_the_settings_of_a_run_reproduce_it(run, tmp_path):
    assert main(["train", "--config", str(run / "experiment.yaml"), "--run", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "scores.json").read_text() == (run / "scores.json").read_text()


def test_options_with_dashes_and_bare_switches(folder, flags, tmp_path):
    path = tmp_path / "run"
    options = ["--skip-bad-images", "--projections.rewind", "--test-classes", "group2/*", "--max-steps", "2"]
    assert main(["train", f"folder:{folder}", *flags, *options, "--run", str(path)]) == 0
    settings = yaml.safe_load((path / "experiment.yaml").read_text())
    assert (settings["skip_bad_images"], settings["projections"]["rewind"], settings["test_classes"]) == (
        True,
        True,
        "group2/*",
    )
    assert json.loads((path / "scores.json").read_text())["splits"]["test"]["classes"] == 4


def test_the_default_place_names_the_run(folder, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"folder:{folder}", *flags, "--max_steps=2", "--fold=1"]) == 0
    assert (tmp_path / "runs" / f"{folder.name}-contrastive-ccp-fold1-seed0" / "scores.json").is_file()


def test_resume_of_a_finished_run_prints_its_scores(run, capsys):
    assert main(["train", "--resume", str(run)]) == 0
    assert "MAP@R" in capsys.readouterr().out


def test_evaluate_embed_and_report(run, folder, tmp_path, capsys):
    assert main(["evaluate", str(run), "-o", str(tmp_path / "s.json")]) == 0
    expected = json.loads((run / "scores.json").read_text())["test"]
    assert f"MAP@R {expected['map_at_r']:.4f}" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["map_at_r"] == pytest.approx(expected["map_at_r"])
    assert main(["evaluate", str(run), "--clusters", "-o", str(tmp_path / "c.json")]) == 0
    record, shown = json.loads((tmp_path / "c.json").read_text()), capsys.readouterr()
    assert f"NMI {record['nmi']:.4f}, AMI {record['ami']:.4f} ({record['num_clusters']} clusters)" in shown.out
    assert record["map_at_r"] == pytest.approx(expected["map_at_r"])
    assert "clustering" in shown.err
    assert main(["embed", str(run), f"folder:{folder}", "-o", str(tmp_path / "e.npz")]) == 0
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert set(file.files) == {"embeddings", "labels", "paths", "class_names", "roles"}
    assert main(["embed", str(run), f"folder:{folder}", "-o", str(tmp_path / "e.npz")]) == 2
    assert "is there already" in capsys.readouterr().err
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown verb 'nonsense': expected one of train"),
        (["train", "photos"], "unknown data 'photos': expected glyphs, cub, cars196"),
        (["train", "folder:/no/such"], "folder:/no/such: folder not found"),
        (["train", "glyphs", "--lr", "fast"], "lr"),
        (["train", "glyphs", "--lr", "-1"], "lr: expected a number above 0, got -1.0"),
        (["train", "glyphs", "--loss", "triplet", "--alpha", "2"], "alpha: is of the loss multi_similarity"),
        (["train", "glyphs", "--nonsense", "1"], "nonsense"),
        (["train", "--resume", "/no/such"], "/no/such: no run is there"),
        (["train", "glyphs", "--resume", "/no/such"], "--resume goes on with a run as it was begun"),
        (["train", "--config", "/no/such.yaml"], "/no/such.yaml"),
        (["evaluate", "/no/such"], "/no/such: no run is there"),
        (["evaluate"], "run"),
        (["train", "--resume", ""], "--resume: expected a directory, got nothing"),
        (["train", "glyphs", "--run", ""], "--run: expected a directory, got nothing"),
        (["train", "glyphs", "--data", "folder:/no/such"], "the data are named twice: glyphs and folder:/no/such"),
        (["train", "glyphs", "--channels", "2"], "--channels: expected Literal[1, 3] or null, got something else"),
        (["train", "glyphs", "--device", "quantum"], "device: expected auto, cpu, cuda"),
        (["train", "glyphs", "--weights", "/no/such.pth"], "weights: there is no file /no/such.pth"),
        (["embed", "/no/such", "glyphs"], "-o/--output"),
        (["embed", "/no/such", "glyphs", "-o", "x.csv"], "expected a file that ends in .npz"),
        (["report"], "run"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("ccpml: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_run_is_not_overwritten(run, folder, flags, capsys):
    before = (run / "scores.json").stat().st_mtime_ns
    assert main(["train", f"folder:{folder}", *flags, "--run", str(run)]) == 2
    assert f"--resume {run}" in capsys.readouterr().err
    assert (run / "scores.json").stat().st_mtime_ns == before


def test_a_failure_is_exit_code_1_and_a_traceback_only_on_request(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["train", f"folder:{tmp_path / 'empty'}", "--run", str(tmp_path / "run")]) == 1
    assert str(tmp_path / "empty") in capsys.readouterr().err
    with pytest.raises(ValueError, match="empty"):
        main(["train", f"folder:{tmp_path / 'empty'}", "--run", str(tmp_path / "run"), "--debug"])


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert "ccpml 0." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--proxies_per_class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import ccpml; ccpml.CCPLoss, ccpml.evaluate", {"lightning", "matplotlib", "PIL", "pytorch_metric_learning"}),
        ("import ccpml.cli; ccpml.cli.main(['--help'])", {"torch", "jsonargparse", "numpy"}),
        ("import ccpml.data, ccpml.models", {"lightning", "matplotlib", "timm"}),
    ],
)
def test_imports_are_lazy(code, forbidden):
    program = f"import sys; {code}; print(sorted({forbidden!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"

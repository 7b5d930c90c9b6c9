import json
import shutil
from pathlib import Path

import pytest
import yaml

from ccpml.cli import main
from ccpml.runs.directory import RunDirectory


def test_train_prints_scores_and_paths(
    folder: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert main(["train", f"folder:{folder}", *flags, "--method", "plain", "--run", str(path)]) == 0
    out = capsys.readouterr().out
    scores = json.loads((path / "scores.json").read_text())
    assert f"MAP@R {scores['test']['map_at_r']:.4f}" in out
    assert "test             6 classes" in out
    assert f"run     {path}" in out
    assert f"report  {path / 'report.html'}" in out
    assert (path / "report.html").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_the_settings_of_a_run_reproduce_it(run: Path, tmp_path: Path) -> None:
    assert main(["train", "--config", str(run / "experiment.yaml"), "--run", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "scores.json").read_text() == (run / "scores.json").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_the_default_directory_is_named_after_data_loss_method_fold_and_seed(
    folder: Path, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--skip-bad-images", f"folder:{folder}", "--projections.rewind", "--test-classes", "group2/*"]
    assert main(["train", *options, *flags, "--max_steps=2", "--fold=1"]) == 0
    run = tmp_path / "runs" / f"{folder.name}-multi_similarity-ccp-fold1-seed0"
    settings = yaml.safe_load((run / "experiment.yaml").read_text())
    assert settings["skip_bad_images"]
    assert settings["projections"]["rewind"]
    assert json.loads((run / "scores.json").read_text())["splits"]["test"]["classes"] == 4


@pytest.mark.usefixtures("no_pictures")
def test_resume_of_a_finished_run_prints_its_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(run)]) == 0
    scores = json.loads((run / "scores.json").read_text())
    assert f"MAP@R {scores['test']['map_at_r']:.4f}" in capsys.readouterr().out


@pytest.mark.usefixtures("no_pictures")
def test_resume_of_a_finished_run_says_of_its_data_what_report_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(run, tmp_path / "own"))
    data = RunDirectory(own).settings().data
    for name in ("experiment.yaml", "record.json"):
        (own / name).write_text((own / name).read_text().replace(data, f"folder:{tmp_path}/gone"))
    said = []
    for command in (["report", str(own)], ["train", "--resume", str(own)]):
        assert main(command) == 1
        said.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")])
    assert said[0] == said[1]
    assert "The data could not be compared with those that the run was started with" in said[0][0]


@pytest.mark.parametrize("damage", ["{", "{}", "cut"])
def test_a_run_whose_scores_are_damaged_is_not_said_to_be_finished(
    damage: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(run, tmp_path / "own"))
    file = own / "scores.json"
    file.write_text(file.read_text()[:-9] if damage == "cut" else damage)
    assert main(["train", "--resume", str(own)]) == 1
    out, err = capsys.readouterr()
    assert "already finished" not in out
    assert err.splitlines()[-1].startswith(f"ccpml: error: {file}: ")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "--memory-batches 9 --memory-start 5",
            ["memory_batches, memory_start: without effect with method ccp, only with xbm"],
        ),
        (
            "--method plain --pool-size 30 --warm-start 3 --proxy-lr-factor 2",
            [
                "pool_size, projections.warm_start: without effect with method plain, only with ccp",
                "proxy_lr_factor: without effect on multi_similarity with method plain, which has no proxies",
            ],
        ),
        ("--method plain --loss arcface --proxy-lr-factor 2 --proxy-weight 1", []),  # the last is the default
        ("--method xbm --config FILE", []),  # a file may list all settings, as that of another run does
        ("--method xbm --config FILE --pool-size 31", ["pool_size: without effect with method xbm, only with ccp"]),
        ("--pool-size 30 --warm-start 3", []),
    ],
)
def test_flags_without_effect_are_noted(
    flags: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("pool_size: 30\nproxies_per_class: 3\nprojections:\n  warm_start: 3\n")
    words = flags.replace("FILE", str(tmp_path / "a.yaml")).split()
    assert main(["train", f"folder:{tmp_path}", *words, "--run", str(tmp_path / "run")]) == 1  # there are no images
    notes = [line.removeprefix("note: ") for line in capsys.readouterr().err.splitlines() if "without effect" in line]
    assert notes == expected


def test_a_run_is_not_overwritten(
    run: Path, folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "scores.json").stat().st_mtime_ns
    assert main(["train", f"folder:{folder}", *flags, "--run", str(run)]) == 2
    assert "already exists; resume it with `ccpml train --resume <run>`" in capsys.readouterr().err
    assert (run / "scores.json").stat().st_mtime_ns == before

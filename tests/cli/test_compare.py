"""``ccpml compare``: what it prints and writes, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from ccpml.cli import main
from tests.toy import QUICK, toy_folder


@pytest.fixture(scope="module")
def other(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with another seed."""
    flags = [f"--{name}={value}" for name, value in {**QUICK, "max_steps": 2}.items()]
    path = tmp_path_factory.mktemp("runs") / "other"
    assert main(["train", f"folder:{folder}", *flags, "--seed=1", "--run", str(path)]) == 0
    return path


def test_two_runs(run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", str(run), str(other), "-o", str(page)]) == 0
    out = capsys.readouterr().out
    scores = json.loads((other / "scores.json").read_text())["test"]
    assert "6 classes that none of the runs has seen, 30 queries" in out
    assert f"{scores['map_at_r']:.4f} (" in out
    assert "cannot be searched with other" in out
    assert page.stat().st_size > 20_000
    assert main(["compare", str(run), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][1]["scores"]["map_at_r"]["value"] == pytest.approx(scores["map_at_r"])
    assert found["runs"][0]["fingerprint"] != found["runs"][1]["fingerprint"]
    before = page.read_bytes()
    assert main(["compare", str(run), str(other), "-o", str(page)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert page.read_bytes() == before


def test_other_data_are_embedded_by_each_run(
    run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy_folder(tmp_path / "data", classes=16, per_class=3)  # 12 of the same names; 6 were for training
    assert main(["compare", str(run), str(other), "--data", f"folder:{data}"]) == 0
    captured = capsys.readouterr()
    assert "10 classes that none of the runs has seen, 30 queries" in captured.out
    assert "left out" in captured.err
    seen = tmp_path / "seen"
    shutil.copytree(data / "group0", seen / "group0")
    assert main(["compare", str(run), str(other), "--data", f"folder:{seen}"]) == 1
    assert "expected classes that the run was not trained on" in capsys.readouterr().err


def test_a_copy_of_a_run_is_equal_and_shares_its_indexes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    assert main(["compare", str(run), str(copy)]) == 0
    out = capsys.readouterr().out
    assert "copy and run are equal on every query" in out
    assert "An index made with run is searched with copy as it is" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}"], "runs: expected two or more, got 1; add a run to compare with"),
        (["{run}", "{run}"], "runs: expected each once, got"),
        (["{run}", "/no/such"], "/no/such: not a run directory"),
        (["{run}", "{other}", "--data", "folder:nowhere"], "folder:nowhere: folder not found"),
        (["{run}", "{other}", "--skip-bad-images"], "expected with --data"),
        (["{run}", "{other}", "-o", "page.txt"], "--output: expected a file that ends in .html, got page.txt"),
        (["{run}", "{other}", "--data", "glyphs", "cub"], "--data: expected one value, got glyphs cub"),
        ([], "run: expected a value, got none"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *(word.format(run=run, other=other) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "scores.json").unlink()
    assert main(["compare", str(run), str(copy)]) == 1
    assert (
        "the run is not finished (scores.json not found); resume it with `ccpml train --resume <run>`"
        in capsys.readouterr().err
    )

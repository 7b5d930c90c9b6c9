"""Every layout of the benchmarks, from a small copy to scores and tables."""

import json
from pathlib import Path

import pytest

from ccpml.cli import main
from tests.data.layouts import LAYOUTS
from tests.toy import QUICK

pytestmark = pytest.mark.usefixtures("preloaded", "no_pictures")

SETTINGS = {**QUICK, "backbone": "small_conv", "classes_per_batch": 2, "max_steps": 2}
FLAGS = [f"--{name}={value}" for name, value in SETTINGS.items()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_train_evaluate_and_benchmark(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path)
    monkeypatch.setenv("CCPML_DATA", str(tmp_path))
    assert main(["train", name, *FLAGS, "--run", str(tmp_path / "run")]) == 1
    assert "not as published" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

    assert main(["train", name, *FLAGS, "--allow-partial", "--run", str(tmp_path / "run")]) == 0
    assert ": partial, " in capsys.readouterr().err
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["partial"] is True
    assert scores["test"]["num_queries"] == (8 if name == "inshop" else 20)
    assert main(["evaluate", str(tmp_path / "run"), name, "--allow-partial"]) == 0
    assert "4 classes, 20 images" in capsys.readouterr().out

    command = ["benchmark", name, *FLAGS, "--allow-partial", "--out", str(tmp_path / "out"), "--at-once", "2"]
    assert main([*command, "--losses", "c2", "--methods", "ccp"]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "C2-CCP" in table
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["partial"] is True
    assert content["splits"]["test"] == {"classes": 4, "images": 20} or name == "inshop"
    assert content["rows"][0]["concatenated"]["map_at_r"]["count"] == 1


def test_training_from_a_cache_gives_the_scores_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache that keeps all pixels gives the same scores as the files, bit for bit."""
    LAYOUTS["sop"][1](tmp_path)
    monkeypatch.setenv("CCPML_DATA", str(tmp_path))
    run = ["train", "sop", *FLAGS, "--allow-partial", "--run"]
    assert main([*run, str(tmp_path / "files")]) == 0
    assert main(["data", "cache", "sop", "--allow-partial"]) == 0
    assert main([*run, str(tmp_path / "cache")]) == 0
    files, cache = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("files", "cache"))
    assert files["test"] == cache["test"]

"""What is done with a trained run: evaluate, embed, report."""

import json
from pathlib import Path

import numpy as np
import pytest

from ccpml.cli import main


def test_evaluate(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores.json"
    assert main(["evaluate", str(run), "--clusters", "-o", str(output)]) == 0
    expected = json.loads((run / "scores.json").read_text())["test"]
    record, out = json.loads(output.read_text()), capsys.readouterr().out
    assert f"MAP@R {expected['map_at_r']:.4f}" in out
    assert f"NMI {record['nmi']:.4f}, AMI {record['ami']:.4f} ({record['num_clusters']} clusters)" in out
    assert record["map_at_r"] == pytest.approx(expected["map_at_r"])
    assert main(["evaluate", str(run), "-o", str(output)]) == 2
    assert f"--output: {output} already exists" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--skip-bad-images", f"folder:{folder}"]) == 0
    assert "6 classes, 30 images" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--all-classes", f"folder:{folder}"]) == 0
    assert "12 classes, 60 images" in capsys.readouterr().out


def test_embed(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "embeddings.npz"
    assert main(["embed", str(run), f"folder:{folder}", "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: 60 embeddings\n"
    with np.load(output, allow_pickle=False) as file:
        assert file["embeddings"].shape == (60, 8)
        assert set(file.files) == {"embeddings", "labels", "paths", "class_names", "roles", "splits"}


def test_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").is_file()

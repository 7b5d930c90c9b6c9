"""What is done with a trained run: evaluate, embed, report."""

import json
from pathlib import Path

import numpy as np
import pytest

from ccpml import evaluate, train
from ccpml.cli import main
from ccpml.reranking import join
from ccpml.runs.inference import embed_normalized, rankings
from tests.toy import quick_settings


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
    assert main(["evaluate", str(run), "--all-classes"]) == 2
    assert "--all-classes: expected other data too; of its own, a run is scored on the test" in capsys.readouterr().err


@pytest.mark.parametrize(("roles", "size"), [(False, "12 classes, 60 images"), (True, "6 classes, 30 images")])
def test_all_classes_of_data_with_a_split(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], roles: bool, size: str
) -> None:
    rows = [",".join(["path", "label", "split", *(["role"] if roles else [])])]
    for file in sorted(folder.rglob("*.png")):
        is_test = int(file.parent.name[-2:]) >= 6
        role = "query" if file.stem == "0" else "gallery"
        fields = [str(file), file.parent.name, "test" if is_test else "train", role if is_test else ""]
        rows.append(",".join(fields[: 3 + roles]))
    (tmp_path / "list.csv").write_text("\n".join([*rows, ""]))
    assert main(["evaluate", str(run), f"csv:{tmp_path}/list.csv", "--all-classes"]) == 0
    captured = capsys.readouterr()
    assert size in captured.out
    assert ("scored on the test classes alone" in captured.err) is roles


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


def test_rankings_are_compared(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second, output = tmp_path / "second", tmp_path / "rankings.json"
    train(quick_settings(data=f"folder:{folder}", max_steps=2, seed=1), second, progress=False)
    calls = []
    monkeypatch.setattr(rankings, "embed_normalized", lambda *given: calls.append(given) or embed_normalized(*given))
    names = "k-reciprocal,query-expansion,augmentation"
    options = ["--rerank", names, "--dtype", "float16,int8", "--ensemble", str(second), "-o", str(output)]
    assert main(["evaluate", str(run), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 classes, 30 images"
    assert [line.split("|")[1].strip() for line in lines[4:-2]] == [
        str(run),
        *names.split(","),
        "float16",
        "float16, re-scored",
        "int8",
        "int8, re-scored",
        str(second),
        "ensemble of 2 runs",
    ]
    assert len(calls) == 2
    found = {each["name"]: each for each in json.loads(output.read_text())["rankings"]}
    for path in (run, second):  # the scores of the exact evaluation
        expected = json.loads((path / "scores.json").read_text())["test"]
        for name in ("map_at_r", "precision_at_1", "recall_at_8"):
            assert found[str(path)][name] == pytest.approx(expected[name], abs=1e-9)
    assert found["float16, re-scored"]["map_at_r"] == found[str(run)]["map_at_r"]
    assert [found[name]["bytes_per_image"] for name in (str(run), "float16", "int8", "ensemble of 2 runs")] == [
        32,
        16,
        8,
        64,
    ]
    with np.load(run / "embeddings" / "test.npz") as one, np.load(second / "embeddings" / "test.npz") as two:
        joint = join([one["embeddings"], two["embeddings"]])
        scores = evaluate(joint, one["labels"])
    assert found["ensemble of 2 runs"]["map_at_r"] == pytest.approx(scores.map_at_r, abs=1e-6)


def test_rankings_with_roles(run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted(folder.rglob("*.png"))
    lines = [
        f"{path},new {path.parent.name},{'query' if number % 5 == 0 else 'gallery'}"
        for number, path in enumerate(paths)
    ]
    (tmp_path / "roles.csv").write_text("\n".join(["path,label,role", *lines]))
    output = tmp_path / "rankings.json"
    data = f"csv:{tmp_path / 'roles.csv'}"
    assert main(["evaluate", str(run), data, "--dtype", "int8", "--rerank", "augmentation", "-o", str(output)]) == 0
    assert main(["evaluate", str(run), data]) == 0
    plain = json.loads(output.read_text())["rankings"][0]
    assert f"MAP@R {plain['map_at_r']:.4f}, P@1 {plain['precision_at_1']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rerank", "best"], "expected k-reciprocal, query-expansion, augmentation, separated by commas, got 'best'"),
        (["--dtype", "float32"], "expected float16, int8, separated by commas, got 'float32'"),
        (["--rerank", "augmentation", "--clusters"], "--clusters: expected without --rerank, --ensemble and --dtype"),
        (["--ensemble", "{run}"], "--ensemble: expected each once, got"),
        (["--dtype", "int8,int8"], "--dtype: expected each once, got int8,int8"),
        (["--ensemble", "nowhere"], "nowhere: not a run directory"),
    ],
)
def test_rankings_that_cannot_be(
    run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["evaluate", str(run), *(option.format(run=run) for option in options)]) == 2
    assert message in capsys.readouterr().err

import json

import pytest

from ccpml.cli import main
from ccpml.cli.benchmark import parse_benchmark
from tests.toy import QUICK, toy_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


FLAGS = [f"--{name}={value}" for name, value in QUICK.items()]


def test_a_table_and_a_longer_one(folder, tmp_path, capsys):
    """Finished cells are not trained again when a repeat is added; the table gains error bars."""
    arguments = [
        "benchmark",
        f"folder:{folder}",
        *FLAGS,
        "--losses",
        "c2",
        "--methods",
        "plain,ccp",
        "--max-steps",
        "2",
    ]
    arguments += ["--out", str(tmp_path / "out"), "--at-once", "2"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "C2-CCP" in out
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in out
    assert "±" not in table.partition("|")[2]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("scores.json")}
    assert len(times) == 4
    assert main([*arguments, "--repeats", "2", "--losses", "c2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "±" in (tmp_path / "out" / "table.md").read_text()
    for name in ("table.csv", "table.tex", "table.json"):
        assert (tmp_path / "out" / name).stat().st_size
    assert list((tmp_path / "out").glob("*.png"))


def test_an_ablation(folder, tmp_path, capsys):
    arguments = ["benchmark", f"folder:{folder}", *FLAGS, "--losses", "ms", "--ablation", "projections.strength=0,1e-4"]
    assert main([*arguments, "--max-steps", "2", "--out", str(tmp_path / "out"), "--at-once", "2"]) == 0
    assert "MS-CCP (projections.strength=0.0001)" in capsys.readouterr().out
    assert list((tmp_path / "out").glob("*.png"))
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert content["ablation"] == "strength"


def test_the_conventional_protocol_scores_the_last_step_too(folder, tmp_path, capsys):
    arguments = ["benchmark", f"folder:{folder}", *FLAGS, "--protocol", "conventional", "--losses", "c2"]
    arguments += ["--methods", "plain", "--embedding-dim", "16", "--pooling", "max", "--max-steps", "2"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    (cell,) = (tmp_path / "out" / "cells").rglob("scores.json")
    assert {"test", "test_last"} <= json.loads(cell.read_text()).keys()
    assert "last" in capsys.readouterr().out


def test_failed_cells_are_reported_in_the_end_and_the_others_go_on(folder, tmp_path, capsys):
    arguments = ["benchmark", f"folder:{folder}", *FLAGS, "--losses", "c2", "--methods", "plain", "--max-steps", "2"]
    arguments += ["--variant", "large:classes_per_batch=99", "--out", str(tmp_path / "out"), "--at-once", "2"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "a batch needs 99 classes and there are 3" in captured.err
    assert "C2" in captured.out


def test_options_of_the_protocol_yield_to_those_given():
    _, made = parse_benchmark(["glyphs", "--protocol=conventional", "--embedding-dim", "64"])
    assert (made.base.embedding_dim, made.base.pooling, made.folds) == (64, "avg+max", (0,))
    _, made = parse_benchmark(["glyphs", "--seed", "5", "--repeats", "2", "--folds", "3"])
    assert ({cell.settings.seed for cell in made.cells()}, made.folds) == ({5, 6}, (0, 1, 2))
    assert str(made.out) == "runs/benchmark/glyphs-mlrc"


def test_a_settings_file_may_name_the_protocol_but_nothing_that_cells_vary(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("protocol: conventional\nlr: 0.5\n")
    _, made = parse_benchmark(["glyphs", "--config", str(file)])
    assert (made.protocol, made.base.embedding_dim, made.base.score_last, made.base.lr) == (
        "conventional",
        512,
        True,
        0.5,
    )
    file.write_text("- lr\n")
    assert main(["benchmark", "glyphs", "--config", str(file)]) == 2
    assert f"--config: {file} holds no settings by their names" in capsys.readouterr().err
    file.write_text("loss: contrastive\n")
    assert main(["benchmark", "glyphs", "--config", str(file)]) == 2
    assert f"take loss out of {file}" in capsys.readouterr().err


def test_parameters_of_losses_that_are_not_the_first():
    _, made = parse_benchmark(["glyphs", "--losses", "c1,triplet,c2", "--margin", "0.3", "--methods", "plain"])
    assert {row.loss: cell.settings.margin for row in made.rows for cell in made.models(row, 0)} == {
        "cosine_contrastive": 0.3,
        "triplet": 0.3,
        "contrastive": None,
    }


def test_damaged_cells_are_made_again(folder, tmp_path, capsys):
    arguments = ["benchmark", f"folder:{folder}", *FLAGS, "--losses", "c2", "--methods", "plain", "--max-steps", "2"]
    arguments += ["--out", str(tmp_path / "out"), "--at-once", "2"]
    assert main(arguments) == 0
    table = (tmp_path / "out" / "table.json").read_text()
    first, second = sorted((tmp_path / "out" / "cells").rglob("scores.json"))
    first.write_text("damaged")
    (second.parent / "embeddings" / "test.npz").unlink()
    assert main(arguments) == 0
    assert (tmp_path / "out" / "table.json").read_text() == table
    (second.parent / "embeddings" / "test.npz").write_bytes(b"damaged")
    capsys.readouterr()
    assert main(arguments) == 1
    assert f"missing: {second.parent / 'embeddings' / 'test.npz'}: damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glyphs", "--losses", "c9"], "loss: expected one of contrastive (c2)"),
        (["glyphs", "--methods", "mine"], "methods: expected some of ccp"),
        (["glyphs", "--protocol", "fair"], "protocol"),
        (["glyphs", "--ablation", "colour"], "ablation: expected one of strength"),
        (["glyphs", "--ablation", "lr=fast"], "lr"),
        (["glyphs", "--variant", "x"], "variant: expected name:setting=value"),
        (["glyphs", "--variant", "a:lr=1", "--variant", "a:lr=2"], "--variant: each needs a name of its own"),
        (["glyphs", "--repeats", "0"], "--repeats: expected at least 1, got 0"),
        (["glyphs", "--fold", "1"], "--fold: the cells of a benchmark vary it"),
        (["glyphs", "--loss", "triplet"], "--loss: the cells of a benchmark vary it"),
        (["photos"], "unknown data 'photos'"),
        (["glyphs", "--devices", ","], "--devices: expected one or more"),
        (["glyphs", "--devices", "cpu,gpu0"], "--devices: expected some of auto, cpu, cuda, cuda:<number> and mps"),
        (["glyphs", "--devices", "cuda:77"], "--devices: cuda:77 is not here"),
        (
            ["glyphs", "--losses", "c2,ms", "--margin", "0.3"],
            "--margin: is no parameter of contrastive, multi_similarity",
        ),
        (["glyphs", "--ablation", "strength", "--variant", "a:lr=1"], "--variant: goes with a table"),
        (["glyphs", "--ablation", "strength", "--row-settings", "x"], "--row_settings: goes with a table"),
        (["glyphs", "--ablation", "strength", "--methods", "plain"], "has no effect with method plain"),
        (["glyphs", "--out="], "--out: expected a folder, got nothing"),
        (["glyphs", "--repeats", "x"], "--repeats: expected int, got something else"),
        (["glyphs", "--out", f"{__file__}/x"], f"{__file__}: expected a folder, got a file; choose another --out"),
        (["glyphs", "--at-once", "0"], "--at_once: expected at least 1, got 0"),
    ],
)
def test_wrong_usage(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())

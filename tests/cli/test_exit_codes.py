"""What the command line itself says wrong is exit code 2 with every verb, before heavy imports."""

import shutil
from pathlib import Path

import pytest

from ccpml.cli import VERBS, main
from tests.damage.states import bound_by_permissions

#: Arguments of each verb; RUN is a run directory (not a readable one), NOT does not exist, FILE is a text file.
MISSING = [
    *("train folder:NOT", "train csv:NOT.csv", "train --resume NOT", "train --config NOT", "train folder:FILE"),
    *("train groceries --weights NOT", "train cub --data-root NOT", "train csv:EMPTY", "train --resume EMPTY"),
    *("evaluate NOT", "evaluate RUN folder:NOT", "evaluate RUN csv:EMPTY", "evaluate EMPTY"),
    *("embed NOT groceries -o o.npz", "embed RUN folder:NOT -o o.npz", "embed RUN csv:NOT -o o.npz"),
    *("report NOT", "report EMPTY", "calibrate NOT", "calibrate RUN folder:NOT", "calibrate RUN folder:FILE"),
    *("index NOT EMPTY -o i", "index RUN NOT -o i", "index RUN folder:NOT -o i", "index RUN NOT.csv -o i"),
    *("index RUN csv:NOT.csv -o i", "index --verify NOT", "index --compact NOT", "index RUN EMPTY -o FILE"),
    *("search NOT q.jpg", "search EMPTY q.jpg", "serve NOT", "serve EMPTY"),
    *("benchmark folder:NOT", "benchmark groceries --row-settings NOT", "benchmark --config NOT"),
    *("tune folder:NOT --search lr=1e-4..1e-2", "tune --config NOT"),
    *("data check folder:NOT", "data cache csv:NOT --side 32", "data check cub --data-root NOT"),
    *("export NOT --format onnx", "clean NOT groceries", "clean RUN folder:NOT", "clean RUN csv:EMPTY"),
    *("compare NOT NOT2", "compare RUN NOT"),
]
CHOICES = ["data purge", "export RUN --format gif", "train groceries --method x", "search i q.jpg --dtype int4"]


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("RUN", "EMPTY"):
        Path(folder).mkdir()
    Path("RUN", "experiment.yaml").touch()
    Path("FILE").write_text("text")
    return tmp_path


@pytest.mark.parametrize("line", [line for line in MISSING if line.split()[0] in VERBS])
def test_a_path_that_does_not_exist_or_is_of_another_kind(line, words, capsys):
    assert main(line.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ccpml: error: ")
    assert any(name in error for name in ("NOT", "EMPTY", "FILE"))
    assert {path.name for path in words.iterdir()} == {"RUN", "EMPTY", "FILE"}


def test_each_verb_has_such_a_line():
    assert {line.split()[0] for line in MISSING} >= set(VERBS)


@pytest.mark.parametrize("line", CHOICES)
def test_a_value_that_is_none_of_the_choices(line, words, capsys):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert "expected " in error
    assert " or " in error
    assert "invalid choice" not in error


@pytest.mark.parametrize(
    "line",
    [
        *("train folder:GONE --run RO/new", "train --resume UNFINISHED", "train --resume RUN"),
        *("report RUN", "calibrate RUN", "calibrate RUN folder:GONE", "benchmark folder:GONE --out RO/new/b"),
        *("evaluate RUN -o RO/s.json", "embed RUN folder:GONE -o RO/new/e.npz", "index RUN GONE -o RO/i"),
        *("clean RUN folder:GONE -o RO/c", "compare RUN UNFINISHED -o RO/c.html"),
        "export RUN --format safetensors -o RO/e.safetensors",
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_any_image_is_looked_for(
    line, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "UNFINISHED"):
        shutil.copytree(run, name)
    (tmp_path / "UNFINISHED" / "scores.json").unlink()
    for name in ("RO", "GONE"):
        Path(name).mkdir()
    monkeypatch.setattr("ccpml.data.load_source", None)
    monkeypatch.setattr("ccpml.runs.images.load_source", None)
    for name in ("RO", "RUN", "UNFINISHED"):
        Path(name).chmod(0o555)
    try:
        with bound_by_permissions():
            code = main(line.split())
    finally:
        for name in ("RO", "RUN", "UNFINISHED"):
            Path(name).chmod(0o755)
    error = capsys.readouterr().err
    assert code in {1, 2}
    assert error.count("ccpml: error: ") == 1
    assert "cannot be written (Permission denied); choose another folder" in error or "not a writable folder" in error
    assert "note:" not in error

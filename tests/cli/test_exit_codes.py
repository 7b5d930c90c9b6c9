"""What the command line itself says wrong is exit code 2 with every verb, before heavy imports."""

from pathlib import Path

import pytest

from ccpml.cli import VERBS, main

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

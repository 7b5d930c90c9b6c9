"""The contestants of the benchmarks compute the same, and a row that cannot run explains why."""

import math

import pytest

from benchmarks.contestants import CONTESTANTS
from benchmarks.measure import print_table, run_row, versions
from benchmarks.retrieval import SETS, one_set, two_sets


@pytest.mark.parametrize("data", [one_set(400, 8, 60)(0), two_sets(150, 200, 8, 40)(0)], ids=["within", "gallery"])
def test_contestants_compute_the_same(data):
    expected = CONTESTANTS["ours"].run(data)
    assert 0.01 < expected < 1  # neither all wrong nor all right
    for name in ("topk", "faiss-metrics", "pml"):
        assert CONTESTANTS[name].run(data) == pytest.approx(expected, rel=1e-6)
    for name in ("matmul", "faiss"):
        assert math.isnan(CONTESTANTS[name].run(data))


def test_every_contestant_runs_on_a_set():
    assert {name for sample in SETS.values() for name in sample.contestants} == set(CONTESTANTS)


def test_failed_row_has_the_error_message():
    assert "No module named benchmarks.nonsense" in run_row("benchmarks.nonsense")
    assert run_row("benchmarks.retrieval", "--versions")["faiss-cpu"]


def test_tables_are_markdown(capsys):
    print_table(["seconds", "MiB"], {"ours": ["1.00", "7"], "another": "not installed"})
    assert capsys.readouterr().out.splitlines() == [
        "|  | seconds | MiB |",
        "|---|---|---|",
        "| ours | 1.00 | 7 |",
        "| another | not installed |  |",
    ]
    assert versions("no-such-package") == {}

"""The contestants of the benchmarks compute the same, and a row that cannot run explains why."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import heads
from benchmarks.contestants import CONTESTANTS
from benchmarks.measure import print_table, run_row, versions
from benchmarks.retrieval import SETS, one_set, two_sets
from ccpml.retrieval import evaluate


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


def test_heads_trains_each_kind_of_row_and_scores_the_starts(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(heads, "STEPS", 20)
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(16), 14)
    x = (rng.normal(size=(16, 160))[y] + 2 * rng.normal(size=(len(y), 160))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.savez(tmp_path / "toy.npz", embeddings=x, labels=y, class_names=np.array([f"{i:02}" for i in range(16)]))
    data = heads.FeatureSet.read(tmp_path / "toy.npz", "1?")  # 10 to 15 are for testing
    folds = [data.fold(number) for number in range(4)]
    assert (len(data.test.x), [len(validation.x) // 14 for _, validation in folds]) == (6 * 14, [3, 3, 2, 2])
    assert all(set(train.y.tolist()) == set(range(int(train.y.max()) + 1)) for train, _ in folds)
    features, start = (scores for _, scores in heads.starts(data))
    assert features.map_at_r == pytest.approx(100 * evaluate(data.test.x, data.test.y).map_at_r)
    score, embeddings = heads.train_head(data, "contrastive", "ccp", 1e-3, 0, 0)
    assert torch.equal(embeddings, heads.train_head(data, "contrastive", "ccp", 1e-3, 0, 0)[1])
    assert score >= heads.train_head(data, "contrastive", "ccp", 1e-12, 0, 0)[0] - 1e-3  # the best includes the start
    for loss, method in (("triplet", "xbm"), ("arcface", "plain")):
        assert heads.train_head(data, loss, method, 1e-3, 0, 0)[1].shape == embeddings.shape == (6 * 14, heads.DIM)
    assert start.joint_map_at_r > 100 / 6

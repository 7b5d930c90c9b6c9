"""cluster_scores against scikit-learn and pytorch-metric-learning, edge cases, and invalid input."""

import json
import signal
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccpml.retrieval import ClusterScores, cluster_scores
from ccpml.retrieval.clusters import nmi_and_ami


def groups(n=120, classes=6, dim=8, apart=20.0, seed=0):
    """Well separated clusters, one per class; every tenth sample is in the cluster of another class."""
    rng = np.random.default_rng(seed)
    clusters = np.arange(n) % classes
    labels = np.where(np.arange(n) % 10 == 0, (clusters + 1) % classes, clusters)
    centers = apart * np.eye(classes, dim)
    return (centers[clusters] + rng.normal(size=(n, dim)) / 10).astype(np.float32), labels, clusters


def scores_of_true_clusters(embeddings, labels, clusters):
    """Scores of the first seed for which k-means finds the clusters; from random points it may miss them."""
    expected, _ = nmi_and_ami(torch.from_numpy(labels), torch.from_numpy(clusters))
    for seed in range(200):
        scores = cluster_scores(embeddings, labels, seed=seed)
        if scores.nmi == pytest.approx(expected):
            return scores
    raise AssertionError("k-means never found the clusters")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 150), parts=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_nmi_and_ami_equal_scikit_learn(seed, n, parts):
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    rng = np.random.default_rng(seed)
    classes, clusters = (np.unique(rng.integers(0, k, n), return_inverse=True)[1] for k in parts)
    found = nmi_and_ami(torch.from_numpy(classes), torch.from_numpy(clusters))
    expected = [score(classes, clusters) for score in (normalized_mutual_info_score, adjusted_mutual_info_score)]
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_agrees_with_scikit_learn_and_pytorch_metric_learning():
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    embeddings, labels, clusters = groups(classes=2, dim=3)
    scores = scores_of_true_clusters(embeddings, labels, clusters)
    assert scores.nmi == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert scores.ami == pytest.approx(adjusted_mutual_info_score(labels, clusters))
    calculator = AccuracyCalculator(include=("NMI", "AMI"), device=torch.device("cpu"))
    theirs = calculator.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels))
    assert (scores.nmi, scores.ami) == pytest.approx((theirs["NMI"], theirs["AMI"]))


def test_depends_on_the_seed_alone_and_prints_nothing(capfd):
    embeddings, labels = np.random.default_rng(0).normal(size=(300, 4)), np.arange(300) % 60
    first = cluster_scores(embeddings, labels, seed=3)
    assert first == cluster_scores(torch.from_numpy(embeddings), torch.from_numpy(labels), seed=3)
    assert first != cluster_scores(embeddings, labels, seed=4)
    assert capfd.readouterr() == ("", "")


def test_k_means_uses_all_points():
    embeddings = np.random.default_rng(0).normal(size=(3000, 2)) / 100
    embeddings[1234] = 100
    alone = (np.arange(3000) == 1234).astype(int)  # a subsample would usually miss it
    assert [cluster_scores(embeddings, alone, seed=seed).nmi for seed in range(5)] == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e30, 1e150])
def test_shift_and_scale_do_not_matter(shift, scale):
    embeddings, labels, _ = groups(classes=2)
    expected = cluster_scores(embeddings, labels)
    found = cluster_scores((embeddings.astype(np.float64) + shift) * scale, labels)
    assert (found.nmi, found.ami) == pytest.approx((expected.nmi, expected.ami))


def test_edge_cases():
    points = np.random.default_rng(0).normal(size=(40, 5))
    assert cluster_scores(points, np.zeros(40, dtype=int)) == ClusterScores(1.0, 1.0, 1)
    assert cluster_scores(points, np.arange(40)) == ClusterScores(pytest.approx(1.0), pytest.approx(1.0), 40)
    assert cluster_scores(points[:1], np.array([-7])) == ClusterScores(1.0, 1.0, 1)
    assert cluster_scores(points, np.array([2**62] * 39 + [-(2**40)])).num_clusters == 2
    equal = cluster_scores(np.full((40, 5), 3.3), np.arange(40) % 4)
    assert (equal.nmi, equal.ami) == pytest.approx((0, 0), abs=1e-9)


def test_progress_ends_at_the_maximum_when_k_means_converges():
    embeddings, labels, _ = groups()
    seen = []
    cluster_scores(embeddings, labels, iterations=50, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50, 50)
    assert seen == sorted(set(seen))
    assert len(seen) < 20


def test_ctrl_c_interrupts():
    points = np.random.default_rng(0).normal(size=(500, 8))
    with pytest.raises(KeyboardInterrupt):
        cluster_scores(points, np.arange(500) % 50, progress=lambda *_: signal.raise_signal(signal.SIGINT))


def test_str_and_as_dict():
    scores = ClusterScores(nmi=0.5, ami=0.25, num_clusters=7)
    assert str(scores) == "NMI 0.5000, AMI 0.2500 (7 clusters)"
    assert json.loads(json.dumps(scores.as_dict())) == {"nmi": 0.5, "ami": 0.25, "num_clusters": 7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), np.arange(2)), r"labels: expected shape \(3,\)"),
        ((np.eye(3)[0], np.arange(3)), r"embeddings: expected shape \(N, d\)"),
        ((np.full((3, 2), np.nan), np.arange(3)), "embeddings: expected finite values, got nan in row 0"),
        ((np.eye(3), np.ones(3)), "labels: expected integers, got float64"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster_scores(*arguments)


def test_iterations_below_one():
    with pytest.raises(ValueError, match="iterations: expected an integer of at least 1, got 0"):
        cluster_scores(np.eye(3), np.arange(3), iterations=0)


def test_missing_faiss_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match="pip install faiss-cpu"):
        cluster_scores(np.eye(3), np.arange(3))

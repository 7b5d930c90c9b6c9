"""evaluate against the authors' results, the definition, pytorch-metric-learning, and invariants."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccpml.retrieval import evaluate, scoring

from . import oracle

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True, scope="module", params=[0, 2**62], ids=["tiles", "scan"])
def min_pairs_for_tiles(request):
    """Force each search, by tiles and by scan, for every size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_MIN_PAIRS_FOR_TILES", request.param)
        yield


def clusters(seed, n=60, classes=12, dim=6, noise=0.6):
    """Return random classes of unequal size, some of one sample, around random centers; no ties."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([rng.integers(0, classes, n - 1), [classes]])
    centers = rng.normal(size=(classes + 1, dim))
    return centers[labels] + noise * rng.normal(size=(n, dim)), labels


def grid(seed, n=70, dim=3, classes=9):
    """Return few distinct integer vectors, with many duplicates and equal distances."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 2, (n, dim)).astype(np.float32), rng.integers(0, classes, n)


def assert_equal_to_oracle(scores, expected, rtol=1e-12):
    for name in ("map_at_r", "precision_at_1", "r_precision"):
        assert getattr(scores, name) == pytest.approx(expected[name], rel=rtol)
    assert dict(scores.recall_at) == pytest.approx(expected["recall_at"], rel=rtol)
    assert (scores.num_queries, scores.num_skipped) == (expected["num_queries"], expected["num_skipped"])
    if scores.per_query is not None:
        found = [scores.per_query.map_at_r, scores.per_query.precision_at_1, scores.per_query.r_precision]
        np.testing.assert_allclose(found, expected["per_query"], rtol=rtol)


def test_golden(golden):
    file = golden("metrics")
    expected = file["A/scores"]
    scores = evaluate(file["A/emb"], file["A/lab"])
    found = [scores.map_at_r, scores.precision_at_1, scores.r_precision, scores.recall_at[1]]
    np.testing.assert_allclose(found, expected[[1, 2, 3, 4]], rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_within_a_set(seed):
    embeddings, labels = clusters(seed)
    scores = evaluate(embeddings, labels, per_query=True)
    assert_equal_to_oracle(scores, oracle.scores(embeddings, labels))
    assert scores.num_skipped >= 1


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_against_a_gallery(seed):
    embeddings, labels = clusters(seed, n=90)
    split = (embeddings[:40], labels[:40], embeddings[40:], labels[40:])
    scores = evaluate(*split, recall_at=(3, 1), per_query=True)
    assert_equal_to_oracle(scores, oracle.scores(*split, recall_at=(3, 1)))
    assert list(scores.recall_at) == [3, 1]


@pytest.mark.parametrize("chunk_elements", [1, 64, 500, 2000, 2**24])
@pytest.mark.parametrize("with_gallery", [False, True])
def test_ties_go_to_the_lower_index_for_every_chunk_size(chunk_elements, with_gallery):
    for seed in range(4):
        embeddings, labels = grid(seed)
        split = (embeddings[:30], labels[:30], embeddings[30:], labels[30:]) if with_gallery else (embeddings, labels)
        scores = evaluate(*split, per_query=True, chunk_elements=chunk_elements)
        assert_equal_to_oracle(scores, oracle.scores(*split))
        assert scores == evaluate(*split)  # bit for bit


@pytest.mark.parametrize("chunk_elements", [1, 3000, 20000])
def test_chunk_size_changes_no_bit(chunk_elements):
    embeddings, _ = grid(0, n=300, dim=8)
    labels = np.repeat([0, 1, 2, 3], [150, 100, 37, 13])
    expected = evaluate(embeddings, labels, per_query=True)
    found = evaluate(embeddings, labels, per_query=True, chunk_elements=chunk_elements)
    assert found == expected
    np.testing.assert_array_equal(found.per_query.map_at_r, expected.per_query.map_at_r)


def test_agrees_with_pytorch_metric_learning():
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    names = {
        "precision_at_1": "precision_at_1",
        "r_precision": "r_precision",
        "map_at_r": "mean_average_precision_at_r",
    }
    calculator = AccuracyCalculator(
        include=tuple(names.values()),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
    )
    for seed in range(3):
        embeddings, labels = (torch.from_numpy(a) for a in clusters(seed, n=300, classes=40))
        for split in ((embeddings, labels), (embeddings[:100], labels[:100], embeddings[100:], labels[100:])):
            expected, scores = calculator.get_accuracy(*split), evaluate(*split)
            for ours, name in names.items():
                assert getattr(scores, ours) == pytest.approx(expected[name], rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_permutation_invariance_without_ties(seed):
    embeddings, labels = clusters(seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    before = evaluate(embeddings, labels, per_query=True).per_query
    after = evaluate(embeddings[order], labels[order], per_query=True).per_query
    np.testing.assert_array_equal(after.map_at_r, before.map_at_r[order])


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_scores_are_consistent(seed):
    scores = evaluate(*grid(seed), recall_at=(1, 2, 5, 1000), per_query=True)
    assert scores.map_at_r <= scores.r_precision
    assert scores.precision_at_1 == scores.recall_at[1] <= scores.recall_at[2] <= scores.recall_at[5]
    assert scores.recall_at[1000] == 1
    assert scores.map_at_r == pytest.approx(np.nanmean(scores.per_query.map_at_r))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, exponent=st.integers(-100, 100))
def test_invariant_to_rotation_shift_and_scale(seed, exponent):
    embeddings, labels = clusters(seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    expected = evaluate(embeddings, labels)
    assert evaluate(embeddings @ rotation, labels) == expected
    assert evaluate(embeddings + 1000, labels) == expected
    assert evaluate(embeddings * 10.0**exponent, labels) == expected


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_perfect_clusters_score_one(seed):
    _, labels = clusters(seed)
    scores = evaluate(np.eye(13)[labels], labels)
    assert (scores.map_at_r, scores.precision_at_1, scores.r_precision) == (1, 1, 1)
    assert set(scores.recall_at.values()) == {1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_dtypes(dtype):
    embeddings = torch.from_numpy(clusters(0)[0]).to(dtype)
    labels = clusters(0)[1]
    expected = oracle.scores(embeddings.double().numpy(), labels)
    assert_equal_to_oracle(evaluate(embeddings.requires_grad_(), labels), expected)


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float64", "longdouble"])
def test_numpy_dtypes_and_layouts(dtype):
    embeddings, labels = grid(1)
    expected = evaluate(embeddings, labels)
    readonly = np.asfortranarray(embeddings.astype(dtype))[::-1]
    readonly.flags.writeable = False
    assert evaluate(readonly[::-1], labels.astype(np.uint8)) == expected
    assert evaluate(embeddings, np.stack([labels, labels], 1)[:, 0].astype(">i2")) == expected


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_collapsed_embeddings_keep_their_order_in_float32(spread):
    embeddings, labels = clusters(3, n=200, dim=32)
    collapsed = (np.ones(32) / 32**0.5 + spread * embeddings).astype(np.float32)
    assert_equal_to_oracle(evaluate(collapsed, labels), oracle.scores(collapsed, labels))


def test_all_vectors_equal():
    labels = np.array([0, 1, 1, 0, 0])
    for value in (0.0, 0.1, -7.3):
        scores = evaluate(np.full((5, 8), value, dtype=np.float32), labels, per_query=True)
        assert_equal_to_oracle(scores, oracle.scores(np.zeros((5, 8)), labels))


def test_huge_and_negative_class_ids_do_not_collide():
    embeddings = np.array([[0.0], [1.0], [5.0], [6.5]], dtype=np.float32)
    labels = np.array([2**62, 2**62 + 1, 2**62, 2**62 + 1])
    assert evaluate(embeddings, labels).precision_at_1 == 0
    assert evaluate(embeddings, np.array([-(2**40), -(2**40), 2**24, 2**24 + 1])).num_skipped == 2
    assert evaluate(embeddings, np.array([2**64 - 1, 2**64 - 1, 1, 1], dtype=np.uint64)).precision_at_1 == 1


def test_classes_of_only_queries_or_only_the_gallery():
    embeddings = torch.tensor([[0.0], [1.0], [2.0]])
    scores = evaluate(
        embeddings, torch.tensor([5, 99, -4]), torch.tensor([[0.1], [2.0]]), torch.tensor([5, 7]), per_query=True
    )
    assert (scores.num_queries, scores.num_skipped, scores.map_at_r) == (1, 2, 1.0)
    assert np.isnan(scores.per_query.map_at_r).tolist() == [False, True, True]


def test_nothing_is_excluded_from_a_gallery():
    embeddings, labels = clusters(0)
    assert evaluate(embeddings, labels, embeddings, labels).precision_at_1 == 1


def test_one_large_class_among_many_small_ones():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(2000, dtype=int), np.repeat(np.arange(1, 1001), 2)])
    calls = []
    scores = evaluate(
        rng.normal(size=(4000, 4)).astype(np.float32),
        labels,
        chunk_elements=2**22,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert scores.num_queries == 4000
    assert calls[-1] == (4000, 4000)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_progress_can_interrupt():
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(*clusters(0), progress=interrupt)


def test_input_is_not_modified():
    for scale in (1.0, 1e100):
        embeddings, labels = clusters(0)
        given = torch.from_numpy(scale * (embeddings + 1e3))
        before = given.clone()
        evaluate(given, labels)
        assert torch.equal(given, before)


def test_str_as_dict_and_pickle():
    scores = evaluate(*clusters(0), recall_at=(1, 10), per_query=True)
    record = json.loads(json.dumps(scores.as_dict()))
    assert list(record) == [
        "map_at_r",
        "precision_at_1",
        "r_precision",
        "recall_at_1",
        "recall_at_10",
        "num_queries",
        "num_skipped",
    ]
    assert f"MAP@R {scores.map_at_r:.4f}" in str(scores)
    assert f"{scores.num_skipped} skipped" in str(scores)
    assert "\n" not in str(scores)
    assert pickle.loads(pickle.dumps(scores)) == scores
    with pytest.raises(AttributeError):
        scores.map_at_r = 1.0


X, Y = np.eye(4, 3, dtype=np.float32), np.array([0, 0, 1, 1])
BAD = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], Y), r"embeddings: expected shape \(N, d\).*got \(3,\)"),
        ((X[:0], Y[:0]), r"embeddings: expected shape .*got \(0, 3\)"),
        ((X.astype(int), Y), r"embeddings: expected floating point, got int64"),
        ((torch.ones(4, 3, dtype=torch.complex64), Y), r"embeddings: expected floating point"),
        ((BAD, Y), r"embeddings: expected finite values, got nan in row 2"),
        ((np.where(np.isnan(BAD), -np.inf, BAD), Y), r"embeddings: expected finite values, got -inf in row 2"),
        ((X, Y[:3]), r"labels: expected shape \(4,\).*got \(3,\)"),
        ((X, Y[:, None]), r"labels: expected shape \(4,\).*got \(4, 1\)"),
        ((X, Y.astype(float)), r"labels: expected integers, got float64"),
        ((X, torch.ones(4)), r"labels: expected integers, got torch.float32"),
        ((X, Y, X), r"gallery_labels: expected together with gallery_embeddings"),
        ((X, Y, None, Y), r"gallery_embeddings: expected together with gallery_labels"),
        ((X, Y, X[:, :2], Y), r"gallery_embeddings: expected shape \(N, 3\).*got \(4, 2\)"),
        ((X, Y, X[:0], Y[:0]), r"gallery_embeddings: expected shape"),
        ((X, Y, BAD, Y), r"gallery_embeddings: expected finite values, got nan in row 2"),
        ((X, Y, X, Y[:2]), r"gallery_labels: expected shape \(4,\).*gallery_embeddings.*got \(2,\)"),
        ((X, Y, X, Y + 7), r"labels: expected a query whose class has another reference, got none among 4"),
        ((X, np.arange(4)), r"labels: expected a query whose class has another reference"),
        ((X[:1], Y[:1]), r"labels: expected a query whose class has another reference"),
        ((X, Y, None, None, (1, 0)), r"recall_at: expected an integer of at least 1, got 0"),
        ((X, Y, None, None, (1.5,)), r"recall_at: expected an integer of at least 1, got 1.5"),
        ((X, Y, None, None, 5), r"recall_at: expected integers, such as \(1, 2, 4\), got 5"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*arguments)


def test_chunk_elements_below_one():
    with pytest.raises(ValueError, match="chunk_elements: expected an integer of at least 1, got 0"):
        evaluate(X, Y, chunk_elements=0)


@pytest.mark.gpu
def test_same_on_the_gpu():
    for embeddings, labels in (grid(0), clusters(0)):
        expected = oracle.scores(embeddings, labels)
        on_device = torch.from_numpy(embeddings).cuda()
        assert_equal_to_oracle(evaluate(on_device, labels, per_query=True), expected)
        assert_equal_to_oracle(evaluate(on_device, torch.from_numpy(labels).cuda(), chunk_elements=999), expected)


@pytest.mark.parametrize("separation", [3e-4, 1e-4, 1e-5])
def test_tight_groups_in_float32_are_resolved(separation):
    """Groups of classes that almost coincide, as in a collapsing network: a float32 product would mix them."""
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(4, 1, 64)) / 8
    centers = (groups + separation * rng.normal(size=(4, 10, 64)) / 8).reshape(40, 1, 64)
    embeddings = (centers + 1e-3 * separation * rng.normal(size=(40, 5, 64))).reshape(200, 64).astype(np.float32)
    labels = np.repeat(np.arange(40), 5)
    scores = evaluate(embeddings, labels)
    assert scores.map_at_r == pytest.approx(oracle.scores(embeddings, labels)["map_at_r"], rel=1e-9)

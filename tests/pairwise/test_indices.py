"""Pairs and triplets given by index count exactly as in pytorch-metric-learning's own losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.reducers import SumReducer
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

from ccpml import ContrastiveLoss, CosineContrastiveLoss, MultiSimilarityLoss, TripletMarginLoss
from ccpml.method.normalize import lipschitz_normalize
from ccpml.pairwise.indices import sample_weights
from tests.synchronization import EACH_DEVICE, no_synchronization


def distance():
    return LpDistance(normalize_embeddings=False)


def mean_over_anchors(x, *arguments):
    pml = pml_losses.ContrastiveLoss(1 - 1e-5, 0.5, distance=CosineSimilarity(), reducer=SumReducer())
    return pml(x, *arguments) / len(x)


# Ours, and the same formula in pytorch-metric-learning: on φ-normalized vectors, or normalizing by itself.
SAME = {
    "contrastive": (ContrastiveLoss(0.2, 0.9), pml_losses.ContrastiveLoss(0.2, 0.9, distance=distance())),
    "triplet": (TripletMarginLoss(0.3), pml_losses.TripletMarginLoss(0.3, distance=distance())),
    "cosine contrastive": (CosineContrastiveLoss(0.5, normalize="l2"), mean_over_anchors),
    "multi-similarity": (MultiSimilarityLoss(2, 40, 0.5, normalize="l2"), pml_losses.MultiSimilarityLoss(2, 40, 0.5)),
}
each_loss = pytest.mark.parametrize("name", SAME)


def assert_same(name, x, labels, indices, y=None, ref_labels=None):
    ours, theirs = SAME[name]
    found = []
    for loss in (ours, theirs):
        leaves = [v.clone().requires_grad_() for v in (x, y) if v is not None]
        vectors = [lipschitz_normalize(v) for v in leaves] if loss is theirs else leaves
        value = loss(vectors[0], labels, indices, *(() if y is None else (vectors[1], ref_labels)))
        found.append([value.detach(), *torch.autograd.grad(value, leaves, materialize_grads=True)])
    torch.testing.assert_close(*found)


def sample(seed, size, dim=4, classes=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, dim, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (size,), generator=generator), generator


def random_tuple(generator, labels, ref_labels, length, count):
    """Pairs or triplets, some of them more than once."""
    if length == 4:
        a1, p, a2, n = lmu.get_all_pairs_indices(labels, ref_labels)
        parts = [(a1, p), (a2, n)]
    else:
        parts = [lmu.get_all_triplets_indices(labels, ref_labels)]
    rows = [torch.randint(max(1, len(part[0])), (count if len(part[0]) else 0,), generator=generator) for part in parts]
    return tuple(index[row] for part, row in zip(parts, rows, strict=True) for index in part)


@each_loss
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([3, 4]), st.integers(2, 30), st.booleans())
def test_equals_pml_with_the_same_indices(name, seed, length, count, within):
    x, labels, generator = sample(seed, 6)
    y, ref_labels, _ = sample(seed + 1, 9)
    references = () if within else (y, ref_labels)
    indices = random_tuple(generator, labels, None if within else ref_labels, length, count)
    assert_same(name, x, labels, indices, *references)


@each_loss
@pytest.mark.parametrize(
    "miner",
    [
        miners.MultiSimilarityMiner(),
        miners.TripletMarginMiner(),
        miners.BatchHardMiner(),
        miners.BatchEasyHardMiner(),
        miners.PairMarginMiner(),
        miners.UniformHistogramMiner(),
        miners.HDCMiner(),
        miners.EmbeddingsAlreadyPackagedAsTriplets(),
    ],
    ids=lambda miner: type(miner).__name__,
)
def test_equals_pml_with_the_same_miner(name, miner):
    x, _, _ = sample(0, 12)
    labels = torch.arange(12) // 3
    assert_same(name, x, labels, miner(x, labels))
    y, ref_labels, _ = sample(1, 9)
    if not isinstance(miner, miners.EmbeddingsAlreadyPackagedAsTriplets):
        assert_same(name, x, labels, miner(x, labels, y, ref_labels), y, ref_labels)


@each_loss
@pytest.mark.parametrize("length", [3, 4])
def test_no_indices_are_zero_with_zero_gradient(name, length):
    loss, (x, labels, _) = SAME[name][0], sample(0, 5)
    empty = (torch.zeros(0, dtype=torch.int64),) * length
    x.requires_grad_()
    value = loss(x, labels, empty)
    value.backward()
    assert value == 0
    assert x.grad.count_nonzero() == 0
    assert_same(name, x.detach(), labels, empty)


@each_loss
def test_all_pairs_given_by_index_are_the_loss(name):
    loss, (x, labels, _), (y, ref_labels, _) = SAME[name][0], sample(0, 12), sample(1, 9)
    torch.testing.assert_close(loss(x, labels, lmu.get_all_pairs_indices(labels)), loss(x, labels))
    pairs = lmu.get_all_pairs_indices(labels, ref_labels)
    torch.testing.assert_close(loss(x, labels, pairs, y, ref_labels), loss(x, labels, None, y, ref_labels))


def test_a_single_pair_counts():
    """Unlike in pytorch-metric-learning, where a tuple with at most one pair of each kind is 0."""
    x, labels, one = torch.eye(2, 4), torch.tensor([0, 0]), (torch.tensor([0]), torch.tensor([1]))
    none = (torch.zeros(0, dtype=torch.int64),) * 2
    assert SAME["contrastive"][1](x, labels, (*one, *none)) == 0
    torch.testing.assert_close(ContrastiveLoss()(x, labels, (*one, *none)), torch.tensor(2**0.5))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(name, dtype):
    loss, (x, labels, generator) = SAME[name][0], sample(0, 12)
    indices, x = random_tuple(generator, labels, None, 4, 9), x.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, labels, indices)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(x.double(), labels, indices).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.arange(3), r"indices_tuple: expected \(anchor, positive, negative\) or .*, got Tensor"),
        ((torch.arange(2),) * 2, "indices_tuple: expected .*, got a tuple of 2"),
        (([0], [1], [2]), r"indices_tuple\[0\]: expected a vector of integers, got list"),
        ((torch.ones(1),) * 3, r"indices_tuple\[0\]: expected a vector of integers, got torch.float32 \(1,\)"),
        (
            (torch.tensor([0]), torch.tensor([5]), torch.tensor([1])),
            r"indices_tuple\[1\]: expected rows 0..3, got 5..5",
        ),
        ((torch.tensor([-1]), torch.tensor([0]), torch.tensor([1])), r"indices_tuple\[0\]: .* got -1..-1"),
        ((torch.arange(2), torch.arange(1), torch.arange(2)), r"expected as many .*, got \[2, 1, 2\]"),
        ((torch.arange(2),) * 3 + (torch.arange(1),), r"expected as many .*, got \[2, 2, 2, 1\]"),
    ],
)
def test_wrong_indices_raise(indices, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveLoss()(torch.randn(4, 2), torch.arange(4), indices)


def test_anchors_and_references_have_different_ranges():
    x, y, index = torch.randn(2, 3), torch.randn(5, 3), torch.tensor([4])
    indices = (torch.tensor([0]), index, torch.tensor([1]), index)
    ContrastiveLoss()(x, torch.arange(2), indices, y, torch.arange(5))
    with pytest.raises(ValueError, match=r"indices_tuple\[2\]: expected rows 0..1, got 4..4"):
        ContrastiveLoss()(x, torch.arange(2), (*indices[:2], index, index), y, torch.arange(5))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([3, 4]), st.integers(0, 9), st.booleans())
def test_weights_of_samples_equal_pml(seed, length, count, anchors_only):
    x, labels, generator = sample(seed, 6)
    indices = random_tuple(generator, labels, None, length, count)
    expected = lmu.convert_to_weights(indices, labels, x.dtype, using_ref=anchors_only)
    torch.testing.assert_close(sample_weights(indices, x, anchors_only=anchors_only), expected)
    torch.testing.assert_close(sample_weights(None, x, anchors_only=anchors_only), torch.ones_like(expected))


def test_labels_are_not_needed_with_indices():
    x, y, labels = torch.randn(8, 4), torch.randn(6, 4), torch.arange(8) // 2
    pairs = lmu.get_all_pairs_indices(labels)
    for loss in (ContrastiveLoss(), TripletMarginLoss()):
        assert torch.equal(loss(x, None, pairs), loss(x, labels, pairs))
        assert torch.equal(loss(x, indices_tuple=pairs), loss(x, labels, pairs))
        across = (torch.tensor([0]), torch.tensor([1]), torch.tensor([2]), torch.tensor([5]))
        assert torch.equal(loss(x, None, across, ref_emb=y), loss(x, labels, across, y, torch.arange(6)))
    with pytest.raises(ValueError, match="labels: expected integers"):
        ContrastiveLoss()(x)


@each_loss
@pytest.mark.parametrize("device", EACH_DEVICE)
def test_triplets_given_by_index_do_not_synchronize(name, device):
    loss, x = SAME[name][0], torch.randn(6, 4, device=device, requires_grad=True)
    triplets = (torch.arange(5) % torch.tensor([[2], [3], [4]])).to(device)
    with no_synchronization(device):
        loss(x, None, tuple(triplets)).backward()
        sample_weights(tuple(triplets), x, anchors_only=True)
    assert x.grad.shape == (6, 4)

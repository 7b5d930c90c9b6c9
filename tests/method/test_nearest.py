"""Nearest positives: CCP compares a sample with the n nearest proxies of its class alone."""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.distances import DotProductSimilarity, LpDistance
from torch import distributed, nn

from ccpml import (
    CCPLoss,
    ContrastiveLoss,
    CosineContrastiveLoss,
    MultiSimilarityLoss,
    TripletMarginLoss,
)
from ccpml.method.nearest import farther_proxies
from ccpml.pairwise import engine
from tests.method.test_fast import definition_of
from tests.method.test_losses import each_loss
from tests.ranks import run_on_ranks
from tests.synchronization import NoSynchronization


def masked(loss, x, labels, proxies, n):
    """ℓ(e, q) in plain PyTorch with masks: the positives of a sample are its n nearest own proxies."""
    phi = lambda v: v / v.norm(dim=-1, keepdim=True).clamp(min=1)  # noqa: E731
    e, q = phi(x), phi(proxies.flatten(0, 1))
    own = labels[:, None] == torch.arange(len(proxies)).repeat_interleave(proxies.shape[1])  # (B, M)
    distances = (e[:, None] - q).square().sum(2).clamp(min=1e-30).sqrt()
    positive = own & (distances <= distances.masked_fill(~own, torch.inf).sort(1).values[:, n - 1 : n])
    s, zero = e @ q.T, distances.new_zeros(())
    mean = lambda terms: terms[terms > 0].mean() if (terms > 0).any() else zero  # noqa: E731
    if isinstance(loss, ContrastiveLoss):
        pull, push = distances - loss.pos_margin, loss.neg_margin - distances
        return mean(pull[positive]) + mean(push[~own])
    if isinstance(loss, CosineContrastiveLoss):
        return ((1 - s - 1e-5).relu() * positive + (s - loss.margin).relu() * ~own).sum() / len(x)
    if isinstance(loss, TripletMarginLoss):
        triplets = positive[:, :, None] & ~own[:, None]
        return mean((distances[:, :, None] - distances[:, None] + loss.margin)[triplets])
    pull = (torch.exp(loss.alpha * (loss.base - s)) * positive).sum(1)
    push = (torch.exp(loss.beta * (s - loss.base)) * ~own).sum(1)
    return (pull.log1p() / loss.alpha + push.log1p() / loss.beta).mean()


def setting(loss, classes=6, k=4, n=2, dtype=torch.float64, **options):
    """Return a criterion with the proxy term alone, and a batch with classes of one and of several samples."""
    torch.manual_seed(0)
    criterion = CCPLoss(copy.deepcopy(loss), classes, 3, k, 0.0, nearest_positives=n, **options).to(dtype)
    labels = torch.tensor([0, 0, 0, 1, 2, 2, classes - 1])
    return criterion, torch.randn(7, 3, dtype=dtype, requires_grad=True), labels


def value_and_gradients(value, *leaves):
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@each_loss
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("classes", [6, 200])
@pytest.mark.parametrize("block", [1, 2**17])  # blocks of 256 proxies or fewer, and one
@pytest.mark.parametrize("form", [copy.deepcopy, definition_of], ids=["fast", "definition"])
def test_equals_a_loss_with_masks(loss, n, classes, block, form, monkeypatch):
    monkeypatch.setitem(engine._BLOCK, "cpu", block)
    criterion, x, labels = setting(form(loss), classes=classes, n=n)
    expected = masked(loss, x, labels, criterion.proxies, n)
    found = value_and_gradients(criterion(x, labels), x, criterion.proxies)
    torch.testing.assert_close(found, value_and_gradients(expected, x, criterion.proxies), rtol=1e-9, atol=1e-11)
    assert found[0] != masked(loss, x, labels, criterion.proxies, 4)


@each_loss
def test_gradcheck(loss):
    criterion, x, labels = setting(loss)

    def of(x, proxies):
        return torch.func.functional_call(criterion, {"proxies": proxies}, (x, labels))

    torch.autograd.gradcheck(of, (x, criterion.proxies.detach().requires_grad_()), eps=1e-7, atol=1e-5)


@each_loss
@pytest.mark.parametrize("n", [4, 5])
def test_as_many_as_there_are_proxies_are_all(loss, n):
    found = []
    for number in (n, None):
        criterion, x, labels = setting(loss, n=number, dtype=torch.float32)
        found.append(value_and_gradients(criterion(x, labels), x, criterion.proxies))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 6), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=30, deadline=None)
def test_the_nearest_are_kept_and_of_ties_the_first(seed, n, k, dtype):
    n, generator = min(n, k - 1), torch.Generator().manual_seed(seed)
    # On a grid there are many ties, computed without rounding.
    x, proxies = (torch.randint(-2, 3, (*size, 2), generator=generator).to(dtype) for size in ((5,), (3, k)))
    labels, classes = torch.tensor([9, 4, 4, 2, 7]), torch.tensor([2, 4, 9])
    found = farther_proxies(x, labels, proxies, classes, n, lambda v: v)
    for sample, label, rows in zip(x.tolist(), labels.tolist(), found.tolist(), strict=True):
        if label == 7:  # its proxies are on another rank
            assert rows == [-1] * (k - n)
            continue
        place = classes.tolist().index(label)
        squared = [(sample[0] - p[0]) ** 2 + (sample[1] - p[1]) ** 2 for p in proxies[place].tolist()]
        order = sorted(range(k), key=lambda row: (squared[row], row))
        assert rows == [k * place + row for row in order[n:]]


def test_nearest_is_measured_after_normalization():
    far, near = [9.0, 1.0], [0.5, 0.6]  # far: nearer to the sample once both are on the unit sphere
    x, proxies = torch.tensor([[2.0, 0.0]]), torch.tensor([[far, near]])
    for normalize, kept in (("lipschitz", 0), (None, 1)):
        criterion = CCPLoss(CosineContrastiveLoss(normalize=normalize), 1, 2, 2, nearest_positives=1)
        criterion.proxies.data.copy_(proxies)
        criterion(x, torch.tensor([0])).backward()
        chosen = farther_proxies(x, torch.tensor([0]), proxies, torch.tensor([0]), 1, criterion.loss.normalized)
        assert chosen.item() == 1 - kept
        assert criterion.proxies.grad[0, 1 - kept].count_nonzero() == 0


@each_loss
def test_half_precision_is_computed_in_float32(loss):
    criterion, x, labels = setting(loss, dtype=torch.float32)
    half = x.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = criterion(half, labels)
    torch.testing.assert_close(under, criterion(half.float(), labels), rtol=0, atol=0)
    torch.testing.assert_close(
        under, masked(loss, half.float(), labels, criterion.proxies, 2), rtol=1e-4, atol=1e-5, check_dtype=True
    )


@each_loss
def test_among_the_classes_drawn(loss):
    criterion, x, labels = setting(loss, classes=30, class_rate=0.4)
    drawn = copy.deepcopy(criterion.class_sampler)(labels, criterion.classes)
    assert len(drawn) == 12
    expected = masked(loss, x, torch.searchsorted(drawn, labels), criterion.proxies[drawn], 2)
    expected = value_and_gradients(expected, x, criterion.proxies)
    found = value_and_gradients(criterion(x, labels), x, criterion.proxies)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def on_ranks(losses):
    found = []
    for loss in losses:
        whole, x, labels = setting(loss, classes=5)
        of_whole = value_and_gradients(whole(x, labels), x, whole.proxies)
        shard = copy.deepcopy(whole)
        shard.shard(distributed.group.WORLD)
        value, by_x, by_proxies = value_and_gradients(shard(x, labels), x, shard.proxies)
        found.append((of_whole, [value, by_x, by_proxies], [shard.classes.start, shard.classes.stop]))
    return found


def test_sharded_proxies():
    """On three ranks, of which one has a single class and the last sample's alone."""
    losses = [ContrastiveLoss(), CosineContrastiveLoss(), TripletMarginLoss(0.4), MultiSimilarityLoss()]
    losses += [definition_of(losses[2])]
    for of_rank in run_on_ranks(on_ranks, 3, losses):
        for (value, by_x, by_proxies), shard, (start, stop) in of_rank:
            expected = [value, by_x, by_proxies[start:stop]]
            torch.testing.assert_close(shard, expected, rtol=1e-9, atol=1e-11)


THEIRS = [
    (ContrastiveLoss(0.1, 0.6), pml_losses.ContrastiveLoss(0.1, 0.6, distance=LpDistance(normalize_embeddings=False))),
    (TripletMarginLoss(0.3), pml_losses.TripletMarginLoss(0.3, distance=LpDistance(normalize_embeddings=False))),
    (
        MultiSimilarityLoss(2, 40, 0.5),
        pml_losses.MultiSimilarityLoss(2, 40, 0.5, distance=DotProductSimilarity(normalize_embeddings=False)),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), THEIRS, ids=lambda loss: type(loss).__name__)
def test_losses_of_pytorch_metric_learning_equal_ours(ours, theirs):
    both = pml_losses.MultipleLosses([ours, theirs], weights=[0.25, 0.75])
    found = []
    for loss in (ours, theirs, both):
        criterion, x, labels = setting(loss)
        found.append(value_and_gradients(criterion(x, labels), x, criterion.proxies))
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-5, atol=1e-6)


def test_the_pair_term_has_all_its_positives():
    loss = TripletMarginLoss(0.3)
    criterion, x, labels = setting(loss)
    proxy_term = criterion(x, labels)
    criterion.pair_weight = 0.5
    torch.testing.assert_close(criterion(x, labels), 0.5 * loss(x, labels) + proxy_term)


@each_loss
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_step_does_not_synchronize(loss, rate, monkeypatch):
    monkeypatch.setattr("ccpml.method.checks.check_labels", lambda *args: None)
    criterion, x, labels = setting(loss, class_rate=rate, dtype=torch.float32)
    with NoSynchronization():
        criterion(x, labels).backward()
    assert x.grad.abs().sum() > 0


def test_an_empty_batch():
    criterion, *_ = setting(ContrastiveLoss())
    assert criterion(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)) == 0


@pytest.mark.parametrize("labels", [torch.uint8, torch.int32])
def test_labels_of_any_integer_dtype(labels):
    criterion, x, classes = setting(TripletMarginLoss(0.3))
    torch.testing.assert_close(criterion(x, classes.to(labels)), criterion(x, classes))
    pairs = torch.stack([classes, classes], 1)[:, 0]  # not contiguous
    torch.testing.assert_close(criterion(x, pairs), criterion(x, classes))


def test_numpy_integers_are_integers():
    criterion = CCPLoss(ContrastiveLoss(), 3, 2, 4, nearest_positives=np.int64(2))
    assert type(criterion.nearest_positives) is int
    assert "nearest_positives=2" in repr(criterion)
    assert torch.isfinite(criterion(torch.randn(2, 2), torch.tensor([0, 1])))


@pytest.mark.parametrize("n", [0, -1, 2.0, "all", True])
def test_anything_but_a_positive_integer_raises(n):
    with pytest.raises(ValueError, match="nearest_positives: expected an integer of at least 1, got"):
        CCPLoss(ContrastiveLoss(), 3, 2, 4, nearest_positives=n)


def constructed() -> dict[str, nn.Module]:
    """All losses of pytorch-metric-learning that need no argument."""
    found = {}
    for name in sorted(dir(pml_losses)):
        kind = getattr(pml_losses, name)
        if isinstance(kind, type) and issubclass(kind, pml_losses.BaseMetricLossFunction):
            with suppress(TypeError, KeyError):
                found[name] = kind()
    del found["BaseMetricLossFunction"]
    return found


THEIRS = constructed()


@pytest.mark.parametrize("name", THEIRS)
def test_a_loss_of_another_library_leaves_out_farther_proxies_or_is_refused(name):
    x, labels, values = torch.randn(24, 6), torch.arange(24) // 3, []
    try:
        CCPLoss(THEIRS[name], 8, 6, 3)
    except ValueError as error:
        refused = "expected a pair loss, which takes ref_emb"
        assert refused in str(error)  # noqa: PT017  # which losses these are is not ours to say
        return
    for n in (None, 1):
        torch.manual_seed(1)
        if n is not None and name == "NCALoss":
            with pytest.raises(ValueError, match="nearest_positives: expected None with NCALoss, which compares all"):
                CCPLoss(THEIRS[name], 8, 6, 3, nearest_positives=n)
            return
        criterion = CCPLoss(copy.deepcopy(THEIRS[name]), 8, 6, 3, nearest_positives=n, pair_weight=0)
        loss = criterion(x, labels)
        loss.backward()
        assert criterion.proxies.grad is not None  # a loss that takes references, but compares the batch alone
        values.append(loss.item())
    assert values[0] != values[1]


@pytest.mark.parametrize("name", [*THEIRS, "CCPLoss"])
def test_a_compiled_loss_is_refused_as_the_loss_is(name):
    def outcome(loss, **options):
        try:
            return str(CCPLoss(loss, 8, 6, 3, **options))
        except ValueError as error:
            return str(error)

    loss = THEIRS.get(name) or CCPLoss(ContrastiveLoss(), 8, 6, 3)
    compiled = torch.compile(loss, backend="eager")
    for options in ({}, {"nearest_positives": 1}):
        assert outcome(compiled, **options) == outcome(loss, **options)
        several = [pml_losses.MultipleLosses([pml_losses.ContrastiveLoss(), each]) for each in (compiled, loss)]
        refused = [outcome(each, **options) for each in several]
        assert refused[0] == refused[1] or all("CCPLoss(" in each for each in refused)


class OfTheBatchAlone(nn.Module):
    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        return torch.cdist(embeddings, embeddings).mean()


class OfNamesAlone(nn.Module):
    def forward(self, embeddings, labels, indices_tuple=None, *, ref_emb=None, ref_labels=None):
        return torch.cdist(embeddings, embeddings).mean()


class Decorated(nn.Module):
    @torch.autocast("cpu", enabled=False)
    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        return torch.cdist(embeddings, embeddings).mean()


class OfAllArguments(nn.Module):
    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        given = {name: value for name, value in locals().items() if name in {"embeddings", "ref_emb"}}
        return torch.cdist(given["embeddings"], given["ref_emb"]).mean()


def test_a_loss_that_never_reads_its_references_is_refused():
    CCPLoss(OfAllArguments(), 8, 6, 3)
    for loss in (OfTheBatchAlone(), OfNamesAlone(), Decorated()):
        with pytest.raises(ValueError, match=f"expected a pair loss, which takes ref_emb, got {type(loss).__name__}"):
            CCPLoss(loss, 8, 6, 3)
    with pytest.raises(ValueError, match="expected a pair loss, which takes ref_emb, got ThresholdConsistentMarginLos"):
        CCPLoss(pml_losses.ThresholdConsistentMarginLoss(), 8, 6, 3)


def test_most_losses_of_another_library_are_tried():
    assert len(THEIRS) >= 20

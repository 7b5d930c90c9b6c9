"""The derivatives in closed form equal those by autograd from the definitions."""

import copy

import pytest
import torch
from torch import nn

from ccpml import CCPLoss, ContrastiveLoss, TripletMarginLoss
from ccpml.pairwise import engine
from tests.method.test_losses import EDGES, each_loss

TOLERANCE = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 2e-6}}


def definition_of(loss):
    loss = copy.deepcopy(loss)
    loss.fast = None
    return loss


def assert_both_agree(loss, x, labels, *references):
    """Compare values and gradients; references are (y, ref_labels), or none."""
    found = []
    for way in (loss, definition_of(loss)):
        leaves = [v.detach().clone().requires_grad_() for v in (x, *references[:1])]
        value = way(leaves[0], labels, None, *leaves[1:], *references[1:])
        found.append([value.detach(), *torch.autograd.grad(3 * value, leaves)])
    assert found[0][0].dtype == found[1][0].dtype
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tolerance = {"rtol": 0.02, "atol": 1e-3} if x.dtype == torch.bfloat16 else TOLERANCE[dtype]
    torch.testing.assert_close(found[0][0], found[1][0], **TOLERANCE[dtype])
    torch.testing.assert_close(found[0][1:], found[1][1:], **tolerance)


@each_loss
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_edges(loss, edge, dtype):
    x, labels = EDGES[edge]
    assert_both_agree(loss, x.to(dtype), labels)
    assert_both_agree(loss, x.to(dtype), labels, x.to(dtype), labels)
    assert_both_agree(loss, x.to(dtype), labels, torch.randn(0, 8, dtype=dtype), labels[:0])
    assert_both_agree(loss, x.to(dtype), labels, torch.randn(5, 8, dtype=dtype), torch.tensor([0, 1, 1, 2, 9]))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 12, 400])  # 350, 58 and 2 positives an anchor
@pytest.mark.parametrize("block", [1, 2**17])  # many blocks, and one
def test_batch_against_proxies(loss, dtype, classes, block, monkeypatch):
    monkeypatch.setitem(engine._BLOCK, "cpu", block)
    x, y = torch.randn(6, 4, dtype=dtype) / 2, torch.randn(700, 4, dtype=dtype) / 2
    assert_both_agree(loss, x, torch.tensor([0, 0, 1, 1, 2, 500]), y, torch.arange(700) % classes)


@each_loss
@pytest.mark.parametrize("size", [1, 8, 40, 300])
@pytest.mark.parametrize("block", [1, 2**17])
def test_within_the_batch(loss, size, block, monkeypatch):
    monkeypatch.setitem(engine._BLOCK, "cpu", block)
    assert_both_agree(loss, torch.randn(size, 4, dtype=torch.float64) / 2, torch.arange(size) // 4)


@each_loss
@pytest.mark.parametrize("normalize", ["l2", None])
def test_other_normalizations(loss, normalize):
    loss = copy.deepcopy(loss)
    loss.normalize = normalize
    x = torch.randn(9, 4, dtype=torch.float64)
    assert_both_agree(loss, x, torch.arange(9) // 3, torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 4)


@each_loss
def test_within_ccp(loss):
    torch.manual_seed(1)
    fast = CCPLoss(loss, 7, 4, 3).double()
    plain, found = copy.deepcopy(fast), []
    plain.loss = definition_of(loss)
    x, labels = torch.randn(8, 4, dtype=torch.float64, requires_grad=True), torch.arange(8) // 2
    for criterion in (fast, plain):
        value = criterion(x, labels)
        found.append([value, *torch.autograd.grad(value, [x, criterion.proxies])])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


class Doubled(ContrastiveLoss):
    def loss(self, sums):
        return 2 * super().loss(sums)


class Quadratic(TripletMarginLoss):
    def accumulate(self, pairs):
        return super().accumulate(pairs) ** 2


class Renamed(TripletMarginLoss):
    """Redefines nothing of the equation."""

    def __init__(self):
        super().__init__(margin=0.3)

    def forward(self, *args, **options):
        return super().forward(*args, **options)


def test_a_subclass_that_redefines_the_equation_is_computed_by_its_own():
    x, labels = torch.randn(8, 4, requires_grad=True), torch.arange(8) // 2
    parent, child = ContrastiveLoss()(x, labels), Doubled()(x, labels)
    torch.testing.assert_close(child, 2 * parent)
    torch.testing.assert_close(torch.autograd.grad(child, x), torch.autograd.grad(2 * parent, x))
    assert not torch.allclose(Quadratic()(x, labels), TripletMarginLoss()(x, labels))


def test_an_instance_with_its_own_equation_is_computed_by_it():
    x, labels, loss = torch.randn(8, 4), torch.arange(8) // 2, ContrastiveLoss()
    loss.loss = lambda sums: sums.sum() * 0 + 7
    assert loss(x, labels) == 7


def test_a_subclass_that_keeps_the_equation_keeps_its_fast_form(monkeypatch):
    x, labels = torch.randn(8, 4, requires_grad=True), torch.arange(8) // 2
    expected = TripletMarginLoss(0.3)(x, labels)
    monkeypatch.setattr(TripletMarginLoss.fast, "gradient", lambda self, pairs, sums: torch.zeros_like(pairs.values))
    value = Renamed()(x, labels)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.grad(value, x)[0].count_nonzero() == 0  # computed by the fast form


def test_a_trained_margin_has_its_gradient():
    class TrainedMargin(ContrastiveLoss):
        def __init__(self, margin):
            super().__init__()
            self.neg_margin = nn.Parameter(torch.tensor(margin, dtype=torch.float64))

    x = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(8) // 2
    for criterion in (TrainedMargin(1.5), CCPLoss(TrainedMargin(1.5), 4, 4, 2)):
        criterion.double()(x, labels).backward()
        loss = criterion.loss if isinstance(criterion, CCPLoss) else criterion
        found, step = loss.neg_margin.grad.item(), 1e-6
        values = []
        for margin in (1.5 + step, 1.5 - step):
            loss.neg_margin.data.fill_(margin)
            values.append(criterion(x.detach(), labels).item())
        assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)
        assert found != 0

import pytest
import torch

from ccpml.pairwise import engine
from tests.method.test_losses import LOSSES, each_loss


def value_and_gradients(loss, x, labels, y, ref_labels):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = loss(x, labels, None, y, ref_labels)
    value.backward()
    return value.detach(), x.grad, y.grad


@each_loss
@pytest.mark.parametrize("kept", [0, 2**25])
def test_many_blocks_equal_one(loss, kept, monkeypatch):
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.randn(700, 6, dtype=torch.float64)
    labels, ref_labels = torch.tensor([0, 0, 3, 9, 70]), torch.arange(700) % 60  # 70 has no positive
    whole = value_and_gradients(loss, x, labels, y, ref_labels)
    monkeypatch.setattr(engine, "MAX_CACHED_VALUES", kept)
    monkeypatch.setitem(engine._BLOCK, "cpu", 1)  # the minimum: 256 references
    for one, other in zip(value_and_gradients(loss, x, labels, y, ref_labels), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.uses_positive_distances])
@pytest.mark.parametrize("positives", [3, 40])
def test_the_two_ways_to_count_triplets_agree(loss, positives, monkeypatch):
    x, y = torch.randn(6, 4), torch.randn(90, 4)
    labels, ref_labels = torch.arange(6) % 2, (torch.arange(90) >= positives).long() * 2
    ref_labels[positives + 1] = 1
    ways = []
    for few in (0, 100):
        monkeypatch.setattr("ccpml.method.losses.fast._SEARCH_THRESHOLD", few)
        ways.append(value_and_gradients(loss, x, labels, y, ref_labels))
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other)


@each_loss
def test_backward_can_be_called_twice(loss):
    x = torch.randn(4, 3, requires_grad=True)
    value = loss(x, torch.tensor([0, 0, 1, 1]))
    (once,) = torch.autograd.grad(value, x, retain_graph=True)
    (twice,) = torch.autograd.grad(2 * value, x)
    torch.testing.assert_close(twice, 2 * once)


@each_loss
def test_references_that_need_no_gradient_get_none(loss):
    x, y = torch.randn(4, 3, requires_grad=True), torch.randn(7, 3)
    loss(x, torch.tensor([0, 0, 1, 1]), None, y, torch.arange(7) % 2).backward()
    assert x.grad.abs().sum() > 0
    assert y.grad is None


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.uses_distances])
def test_the_gradient_is_zero_at_equal_vectors_and_not_beside_them(loss):
    x = torch.nn.functional.normalize(torch.randn(1, 128), dim=1)
    y = torch.cat([x + 1e-4 * torch.nn.functional.normalize(torch.randn(1, 128), dim=1), x, x])
    x.requires_grad_()
    y.requires_grad_()
    value = loss(x, torch.tensor([0]), None, y, torch.tensor([1, 1, 0]))
    value.backward()
    assert y.grad[1:].count_nonzero() == 0
    assert y.grad[0].norm() > 0.1

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.regularizers import SparseCentersRegularizer

from ccpml.baselines import SoftTripleLoss


def by_definition(x, labels, centers, scale, gamma, tau, margin):
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    x, centers = unit(x), unit(centers)
    classes, per_class, _ = centers.shape
    terms = []
    for e, y in zip(x, labels, strict=True):
        similar = []
        for c in range(classes):
            s = centers[c] @ e
            weight = np.exp(s / gamma) / np.exp(s / gamma).sum()
            similar.append(scale * (weight @ s - (margin if c == y else 0)))
        terms.append(-np.log(np.exp(similar[y]) / np.exp(similar).sum()))
    pairs = itertools.combinations(range(per_class), 2)
    spread = sum(np.sqrt(2 + 1e-5 - 2 * centers[c, j] @ centers[c, k]) for j, k in pairs for c in range(classes))
    divisor = classes * per_class * (per_class - 1)
    return np.mean(terms) + (tau * spread / divisor if per_class > 1 else 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
def test_equals_the_definition(seed, batch, classes, per_class):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(batch, 3)), rng.integers(0, classes, batch)
    options = {"scale": 5.0, "gamma": 0.3, "tau": 0.4, "margin": 0.1}
    loss = SoftTripleLoss(classes, 3, **options, centers_per_class=per_class).double()
    value = loss(torch.from_numpy(x), torch.from_numpy(labels))
    expected = by_definition(x, labels, loss.proxies.detach().numpy(), **options)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_pml_computes_the_same_with_its_regularizer_in_quadratic_memory():
    x, labels = torch.randn(9, 8, requires_grad=True), torch.arange(9)
    ours = SoftTripleLoss(10, 8, centers_per_class=3)
    for tau, regularizer in ((0.0, None), (0.2, SparseCentersRegularizer(10, 3))):
        theirs = pml_losses.SoftTripleLoss(
            10, 8, centers_per_class=3, weight_regularizer=regularizer, weight_reg_weight=tau
        )
        theirs.fc.data = ours.proxies.data.flatten(0, 1).T.clone()
        ours.tau = tau
        torch.testing.assert_close(ours(x, labels), theirs(x, labels), rtol=1e-5, atol=1e-5)  # its √ has 1e-7 for 1e-5


def test_gradients_of_both_terms_reach_the_centers():
    loss = SoftTripleLoss(4, 8, centers_per_class=2)
    loss(torch.randn(1, 8), torch.tensor([0])).backward()
    assert (loss.proxies.grad.flatten(1).norm(dim=1) > 0).all()
    alone = SoftTripleLoss(4, 8, centers_per_class=2, tau=0.5)
    alone(torch.randn(0, 8), torch.zeros(0, dtype=torch.int64)).backward()
    assert (alone.proxies.grad.norm(dim=2) > 0).all()  # the regularizer does not depend on the batch


def test_the_regularizer_works_within_classes():
    loss = SoftTripleLoss(11_318, 4, centers_per_class=10)  # (C K)² would be 51 GB
    value = loss(torch.randn(2, 4), torch.tensor([0, 11_317]))
    value.backward()
    assert torch.isfinite(loss.proxies.grad).all()


def test_initial_proxies_are_those_of_the_authors():
    proxies = SoftTripleLoss(50, 40, centers_per_class=8).proxies
    assert proxies.shape == (50, 8, 40)
    reference = torch.nn.init.kaiming_uniform_(torch.empty(40, 400), a=5**0.5)
    assert proxies.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=1e-2)
    assert proxies.std().item() == pytest.approx(reference.std().item(), rel=2e-2)


@pytest.mark.parametrize(
    "option", [{"scale": 0}, {"gamma": -1.0}, {"tau": -0.1}, {"tau": float("nan")}, {"margin": float("inf")}]
)
def test_parameters_out_of_range_raise(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: expected a finite number"):
        SoftTripleLoss(3, 4, **option)
    with pytest.raises(ValueError, match="centers_per_class: expected an integer of at least 1, got 0"):
        SoftTripleLoss(3, 4, centers_per_class=0)

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses

from ccpml.baselines import ProxyAnchorLoss
from tests.golden import assert_gradient


@pytest.mark.parametrize("proxies", ["proxies_4", "proxies_8"])
def test_golden(golden, proxies):
    file = golden("losses")
    x = torch.tensor(file["embeddings"], dtype=torch.float64, requires_grad=True)
    y = torch.tensor(file[proxies], dtype=torch.float64, requires_grad=True)
    ref_labels = torch.tensor(file[proxies.replace("proxies", "proxy_labels")])
    value = ProxyAnchorLoss(20, 128, margin=0.1, alpha=32)(x, torch.tensor(file["labels"]), None, y, ref_labels)
    value.backward()
    name = f"proxy_anchor_d0.1_a32/{proxies}"
    torch.testing.assert_close(value.item(), float(file[f"{name}/loss"]), rtol=1e-5, atol=1e-8)
    assert_gradient(x.grad, file[f"{name}/grad_embeddings"])
    assert_gradient(y.grad, file[f"{name}/grad_proxies"])


def by_definition(x, labels, proxies, proxy_labels, margin, alpha):
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    pull, push = [], []
    for p, c in zip(proxies, proxy_labels, strict=True):
        near = [np.exp(-alpha * (cosine(e, p) - margin)) for e, y in zip(x, labels, strict=True) if y == c]
        far = [np.exp(alpha * (cosine(e, p) + margin)) for e, y in zip(x, labels, strict=True) if y != c]
        pull += [np.log(1 + sum(near))] if near else []
        push.append(np.log(1 + sum(far)))
    return (np.mean(pull) if pull else 0) + np.mean(push)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9))
def test_equals_the_definition(seed, batch, references):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(batch, 3)), rng.integers(0, 3, batch)
    y, ref_labels = rng.normal(size=(references, 3)), rng.integers(0, 4, references)
    loss = ProxyAnchorLoss(4, 3, margin=0.2, alpha=9)
    value = loss(torch.from_numpy(x), torch.from_numpy(labels), None, torch.from_numpy(y), torch.from_numpy(ref_labels))
    assert value.item() == pytest.approx(by_definition(x, labels, y, ref_labels, 0.2, 9), rel=1e-9)


def test_pml_computes_the_same_with_one_proxy_per_class():
    x, labels = torch.randn(9, 8, requires_grad=True), torch.arange(9) // 2
    ours, theirs = ProxyAnchorLoss(10, 8), pml_losses.ProxyAnchorLoss(10, 8)
    theirs.proxies.data = ours.proxies.data[:, 0].clone()
    value, expected = ours(x, labels), theirs(x, labels)
    torch.testing.assert_close(value, expected)
    gradients = torch.autograd.grad(value, (x, ours.proxies)), torch.autograd.grad(expected, (x, theirs.proxies))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1][:, 0], gradients[1][1])


def test_large_exponents_do_not_overflow():
    x = torch.eye(4)[[0, 1]].requires_grad_()
    value = ProxyAnchorLoss(2, 4, alpha=1000)(x, torch.tensor([0, 1]), None, torch.eye(4)[[1, 0]], torch.tensor([0, 1]))
    value.backward()
    assert value.item() == pytest.approx(1000 * 0.1 + 1000 * 1.1)
    assert torch.isfinite(x.grad).all()


def test_initial_proxies_are_those_of_the_authors():
    torch.manual_seed(0)
    proxies = ProxyAnchorLoss(50, 400).proxies
    torch.manual_seed(0)
    expected = torch.nn.init.kaiming_normal_(torch.empty(50, 400), mode="fan_out")
    assert proxies.shape == (50, 1, 400)
    torch.testing.assert_close(proxies[:, 0].data, expected)


@pytest.mark.parametrize("option", [{"alpha": 0}, {"alpha": float("nan")}, {"margin": float("inf")}])
def test_parameters_out_of_range_raise(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: expected a finite number"):
        ProxyAnchorLoss(3, 4, **option)

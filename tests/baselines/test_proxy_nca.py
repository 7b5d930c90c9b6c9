import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from torch.nn.functional import cross_entropy, normalize

from ccpml.baselines import ProxyNCALoss
from tests.golden import assert_gradient


@pytest.mark.parametrize("proxies", ["proxies_4", "proxies_8"])
def test_golden(golden, proxies):
    file = golden("losses")
    x = torch.tensor(file["embeddings"], dtype=torch.float64, requires_grad=True)
    y = torch.tensor(file[proxies], dtype=torch.float64, requires_grad=True)
    ref_labels = torch.tensor(file[proxies.replace("proxies", "proxy_labels")])
    value = ProxyNCALoss(20, 128, temperature=0.11)(x, torch.tensor(file["labels"]), None, y, ref_labels)
    value.backward()
    name = f"proxy_nca_t0.11/{proxies}"
    torch.testing.assert_close(value.item(), float(file[f"{name}/loss"]), rtol=1e-5, atol=1e-8)
    assert_gradient(x.grad, file[f"{name}/grad_embeddings"])
    assert_gradient(y.grad, file[f"{name}/grad_proxies"])


def by_definition(x, labels, proxies, proxy_labels, temperature):
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    terms = []
    for e, y in zip(x, labels, strict=True):
        weights = np.array([np.exp(cosine(e, p) / temperature) for p in proxies])
        if (proxy_labels == y).any():
            terms.append(-np.log(weights[proxy_labels == y].sum() / weights.sum()))
    return np.mean(terms) if terms else 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9))
def test_equals_the_definition(seed, batch, references):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(batch, 3)), rng.integers(0, 3, batch)
    y, ref_labels = rng.normal(size=(references, 3)), rng.integers(0, 4, references)
    value = ProxyNCALoss(4, 3, temperature=0.3)(
        torch.from_numpy(x), torch.from_numpy(labels), None, torch.from_numpy(y), torch.from_numpy(ref_labels)
    )
    assert value.item() == pytest.approx(by_definition(x, labels, y, ref_labels, 0.3), rel=1e-9, abs=1e-12)


def test_the_authors_temperature_of_squared_distances():
    loss, x, labels = ProxyNCALoss(10, 8, temperature=1 / 18), torch.randn(9, 8), torch.arange(9)
    squared = torch.cdist(normalize(x), normalize(loss.proxies[:, 0])) ** 2
    torch.testing.assert_close(loss(x, labels), cross_entropy(-9 * squared, labels))


def test_pml_computes_the_same_while_its_softmax_does_not_underflow():
    x, labels = torch.randn(9, 8, requires_grad=True), torch.arange(9)
    ours, theirs = ProxyNCALoss(10, 8, temperature=0.11), pml_losses.ProxyNCALoss(10, 8, softmax_scale=1 / 0.22)
    theirs.proxies.data = ours.proxies.data[:, 0].clone()
    torch.testing.assert_close(ours(x, labels), theirs(x, labels))

    x, y, labels = torch.eye(4)[:2].requires_grad_(), torch.eye(4)[[1, 0]], torch.arange(2)  # each at the other's
    theirs, ours = pml_losses.NCALoss(softmax_scale=1 / 0.01), ProxyNCALoss(2, 4, temperature=0.005)
    assert theirs(
        x, labels, ref_emb=y, ref_labels=labels
    ).isnan()  # it skips samples whose softmax underflows: here all
    assert ours(x, labels, None, y, labels).item() == pytest.approx(200)
    torch.testing.assert_close(
        torch.autograd.grad(ours(x, labels, None, y, labels), x)[0].norm(dim=1), torch.full((2,), 100.0)
    )


def test_a_sample_without_a_positive_is_left_out():
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4)
    loss = ProxyNCALoss(2, 4)
    value = loss(x, torch.tensor([0, 1, 5]), None, y, torch.arange(2))
    torch.testing.assert_close(value, loss(x[:2], torch.tensor([0, 1]), None, y, torch.arange(2)))
    value.backward()
    assert x.grad[2].count_nonzero() == 0


def test_initial_proxies_are_those_of_the_authors():
    proxies = ProxyNCALoss(50, 400).proxies
    assert proxies.shape == (50, 1, 400)
    assert proxies.std().item() == pytest.approx(1 / 8, rel=0.02)


def test_parameters_out_of_range_raise():
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0, got 0"):
        ProxyNCALoss(3, 4, temperature=0)

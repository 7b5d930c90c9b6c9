import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.distances import LpDistance

from ccpml import (
    CCPLoss,
    ContrastiveLoss,
    CosineContrastiveLoss,
    CrossBatchMemory,
    MultiSimilarityLoss,
    ProxyAnchorLoss,
    TripletMarginLoss,
    covering_radius,
    greedy_k_center,
)
from ccpml.method.metric_loss import NORMALIZED_LENGTH
from ccpml.method.normalize import lipschitz_normalize
from tests.golden import assert_gradient

GOLDEN = {
    "contrastive_p0_n0.3841": ContrastiveLoss(0.0, 0.3841),
    "contrastive_p0.2652_n0.5409": ContrastiveLoss(0.2652, 0.5409),
    "original_contrastive_m0.5": CosineContrastiveLoss(0.5),
    "triplet_m0.0961": TripletMarginLoss(0.0961),
    "multi_similarity_a2_b40_l0.5": MultiSimilarityLoss(2, 40, 0.5),
}
LOSSES = list(GOLDEN.values())
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("references", ["pair", "proxies_4", "proxies_8"])
def test_golden(golden, name, references):
    file = golden("losses")
    x = torch.tensor(file["embeddings"], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(file["labels"])
    if references == "pair":
        value = GOLDEN[name](x, labels)
    else:
        y = torch.tensor(file[references], dtype=torch.float64, requires_grad=True)
        value = GOLDEN[name](x, labels, None, y, torch.tensor(file[references.replace("proxies", "proxy_labels")]))
    value.backward()
    torch.testing.assert_close(value.item(), float(file[f"{name}/{references}/loss"]), rtol=1e-5, atol=1e-8)
    assert_gradient(x.grad, file[f"{name}/{references}/grad_embeddings"])
    if references != "pair":
        assert_gradient(y.grad, file[f"{name}/{references}/grad_proxies"])


def by_definition(loss, x, labels, y, ref_labels, within):
    """The four equations as loops over pairs and triplets."""
    phi = lambda v: v / max(1.0, float(np.linalg.norm(v)))  # noqa: E731
    x, y = [phi(v) for v in x], [phi(v) for v in y]
    anchors = range(len(x))
    pos = {a: [j for j in range(len(y)) if ref_labels[j] == labels[a] and not (within and a == j)] for a in anchors}
    neg = {a: [j for j in range(len(y)) if ref_labels[j] != labels[a]] for a in anchors}
    dist = lambda a, j: float(np.linalg.norm(x[a] - y[j]))  # noqa: E731
    sim = lambda a, j: float(x[a] @ y[j])  # noqa: E731
    nonzero_mean = lambda terms: np.mean([t for t in terms if t > 0]) if any(t > 0 for t in terms) else 0.0  # noqa: E731
    if isinstance(loss, ContrastiveLoss):
        return nonzero_mean([dist(a, j) - loss.pos_margin for a in anchors for j in pos[a]]) + nonzero_mean(
            [loss.neg_margin - dist(a, j) for a in anchors for j in neg[a]]
        )
    if isinstance(loss, CosineContrastiveLoss):
        pull = sum(max(0.0, 1 - sim(a, j) - 1e-5) for a in anchors for j in pos[a])
        return (pull + sum(max(0.0, sim(a, j) - loss.margin) for a in anchors for j in neg[a])) / len(x)
    if isinstance(loss, TripletMarginLoss):
        triplets = [(a, p, n) for a in anchors for p, n in itertools.product(pos[a], neg[a])]
        return nonzero_mean([dist(a, p) - dist(a, n) + loss.margin for a, p, n in triplets])
    total = 0.0
    for a in anchors:
        total += np.log(1 + sum(np.exp(loss.alpha * (loss.base - sim(a, j))) for j in pos[a])) / loss.alpha
        total += np.log(1 + sum(np.exp(loss.beta * (sim(a, j) - loss.base)) for j in neg[a])) / loss.beta
    return total / len(x)


@each_loss
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9), st.booleans())
def test_equals_the_definition(loss, seed, batch, references, within):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(batch, 3)), rng.integers(0, 3, batch)
    y, ref_labels = (x, labels) if within else (rng.normal(size=(references, 3)), rng.integers(0, 4, references))
    given_refs = () if within else (None, torch.from_numpy(y), torch.from_numpy(ref_labels))
    value = loss(torch.from_numpy(x), torch.from_numpy(labels), *given_refs)
    assert value.item() == pytest.approx(by_definition(loss, x, labels, y, ref_labels, within), rel=1e-9, abs=1e-12)


def violations(alpha, beta, embeddings, references, sign):
    """ℓ(z_i, z_j) of the paper for pairs of one class (sign 1) or of different classes (sign −1), (n, m)."""
    distances = torch.cdist(lipschitz_normalize(embeddings), lipschitz_normalize(references))
    return (sign * (distances - beta) + alpha).relu()


def test_contrastive_terms_are_the_violations_of_the_paper():
    alpha, beta = 0.1, 0.7
    x, labels = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) // 3
    same = labels[:, None] == labels
    terms = [
        violations(alpha, beta, x, x, sign)[mask] for sign, mask in ((1, same & ~torch.eye(9).bool()), (-1, ~same))
    ]
    expected = sum(term.sum() / term.count_nonzero().clamp(min=1) for term in terms)
    torch.testing.assert_close(ContrastiveLoss(beta - alpha, beta + alpha)(x, labels), expected)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0, 3), st.sampled_from([1, -1]))
def test_violations_are_lipschitz_in_the_embedding(seed, scale, sign):
    """Lemma 4.1, with the constant 2 of φ."""
    generator = torch.Generator().manual_seed(seed)
    x, y, references = (torch.randn(8, 3, dtype=torch.float64, generator=generator) * scale for _ in range(3))
    change = violations(0.1, 0.7, x, references, sign) - violations(0.1, 0.7, y, references, sign)
    assert (change.abs() <= 2 * (x - y).norm(dim=1, keepdim=True) + 1e-9).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_covering_radius_bounds_the_error_of_proxies(sign):
    """Proposition 4.1: a violation of a sample differs by at most 2 δ_s from that of the proxy nearest to it."""
    points, others = torch.randn(5, 20, 3, dtype=torch.float64), torch.randn(30, 3, dtype=torch.float64)
    chosen = greedy_k_center(points, torch.zeros(5, 1, 3, dtype=torch.float64), 4)
    proxies = points.take_along_dim(chosen[:, :, None], dim=1)
    radii = covering_radius(points, proxies)
    for samples, centers, radius in zip(points, proxies, radii, strict=True):
        nearest = centers[torch.cdist(samples, centers).argmin(1)]
        error = violations(0.1, 0.7, samples, others, sign) - violations(0.1, 0.7, nearest, others, sign)
        assert error.abs().max() <= 2 * radius


@each_loss
def test_gradcheck(loss):
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(6, 3, dtype=torch.float64, generator=rng).mul_(0.7).requires_grad_()
    y = torch.randn(8, 3, dtype=torch.float64, generator=rng).mul_(0.7).requires_grad_()
    labels, ref_labels = torch.tensor([0, 0, 1, 1, 2, 5]), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), x)
    assert torch.autograd.gradcheck(lambda x, y: loss(x, labels, None, y, ref_labels), (x, y))


EDGES = {
    "no positive": (torch.randn(4, 8), torch.arange(4)),
    "no negative": (torch.randn(4, 8), torch.zeros(4, dtype=torch.int64)),
    "one sample": (torch.randn(1, 8), torch.zeros(1, dtype=torch.int64)),
    "empty batch": (torch.randn(0, 8), torch.zeros(0, dtype=torch.int64)),
    "duplicates": (torch.randn(1, 8).repeat(4, 1), torch.tensor([0, 0, 1, 1])),
    "zero vectors": (torch.zeros(4, 8), torch.tensor([0, 0, 1, 1])),
    "huge vectors": (torch.randn(4, 8) * 1e12, torch.tensor([0, 0, 1, 1])),
    "satisfied": (torch.eye(4, 8)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])),
}


@each_loss
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("against_proxies", [False, True])
def test_edges_are_finite(loss, edge, dtype, against_proxies):
    x, labels = EDGES[edge]
    x = x.to(dtype, copy=True).requires_grad_()
    y = x.detach().clone().requires_grad_()
    value = loss(x, labels, None, y, labels) if against_proxies else loss(x, labels)
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(value)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("loss", [ContrastiveLoss(0, 0.3), TripletMarginLoss(0.05)])
def test_duplicates_have_zero_gradient(loss):
    x = (
        torch.randn(1, 128).repeat(6, 1).requires_grad_()
    )  # all positives at distance 0, where the direction is undefined
    loss(x, torch.tensor([0, 0, 0, 1, 1, 1])).backward()
    assert x.grad.count_nonzero() == 0


@each_loss
def test_empty_terms_are_zero_with_zero_gradient(loss):
    x = torch.randn(1, 8, requires_grad=True)
    value = loss(x, torch.tensor([0]))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-7)
    assert x.grad.abs().max() < 1e-7


@each_loss
def test_autocast_computes_in_float32(loss):
    x, labels = torch.randn(8, 16) * 2, torch.arange(8) // 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = loss(x, labels)
    torch.testing.assert_close(under, loss(x, labels), rtol=0, atol=0)
    low = loss(x.bfloat16(), labels)
    torch.testing.assert_close(low, loss(x.bfloat16().float(), labels), rtol=0, atol=0)


@each_loss
def test_the_batch_as_its_own_reference_excludes_self(loss):
    x, labels = torch.randn(8, 4), torch.arange(8) // 2
    torch.testing.assert_close(loss(x, labels, None, x, labels), loss(x, labels))


def test_class_ids_beyond_float32_do_not_collide():
    x, big = torch.randn(4, 4), 2**24
    labels = torch.tensor([big, big, big + 1, big + 1])
    for loss in LOSSES:
        torch.testing.assert_close(loss(x, labels), loss(x, torch.tensor([0, 0, 1, 1])))


def test_pml_computes_the_same_triplet_and_multi_similarity():
    x, labels = torch.randn(16, 8), torch.arange(16) // 4
    phi = lipschitz_normalize(x)
    theirs = pml_losses.TripletMarginLoss(margin=0.1, distance=LpDistance(normalize_embeddings=False))
    torch.testing.assert_close(TripletMarginLoss(0.1)(x, labels), theirs(phi, labels))
    theirs = pml_losses.MultiSimilarityLoss(2, 40, 0.5)
    torch.testing.assert_close(MultiSimilarityLoss(2, 40, 0.5, normalize="l2")(x, labels), theirs(x, labels))


def test_normalize_none_changes_nothing():
    x, labels = torch.randn(8, 4) * 3, torch.arange(8) // 2
    loss = ContrastiveLoss(0.1, 9.0, normalize=None)
    assert loss(x, labels) != ContrastiveLoss(0.1, 9.0)(x, labels)
    torch.testing.assert_close(ContrastiveLoss(0.1, 0.9, normalize=None)(lipschitz_normalize(x), labels),
                               ContrastiveLoss(0.1, 0.9)(x, labels))  # fmt: skip


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("indices", [None, (torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([2, 3]))])
def test_without_normalization_values_are_exact_or_refused(loss, dtype, indices):
    """A loss of huge vectors is that of float64, until its values are out of range."""
    loss, labels = type(loss)(normalize=None), torch.tensor([0, 0, 1, 1])
    unit = torch.randn(4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for exponent in (0, 10, 13, 16):
        if exponent <= 13 or loss.uses_distances:
            x = (unit * 10.0**exponent).requires_grad_()
            value = loss(x, labels, indices)
            torch.testing.assert_close(value.double(), loss(x.double(), labels, indices), rtol=1e-5, atol=0)
            value.backward()
            assert torch.isfinite(x.grad).all()
    for exponent in (20, 37):
        with pytest.raises(ValueError, match=r"embeddings: expected .* with normalize=None, got components up to"):
            loss(unit * 10.0**exponent, labels, indices)
    assert torch.isnan(loss(unit * torch.nan, labels, indices))  # not finite before: as in torch


def test_triplet_memory_is_batch_times_references():
    """With thousands of positives per class, batch × positives × negatives would take 10 GB."""
    x, y = torch.randn(16, 2, requires_grad=True), torch.randn(20_000, 2, requires_grad=True)
    loss = TripletMarginLoss(0.1)
    value = loss(x, torch.zeros(16, dtype=torch.int64), None, y, torch.arange(20_000) % 2)
    value.backward()
    rows = slice(0, 400)
    few = loss(x, torch.zeros(16, dtype=torch.int64), None, y[rows], torch.arange(400) % 2).item()
    phi_x, phi_y = (lipschitz_normalize(v).detach().double() for v in (x, y[rows]))
    d = torch.cdist(phi_x, phi_y)
    terms = (d[:, 0::2, None] - d[:, None, 1::2] + 0.1).relu()
    assert few == pytest.approx((terms.sum() / (terms > 0).sum()).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(torch.ones(4, 2, dtype=torch.int64), torch.arange(4)), "embeddings: expected floating point"),
        (lambda f: f(torch.ones(4), torch.arange(4)), r"embeddings: .* got torch.float32 \(4,\)"),
        (lambda f: f(torch.ones(4, 2), torch.arange(3)), r"labels: expected integers \(4,\), got torch.int64 \(3,\)"),
        (lambda f: f(torch.ones(4, 2), torch.ones(4)), "labels: expected integers"),
        (
            lambda f: f(torch.ones(4, 2), torch.arange(4), None, torch.ones(3, 5), torch.arange(3)),
            r"ref_emb: .*\(n, 2\)",
        ),
        (
            lambda f: f(torch.ones(4, 2), torch.arange(4), None, torch.ones(3, 2), torch.arange(2)),
            r"ref_labels: .*\(3,\)",
        ),
        (lambda f: f(torch.ones(4, 2), torch.arange(4), None, torch.ones(3, 2)), "ref_emb, ref_labels: expected both"),
    ],
)
def test_wrong_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(TripletMarginLoss())


def test_unknown_normalization_raises():
    with pytest.raises(ValueError, match="normalize: expected 'lipschitz', 'l2' or None, got 'cosine'"):
        ContrastiveLoss(normalize="cosine")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveLoss(neg_margin=float("nan")), "neg_margin: expected a finite number, got nan"),
        (
            lambda: CCPLoss(TripletMarginLoss(), 2, 4, 2, -1),
            "pair_weight: expected a finite number >= 0, got -1",
        ),
        (lambda: TripletMarginLoss(float("inf")), "margin: expected a finite number, got inf"),
        (lambda: MultiSimilarityLoss(alpha=0), "alpha: expected a finite number > 0, got 0"),
        (
            lambda: MultiSimilarityLoss()([[1.0]], torch.arange(1)),
            r"embeddings: expected floating point \(n, d\), got list",
        ),
    ],
)
def test_wrong_parameters_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [ContrastiveLoss(), MultiSimilarityLoss()])
def test_second_order_gradients_raise(loss):
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="only first-order gradients"):
        torch.autograd.grad(loss(x, torch.tensor([0, 0, 1, 1])), x, create_graph=True)
    triplets = (torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([2, 0]))
    with pytest.raises(RuntimeError, match="only first-order gradients"):  # φ
        torch.autograd.grad(loss(x, torch.tensor([0, 0, 1, 1]), triplets), x, create_graph=True)


@pytest.mark.parametrize(
    "pair_loss",
    [
        CosineContrastiveLoss(),
        MultiSimilarityLoss(),
        TripletMarginLoss(),
        ContrastiveLoss(neg_margin=0),
        ContrastiveLoss(normalize="l2"),
    ],
)
def test_the_starting_length_of_normalized_embeddings_is_beyond_the_unit_ball(pair_loss):
    for loss in (pair_loss, CCPLoss(pair_loss, 3, 4, 2), CrossBatchMemory(pair_loss, 4, 2, 8), ProxyAnchorLoss(3, 4)):
        assert loss.starting_length == NORMALIZED_LENGTH
    assert CCPLoss(pml_losses.ContrastiveLoss(), 3, 4, 2).starting_length == NORMALIZED_LENGTH


@pytest.mark.parametrize(
    "pair_loss",
    [
        ContrastiveLoss(neg_margin=0.4),
        ContrastiveLoss(neg_margin=0.4, normalize=None),
        TripletMarginLoss(0.1, normalize=None),
    ],
)
def test_the_starting_length_follows_from_a_margin_that_is_a_distance(pair_loss):
    for loss in (pair_loss, CCPLoss(pair_loss, 3, 4, 2), CrossBatchMemory(pair_loss, 4, 2, 8)):
        assert mean_distance_at(loss.starting_length) == pytest.approx(0.4, rel=0.02)


def test_the_starting_length_without_a_margin_or_normalization_is_one():
    assert CosineContrastiveLoss(normalize=None).starting_length == 1
    assert ContrastiveLoss(0, 0, normalize=None).starting_length == 1
    assert TripletMarginLoss(0, normalize=None).starting_length == 1


def mean_distance_at(length):
    x = torch.randn(500, 128)
    return torch.pdist(x * length / x.norm(dim=1).mean()).mean().item()

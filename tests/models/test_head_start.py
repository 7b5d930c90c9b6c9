import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ccpml.distributed import own_rank
from ccpml.models import EmbeddingModel, SmallConv, closed_form_head, head_start, start_head
from tests.ranks import run_on_ranks


def samples(classes: int = 6, per_class: int = 20, dim: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features off the origin, and labels that are not 0..C − 1."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, 1, dim))
    x = 5 + (centers + 0.5 * rng.normal(size=(classes, per_class, dim))) @ rng.normal(size=(dim, dim))
    order = rng.permutation(classes * per_class)
    return x.reshape(-1, dim)[order], np.repeat(7 * np.arange(classes) - 3, per_class)[order]


def oracle(x, labels, dim: int, kind: str, length: float, shrinkage: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The definition, for data that vary along at least ``dim`` directions."""
    mean = x.mean(axis=0)
    _, _, rows = np.linalg.svd(x - mean, full_matrices=False)
    p = rows[:dim].T
    p = p * np.sign(p[np.abs(p).argmax(axis=0), np.arange(dim)])
    weight = p.T
    if kind == "whitening":
        s = np.zeros((dim, dim))
        for label in np.unique(labels):
            own = x[labels == label]
            for z in (own - own.mean(axis=0)) @ p:
                s += np.outer(z, z) / len(x)
        s += shrinkage * np.trace(s) / dim * np.eye(dim)
        weight = np.linalg.cholesky(np.linalg.inv(s)).T @ p.T
    weight = weight * length / np.linalg.norm((x - mean) @ weight.T, axis=1).mean()
    return weight, -weight @ mean


@pytest.mark.parametrize("kind", ["whitening", "pca"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, None)])
def test_layer_equals_numpy(kind, dtype, tolerance):
    values, labels = samples()
    features = torch.from_numpy(values).to(dtype)
    expected = oracle(features.double().numpy() if tolerance is None else values, labels, 4, kind, 0.3)
    weight, bias, own_kind, rank = closed_form_head(features, torch.from_numpy(labels), 4, kind, 0.3)
    assert weight.dtype == bias.dtype == torch.float64
    assert (own_kind, rank) == (kind, 4)
    np.testing.assert_allclose(weight, expected[0], rtol=tolerance or 1e-9, atol=1e-9)
    np.testing.assert_allclose(bias, expected[1], rtol=tolerance or 1e-9, atol=1e-8)


@pytest.mark.parametrize("kind", ["whitening", "pca"])
def test_parts_of_the_features_give_the_same_layer(monkeypatch, kind):
    values, labels = map(torch.from_numpy, samples())
    whole = closed_form_head(values, labels, 5, kind)
    monkeypatch.setattr(head_start, "_CHUNK_ELEMENTS", 7 * values.shape[1])
    parts = closed_form_head(values, labels, 5, kind)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(parts.bias, whole.bias, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("per_class", [3, 100])
def test_shrinkage_grows_with_dimensions_per_degree_of_freedom(per_class):
    values, labels = samples(per_class=per_class)
    expected = oracle(values, labels, 9, "whitening", 1, shrinkage=max(0.1, 9 / (6 * per_class - 6)))
    weight = closed_form_head(torch.from_numpy(values), torch.from_numpy(labels), 9, shrinkage="auto").weight
    np.testing.assert_allclose(weight, expected[0], rtol=1e-9, atol=1e-9)
    layer = nn.Linear(9, 9).double()
    start_head(layer, torch.from_numpy(values), torch.from_numpy(labels))
    torch.testing.assert_close(layer.weight, weight)


def test_a_large_offset_costs_no_precision():
    values, labels = map(torch.from_numpy, samples())
    near, far = (closed_form_head(values + offset, labels, 4) for offset in (0, 1e6))
    torch.testing.assert_close(far.weight, near.weight, rtol=1e-6, atol=1e-8)


def test_whitening_makes_the_within_class_scatter_rounder():
    values, labels = samples(classes=40, per_class=30, dim=30)
    x, y = torch.from_numpy(values), torch.from_numpy(labels)
    ratios = {}
    for kind in ("pca", "whitening"):
        weight, bias, *_ = closed_form_head(x, y, 10, kind)
        z = x @ weight.T + bias
        within = sum((z[y == c] - z[y == c].mean(0)).T @ (z[y == c] - z[y == c].mean(0)) for c in y.unique())
        values_within = torch.linalg.eigvalsh(within)
        ratios[kind] = values_within[-1] / values_within[0]
    assert 1 < ratios["whitening"] < 1.5 < ratios["pca"]


@pytest.mark.parametrize("kind", ["whitening", "pca"])
def test_fewer_images_than_dimensions(kind):
    values, labels = samples(classes=3, per_class=4, dim=30)
    x, y = torch.from_numpy(values), torch.from_numpy(labels)
    layer = closed_form_head(x, y, 20, kind, 0.5)
    assert layer.rank == 11  # 12 images less their mean
    expected = oracle(values, labels, 11, kind, 0.5)
    np.testing.assert_allclose(layer.weight[:11], expected[0], rtol=1e-7, atol=1e-9)
    z = x @ layer.weight.T + layer.bias
    assert z[:, 11:].abs().max() < 1e-9
    used, added = torch.linalg.svdvals(layer.weight[:11]), torch.linalg.svdvals(layer.weight[11:])
    torch.testing.assert_close(added, (used[-1] * (19 / 9) ** 0.5).expand(9))  # 19 unseen directions by 9
    assert (layer.weight[:11] @ layer.weight[11:].T).abs().max() < 1e-9
    assert used[0] / used[-1] < (11 / 0.1 + 1) ** 0.5  # the bound of the shrinkage
    state = torch.get_rng_state()
    assert torch.equal(closed_form_head(x, y, 20, kind, 0.5).weight, layer.weight)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["whitening", "pca"])
def test_more_dimensions_than_features_change_no_distance(kind):
    values, labels = samples()
    x, y = torch.from_numpy(values), torch.from_numpy(labels)
    full, wide = (closed_form_head(x, y, dim, kind) for dim in (9, 32))
    assert wide.weight.shape == (32, 9)
    assert (full.rank, wide.rank) == (9, 9)
    distances = [torch.cdist(*[x @ layer.weight.T + layer.bias] * 2) for layer in (full, wide)]
    torch.testing.assert_close(distances[1], distances[0], rtol=1e-9, atol=1e-7)
    assert (wide.weight.norm(dim=1) > 0.01 * wide.weight.norm()).all()


def test_classes_with_one_image_count_to_mean_and_directions_alone():
    values, labels = samples()
    labels[labels == 4] = 1000 + np.arange((labels == 4).sum())
    expected = oracle(values, labels, 4, "whitening", 1)
    layer = closed_form_head(torch.from_numpy(values), torch.from_numpy(labels), 4)
    np.testing.assert_allclose(layer.weight, expected[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("copies", [1, 3])
def test_classes_that_do_not_vary_are_projected(copies):
    values, _ = samples(dim=7)
    x, y = torch.from_numpy(values.repeat(copies, 0)), torch.arange(len(values)).repeat_interleave(copies)
    layer, linear = closed_form_head(x, y, 3), nn.Linear(7, 3)
    assert layer.kind == "pca"
    torch.testing.assert_close(layer.weight, closed_form_head(x, y, 3, "pca").weight)
    with pytest.warns(UserWarning, match="no class has two different images, so there is nothing to whiten; using pca"):
        assert start_head(linear, x, y).kind == "pca"


def test_two_images_are_enough():
    x, y = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 0.0]]), torch.tensor([0, 0])
    layer = closed_form_head(x, y, 8, length=2)
    assert layer.rank == 1
    z = x.double() @ layer.weight.T + layer.bias
    torch.testing.assert_close(z.norm(dim=1), torch.full((2,), 2.0).double())


def test_start_head_sets_the_layer_and_leaves_it_trainable():
    values, labels = map(torch.from_numpy, samples())
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        layer = nn.Linear(9, 4).to(dtype)
        start = start_head(layer, values.float(), labels, "pca", 0.25)
        torch.testing.assert_close(layer.weight, start.weight.to(dtype))
        torch.testing.assert_close(layer.bias, start.bias.to(dtype))
        assert layer.weight.requires_grad
        assert layer.bias.requires_grad
        assert layer.weight.grad_fn is None
    assert (values.double() @ start.weight.T + start.bias).norm(dim=1).mean().item() == pytest.approx(0.25, rel=1e-5)


def test_gradients_reach_all_of_a_layer_with_more_dimensions_than_images():
    values, labels = samples(classes=3, per_class=4, dim=30)
    x, layer = torch.from_numpy(values), nn.Linear(30, 20).double()
    start_head(layer, x, torch.from_numpy(labels))
    views = x.repeat(4, 1) + 0.1 * torch.randn(48, 30)  # as by augmentation
    torch.pdist(layer(views)).sum().backward()
    assert torch.linalg.matrix_rank(layer.weight.grad) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.ones(6)}, r"features: expected floating point \(n, d\), got torch.float32 \(6,\)"),
        ({"features": torch.ones(6, 3, dtype=torch.int64)}, "features: expected floating point"),
        ({"features": torch.ones(0, 3), "labels": torch.ones(0).long()}, "features: expected at least one row and col"),
        ({"features": torch.ones(6, 3)}, "features: expected images with different features, got the same for all 6"),
        ({"features": 1 + 1e-7 * torch.rand(6, 3)}, "features: expected images with different features"),
        ({"labels": torch.arange(5)}, r"labels: expected integers \(6,\), got"),
        ({"labels": torch.rand(6)}, "labels: expected integers"),
        ({"dim": 0}, "dim: expected .*at least 1, got 0"),
        ({"length": 0.0}, "length: expected a finite number > 0, got 0.0"),
        ({"shrinkage": 0.0}, "shrinkage: expected a finite number > 0, got 0.0"),
        ({"kind": "lda"}, "kind: expected 'whitening' or 'pca', got 'lda'"),
    ],
)
def test_invalid_arguments(changes, message):
    valid = {"features": torch.rand(6, 3), "labels": torch.arange(6) // 2, "dim": 2}
    with pytest.raises(ValueError, match=message):
        closed_form_head(**{**valid, **changes})


@pytest.mark.parametrize("row", [0, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite(row, value):
    features = torch.rand(6, 3)
    features[row, 1] = value
    with pytest.raises(ValueError, match=f"features: expected finite values, got {value} in row {row}"):
        closed_form_head(features, torch.arange(6) // 2, 2)


def test_layers_that_cannot_start():
    features, labels = torch.rand(6, 3), torch.arange(6) // 2
    with pytest.raises(ValueError, match=r"layer: expected nn\.Linear, got Identity"):
        start_head(nn.Identity(), features, labels)
    with pytest.raises(ValueError, match="layer: expected a weight that is a parameter, got a parametrized one"):
        start_head(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), features, labels)
    with pytest.raises(ValueError, match="layer: expected a linear layer with a bias, got none"):
        start_head(nn.Linear(3, 2, bias=False), features, labels)
    with pytest.raises(ValueError, match=r"features: expected floating point \(n, 5\), got torch.float32 \(6, 3\)"):
        start_head(nn.Linear(5, 2), features, labels)


def start_on_rank():
    values, labels = map(torch.from_numpy, samples())
    layer = nn.Linear(9, 4)
    start_head(layer, values * (1 + 1e-9 * own_rank()), labels)  # machines may round differently
    return layer.state_dict()


def test_all_ranks_have_the_layer_of_the_first():
    first, second = run_on_ranks(start_on_rank, 2)
    for name in ("weight", "bias"):
        assert torch.equal(first[name], second[name])


def test_state_of_a_model_with_a_bias():
    model = EmbeddingModel(SmallConv(3), 4, bias=True)
    assert {"linear.weight", "linear.bias"} <= model.state_dict().keys()


def test_no_warning_in_the_ordinary_case():
    values, labels = map(torch.from_numpy, samples())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert start_head(nn.Linear(9, 4), values, labels).kind == "whitening"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["whitening", "pca"])
def test_gpu_equals_cpu(kind):
    values, labels = map(torch.from_numpy, samples())
    expected, layer = closed_form_head(values, labels, 4, kind), closed_form_head(values.cuda(), labels, 4, kind)
    assert layer.weight.is_cuda
    torch.testing.assert_close(layer.weight.cpu(), expected.weight, rtol=1e-7, atol=1e-9)

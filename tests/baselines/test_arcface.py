import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses

from ccpml.baselines import ArcFaceLoss, SubCenterArcFaceLoss


def by_definition(x, labels, centers, margin, scale):
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    terms = []
    for e, y in zip(unit(x), labels, strict=True):
        angles = np.arccos(np.clip((unit(centers) @ e).max(axis=1), -1, 1))  # (C,), to the nearest center
        logits = np.cos(angles)
        within = angles[y] + margin <= math.pi
        logits[y] = np.cos(angles[y] + margin) if within else np.cos(angles[y]) - margin * math.sin(margin)
        terms.append(-np.log(np.exp(scale * logits[y]) / np.exp(scale * logits).sum()))
    return np.mean(terms)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 0.5, 2.0]))
def test_equals_the_definition(seed, batch, classes, per_class, margin):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(batch, 3)), rng.integers(0, classes, batch)
    loss = SubCenterArcFaceLoss(classes, 3, margin, scale=6, centers_per_class=per_class).double()
    value = loss(torch.from_numpy(x), torch.from_numpy(labels)).item()
    expected = by_definition(x, labels, loss.proxies.detach().numpy(), margin, 6)
    assert value == pytest.approx(expected, rel=1e-8, abs=1e-12)
    if per_class == 1:
        plain = ArcFaceLoss(classes, 3, margin, scale=6).double()
        plain.load_state_dict(loss.state_dict())
        assert plain(torch.from_numpy(x), torch.from_numpy(labels)).item() == value


def test_the_loss_rises_with_the_angle_past_half_a_turn_too():
    loss = ArcFaceLoss(2, 3, margin=0.5, scale=4).double()
    loss.proxies.data[:, 0] = torch.eye(3, dtype=torch.float64)[:2]
    angles = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.float64)
    x = torch.stack([angles.cos(), torch.zeros(200), angles.sin()], dim=1)  # at right angles to the other proxy
    values = torch.stack([loss(row[None], torch.tensor([0])) for row in x])
    assert (values.diff() > 0).all()


def test_pml_computes_the_same():
    x, labels = torch.randn(9, 8, requires_grad=True), torch.arange(9)
    for ours, theirs in (
        (ArcFaceLoss(10, 8), pml_losses.ArcFaceLoss(num_classes=10, embedding_size=8, margin=math.degrees(0.5))),
        (
            SubCenterArcFaceLoss(10, 8),
            pml_losses.SubCenterArcFaceLoss(num_classes=10, embedding_size=8, margin=math.degrees(0.5), sub_centers=3),
        ),
    ):
        theirs.W.data = ours.proxies.data.flatten(0, 1).T.clone()
        value, expected = ours(x, labels), theirs(x, labels)
        torch.testing.assert_close(value, expected)
        gradients = torch.autograd.grad(value, (x, ours.proxies)), torch.autograd.grad(expected, (x, theirs.W))
        torch.testing.assert_close(gradients[0][0], gradients[1][0])
        torch.testing.assert_close(gradients[0][1].flatten(0, 1).T, gradients[1][1])


def test_only_the_nearest_center_of_a_class_learns():
    loss = SubCenterArcFaceLoss(3, 8, centers_per_class=4)
    loss(torch.randn(1, 8), torch.tensor([1])).backward()
    assert ((loss.proxies.grad.norm(dim=2) > 0).sum(1) <= 1).all()


def test_initial_proxies_are_those_of_the_authors():
    assert ArcFaceLoss(50, 40).proxies.shape == (50, 1, 40)
    proxies = SubCenterArcFaceLoss(50, 40).proxies
    assert proxies.shape == (50, 3, 40)
    assert proxies.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("margin", [28.6, -0.1, float("nan"), math.pi])
def test_a_margin_outside_the_range_of_angles_raises(margin):
    for kind in (ArcFaceLoss, SubCenterArcFaceLoss):
        with pytest.raises(ValueError, match="margin: expected an angle in radians"):
            kind(3, 4, margin=margin)
        with pytest.raises(ValueError, match="scale: expected a finite number > 0, got 0"):
            kind(3, 4, scale=0)

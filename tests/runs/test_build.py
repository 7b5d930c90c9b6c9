"""The parts of a run: a training step on an accelerator, and the device of a run that was trained elsewhere."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from ccpml import AlternatingProjections
from ccpml.data import ImageTable
from ccpml.losses import LOSSES
from ccpml.runs.build import available_device, build_criterion, build_model, check_memory, evaluation_batches
from ccpml.training import MetricLearning
from tests.synchronization import EACH_DEVICE, no_synchronization
from tests.toy import quick_settings

CASES = [(loss, method, {}) for loss, entry in LOSSES.items() for method in entry.methods]
CASES += [(loss, "ccp", {"nearest_positives": 1, "class_rate": 0.5}) for loss in LOSSES if not LOSSES[loss].has_proxies]

SYNCHRONIZING = {
    ("triplet", "xbm"): r"_local_scalar_dense.*int64 \(\)\)",  # the largest count of positives in the memory
    ("arcface", "plain"): r"index.*bool",  # pytorch-metric-learning indexes by a mask
    ("subcenter_arcface", "plain"): r"index.*bool",
}


def train(model, settings, images, steps, device):
    """Train on the meta device or a GPU: forward, backward, pull, clipping and Adam, none of which may synchronize."""
    criterion = build_criterion(settings, 12)
    module, projections = MetricLearning(model, criterion, settings.lr), None
    if settings.method == "ccp":
        projections = AlternatingProjections(model, criterion)
        for move in (projections.start, projections.project):
            move(lambda: torch.randn(12, 4, settings.embedding_dim))
            projections.observe(0.5)
    module.to(device)
    if projections is not None:
        projections.pull()  # moves the anchor to the device, once
    optimizer = module.configure_optimizers()
    batch = images.to(device), torch.arange(6, device=device) // 2
    with no_synchronization(device):
        for step in range(steps):
            module.training_step(batch, step).backward()
            if projections is not None:
                projections.pull()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("device", EACH_DEVICE)
@pytest.mark.parametrize(("loss", "method", "options"), CASES)
def test_a_step_of_no_loss_synchronizes(loss, method, options, device):
    """Not with the device, but for those that are documented to."""
    settings = quick_settings(loss=loss, method=method, memory_start=0, **options).resolved()
    model, images = torch.nn.Linear(3, settings.embedding_dim), torch.zeros(6, 3)
    documented = SYNCHRONIZING.get((loss, method))
    with nullcontext() if documented is None else pytest.raises(AssertionError, match=documented):
        train(model, settings, images, 2 if method == "xbm" else 1, device)


@pytest.mark.parametrize("device", EACH_DEVICE)
@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("small_conv", {"freeze_batchnorm": True}),
        ("efficientnet_lite0", {"trained_stages": 1}),
        ("resnet50", {"freeze_batchnorm": True}),
        ("bn_inception", {"freeze_batchnorm": True}),
    ],
)
def test_a_step_of_no_backbone_synchronizes(backbone, options, device):
    settings = quick_settings(backbone=backbone, weights="none", **options).resolved()
    channels = 1 if backbone == "small_conv" else 3
    images = torch.zeros(6, channels, 64, 64, dtype=torch.uint8)
    train(build_model(settings, channels), settings, images, 1, device)


@pytest.mark.gpu
@pytest.mark.parametrize(("loss", "method"), dict.fromkeys(case[:2] for case in CASES))
def test_a_loss_on_a_gpu_equals_the_cpu(loss, method):
    settings = quick_settings(loss=loss, method=method, memory_start=0).resolved()
    criterion, batches = build_criterion(settings, 12), torch.randn(2, 6, settings.embedding_dim)
    results = []
    for device in ("cpu", "cuda"):
        own, leaf = copy.deepcopy(criterion).to(device), batches.to(device, copy=True).requires_grad_()
        values = torch.stack([own(batch, torch.arange(6, device=device) // 2) for batch in leaf])
        values.sum().backward()
        found = values.detach(), leaf.grad, *(weight.grad for weight in own.parameters())
        results.append([tensor.cpu() for tensor in found])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda:1", 1, "cuda"),
        ("cuda:1", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("mps", 0, "cpu"),
    ],
)
def test_the_device_of_a_run_that_was_trained_elsewhere(name, count, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert available_device(name) == torch.device(expected)
    table = ImageTable(np.zeros((2, 32, 32), np.uint8), np.array([0, 1]), ("a", "b"))
    batches = evaluation_batches(quick_settings(device=name).resolved(), table, 1)
    assert batches.pin_memory == expected.startswith("cuda")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 10**6}, r"image_size, .* got a batch of 8 images of 1000000 pixels"),
        ({"samples_per_class": 10**9}, r"samples_per_class: .* got a batch of 2000000000 images of 32 pixels"),
        ({"pool_size": 10**10}, r"pool_size: .* got a pool of 120000000000 embeddings"),
    ],
)
def test_sizes_that_fit_into_no_memory_are_named_at_once(changes, sentence):
    sizes = {"image_size": 32, "classes_per_batch": 2, "samples_per_class": 4, "pool_size": 12}
    check_memory(quick_settings(**sizes).resolved(), 12)
    check_memory(quick_settings(**{**sizes, "pool_size": 10**10, "ranks": 10**6}).resolved(), 12)
    with pytest.raises(ValueError, match=sentence):
        check_memory(quick_settings(**{**sizes, **changes}).resolved(), 12)

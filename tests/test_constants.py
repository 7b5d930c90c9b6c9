"""Models and losses made on the meta device have nothing that a checkpoint does not restore."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ccpml import CCPLoss, CrossBatchMemory
from ccpml.backbones import BACKBONES
from ccpml.losses import LOSSES
from ccpml.models import create_model

X, LABELS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) // 2
IMAGES = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def losses() -> dict[str, Callable[[], nn.Module]]:
    """Return how each loss is made, each pair loss also in CCP and with a memory."""
    found: dict[str, Callable[[], nn.Module]] = {}
    for name, entry in LOSSES.items():
        sizes: dict[str, Any] = {"num_classes": 4, "embedding_dim": 4} if entry.has_proxies else {}

        def plain(path: str = entry.path, sizes: dict[str, Any] = sizes) -> nn.Module:
            loss: nn.Module = resolve_name(path)(**sizes)
            return loss

        found[name] = plain
        if not entry.has_proxies:
            for rate in (1.0, 0.5):
                found[f"ccp-{name}-{rate}"] = lambda plain=plain, rate=rate: CCPLoss(plain(), 4, 4, 2, class_rate=rate)  # type: ignore[misc]
            found[f"xbm-{name}"] = lambda plain=plain: CrossBatchMemory(plain(), 4, 2, 8, start=1)  # type: ignore[misc]
    return found


def spoiled(make: Callable[[], nn.Module], state: dict[str, Tensor], assign: bool) -> nn.Module:
    """Return a module made without memory and loaded, where memory that was not loaded is NaN, or an odd number."""
    with torch.device("meta"):
        module = make()
    if assign:
        module.load_state_dict(state, assign=True)
        return module
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.fill_(torch.nan if tensor.is_floating_point() else 77)
    for part in module.modules():  # as ``to_empty`` does, for what it set again itself
        part._apply(lambda tensor: tensor, recurse=False)
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize("assign", [False, True], ids=["to_empty", "assign"])
@pytest.mark.parametrize("name", losses())
def test_losses(name: str, assign: bool) -> None:
    if LOSSES.get(name) and name in {"soft_triple", "subcenter_arcface", "arcface"}:
        pytest.importorskip("pytorch_metric_learning")
    make = losses()[name]
    torch.manual_seed(0)
    original = make()
    original(X, LABELS)  # fills a memory
    other = spoiled(make, {key: value.clone() for key, value in original.state_dict().items()}, assign)
    assert torch.equal(other(X, LABELS), original(X, LABELS))


@pytest.mark.parametrize("assign", [False, True], ids=["to_empty", "assign"])
@pytest.mark.parametrize("name", [name for name, entry in BACKBONES.items() if not entry.variants])
def test_models(name: str, assign: bool) -> None:
    def make() -> nn.Module:
        return create_model(name, embedding_dim=8).eval()

    torch.manual_seed(0)
    original = make()
    other = spoiled(make, original.state_dict(), assign)
    with torch.no_grad():
        assert torch.equal(other(IMAGES), original(IMAGES))
        torch.testing.assert_close(other.double()(IMAGES), original.double()(IMAGES))  # and on each change of dtype


def test_counters_without_a_checkpoint_begin_at_zero() -> None:
    with torch.device("meta"):
        memory = CrossBatchMemory(resolve_name(LOSSES["contrastive"].path)(), 4, 2, 8, start=1)
        sampled = CCPLoss(memory.loss, 4, 4, 2, class_rate=0.5)
    for module, names in ((memory, ("steps", "sizes")), (sampled, ("class_sampler.draws",))):
        module.to_empty(device="cpu")
        for name in names:
            assert not module.get_buffer(name).any()
    memory(X, LABELS)
    assert (memory.steps, memory.sizes.tolist()) == (1, [8, 0])

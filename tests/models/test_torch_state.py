"""What the caller has set in torch changes nothing within, and is there afterwards."""

import pytest
import torch
from torch import nn

from ccpml.models.torch_state import torch_defaults


def trained() -> torch.Tensor:
    with torch_defaults():
        torch.manual_seed(0)
        layer = nn.Linear(4, 2)
        layer(torch.rand(3, 4)).square().sum().backward()
        assert layer.weight.grad is not None
        return layer.weight.grad.clone()


def test_autocast_and_inference_mode_of_the_caller_change_nothing() -> None:
    expected = trained()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(trained(), expected)
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        assert torch.equal(trained(), expected)
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        assert torch.equal(trained(), expected)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_autocast_of_a_device_that_is_not_in_use_yet_ends_too(kind: str) -> None:
    torch.set_autocast_enabled(kind, True)
    try:
        with torch_defaults():
            assert not torch.is_autocast_enabled(kind)
        assert torch.is_autocast_enabled(kind)
    finally:
        torch.set_autocast_enabled(kind, False)

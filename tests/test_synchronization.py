"""What the other tests refuse as synchronizing, and that it is named."""

from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.synchronization import NoSynchronization, no_synchronization_on_gpu


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), x.new_zeros(())),
        lambda x: x.index_put_((x.new_zeros(4, dtype=torch.int64),), x.new_zeros(()), accumulate=True),
        lambda x: x.nonzero(),
        lambda x: x.long().bincount(),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: torch.equal(x, x),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_reading_is_refused(read, device):
    x = torch.ones(3, device=device)
    with NoSynchronization(device), pytest.raises(AssertionError, match=f"aten.*{device}.* in no autograd node"):
        read(x)


@pytest.mark.parametrize(
    "copy",
    [
        lambda x, host: host.to("meta"),
        lambda x, host: x.to("cpu"),
        lambda x, host: x.copy_(host),
        lambda x, host: torch.tensor([1.0], device=x.device),
    ],
)
def test_a_copy_between_host_and_device_is_refused(copy):
    x, host = torch.ones(3, device="meta"), torch.ones(3)
    with NoSynchronization("meta"), pytest.raises(AssertionError, match=r"_to_copy|copy_|copies"):
        copy(x, host)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_synchronize_is_allowed(device):
    x, index = torch.ones(3, 2, device=device, requires_grad=True), torch.zeros(4, dtype=torch.int64, device=device)
    with NoSynchronization(device):
        values = x[index] * 2 + x.double().repeat_interleave(2, 0)[:4] + torch.tensor(1.0)
        torch.where(values > 0, values, 0).topk(1).values.sum().backward()
        torch.zeros_like(x).index_put_((index, index % 2), x.new_ones(()))
        if device == "meta":
            torch.ones(3).sum().item()  # the host's own
    assert x.grad.shape == (3, 2)


def test_the_copy_of_a_gradient_to_the_host_is_refused_and_named():
    leaf = torch.ones(3, requires_grad=True)
    value = leaf.to("meta").sum()
    with NoSynchronization("meta"), pytest.raises(AssertionError, match=r"_to_copy.*meta.* in ToCopyBackward0"):
        value.backward()


class Refusing(TorchDispatchMode):
    """As torch refuses an operation under ``set_sync_debug_mode("error")``."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            raise RuntimeError("called a synchronizing CUDA operation")
        return function(*args, **(kwargs or {}))


def fail(message, *_):
    raise RuntimeError(message)


def test_what_a_gpu_refuses_is_named():
    modes = []
    with (
        patch("torch.cuda.get_sync_debug_mode", return_value=0),
        patch("torch.cuda.set_sync_debug_mode", modes.append),
    ):
        value = torch.ones(3, requires_grad=True).double().sum()
        named = r"aten._to_copy.default\(cpu float64 \(3,\)\) in ToCopyBackward0"
        with Refusing(), pytest.raises(AssertionError, match=named), no_synchronization_on_gpu():
            value.backward()
        unnamed = r"in no operation; the last one was aten.add.Tensor\(cpu float32"
        with pytest.raises(AssertionError, match=unnamed), no_synchronization_on_gpu():
            fail("called a synchronizing CUDA operation", torch.ones(2).add(1))
        with pytest.raises(RuntimeError, match="another"), no_synchronization_on_gpu():
            fail("another")
    assert modes == ["error", 0] * 3

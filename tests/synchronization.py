"""Refuse operations for which the host would wait for an accelerator: on any machine, and on a CUDA device."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "multinomial"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
"""Operations of which the host reads the result, or its shape, on a CUDA device."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that count what a mask selects. Those that accumulate check the range of the indices, in some versions of
torch by reading it, unless they are part of the gradient of an index."""


class NoSynchronization(TorchDispatchMode):
    """Raise AssertionError, with the operation and its autograd node, where the host would wait for an accelerator.

    The accelerator is simulated by the CPU, whose tensors have values, or by the meta device, whose tensors have none,
    but where copies between the host and the device are found too. Both cover ``backward``.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device

    def __enter__(self):
        self._patches = ExitStack()
        for name, replaced in (_CPU if self.device == "cpu" else _META).items():
            self._patches.enter_context(patch(name, replaced))
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        reads = any(x.device.type == self.device for x in tensors) and _reads(function, args, kwargs)
        if reads or _copies(function, args, kwargs):
            raise AssertionError(_described(function, tensors))
        return function(*args, **kwargs)


EACH_DEVICE = ["meta", pytest.param("cuda", marks=pytest.mark.gpu)]
"""Parameters of a test that uses `no_synchronization`."""


def no_synchronization(device: str) -> AbstractContextManager[Any]:
    """Raise AssertionError where the host would wait for a device: the CPU, meta, or a CUDA device that is there."""
    return no_synchronization_on_gpu() if device == "cuda" else NoSynchronization(device)


@contextmanager
def no_synchronization_on_gpu() -> Iterator[None]:
    """Raise AssertionError, with the operation and its autograd node, where the host waits for a CUDA device.

    torch alone says in which Python frame; an operation of ``backward`` is in none.
    """
    before, named = torch.cuda.get_sync_debug_mode(), _Named()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # once: the mode does not detect everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        with named:
            yield
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        raise AssertionError(f"{error}, in no operation; the last one was {named.last}") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _Named(TorchDispatchMode):
    """Name the operation that torch refuses as synchronizing."""

    last = "none"

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.last = _described(function, _tensors((args, kwargs)))
        try:
            return function(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            raise AssertionError(self.last) from error


def _reads(function: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host reads values: those of the result, or the number of elements that a mask selects."""
    name = function.overloadpacket.__name__
    if name in INDEXING:
        accumulates = name != "index" and (args[3] if len(args) > 3 else kwargs.get("accumulate", False))
        masked = any(x is not None and x.dtype in {torch.bool, torch.uint8} for x in args[1])
        return masked or (accumulates and not _node().startswith("IndexBackward"))
    return name in READING or (name == "repeat_interleave" and kwargs.get("output_size") is None)


def _copies(function: Any, args: Any, kwargs: Any) -> bool:
    """Whether a tensor is copied between the host and the device."""
    name = function.overloadpacket.__name__
    if name == "_to_copy":
        target = kwargs.get("device")
        return target is not None and torch.device(target).type != args[0].device.type
    return name == "copy_" and args[0].device.type != args[1].device.type


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _described(function: Any, tensors: list[Tensor]) -> str:
    inputs = ", ".join(f"{x.device.type} {str(x.dtype)[6:]} {tuple(x.shape)}" for x in tensors)
    return f"{function}({inputs}) in {_node()}"


def _node() -> str:
    """Return the name of the autograd node whose backward is running."""
    node = torch._C._current_autograd_node()
    return "no autograd node" if node is None else node.name()


def _from_values(make: Any) -> Any:
    """Refuse values of the host for a tensor on the device, which are a copy."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is not None and torch.device(device).type == "meta":
            raise AssertionError(f"torch.{make.__name__}({data}, device='meta') copies from the host")
        return make(data, *args, device=device, **kwargs)

    return made


class _Autocast(torch.autocast):
    """Also for the meta device, where it does nothing."""

    def __new__(cls, device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else super().__new__(cls)


class _Generator(torch.Generator):
    """Also for the meta device, where one of the CPU is taken."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu" if torch.device(device).type == "meta" else device)


_CPU = {"ccpml.method.normalize._is_readable": lambda x: False}
_META = {
    "torch.autocast": _Autocast,
    "torch.Generator": _Generator,
    "torch.tensor": _from_values(torch.tensor),
    "torch.as_tensor": _from_values(torch.as_tensor),
}

"""Refuse operations for which the host would wait for an accelerator, without one and on one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SYNCHRONIZING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "multinomial"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
"""Operations whose result, or its shape, the host would have to read."""


class NoSynchronization(TorchDispatchMode):
    """Raise AssertionError, with the operation and its autograd node, where the host would wait for an accelerator.

    Code for accelerators is run on the CPU, or on the meta device, where copies from and to the host are found too.
    Tensors of the meta device have no values, so that what depends on them raises there anyway.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device

    def __enter__(self):
        self._patched = patch("ccpml.method.normalize._is_readable", lambda x: False)
        self._patched.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        self._patched.__exit__(*error)
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = _tensors((args, kwargs))
        if any(x.device.type == self.device for x in before) and _reads(function, args, kwargs or {}):
            raise AssertionError(_described(function, before))
        result = function(*args, **(kwargs or {}))
        if _copies(function, [*before, *_tensors(result)]):
            raise AssertionError(_described(function, before))
        return result


@contextmanager
def no_synchronization_on_gpu() -> Iterator[None]:
    """Raise AssertionError, with the operation and its autograd node, where the host waits for a CUDA device."""
    named = _Named()
    before = torch.cuda.get_sync_debug_mode()
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
    """Say which operation torch refuses as synchronizing."""

    last = "none"

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.last = _described(function, _tensors((args, kwargs)))
        try:
            return function(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            raise AssertionError(self.last) from error


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _reads(function: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host reads values: those of the result, or the number of elements that a mask selects."""
    name = function.overloadpacket.__name__
    if name in {"index", "index_put", "index_put_", "_index_put_impl_"}:
        return any(x is not None and x.dtype in {torch.bool, torch.uint8} for x in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name in SYNCHRONIZING


def _copies(function: Any, tensors: list[Tensor]) -> bool:
    """Whether tensors are copied between the host and a device; others may be numbers of the host, as arguments."""
    name = function.overloadpacket.__name__
    return name in {"copy_", "_to_copy", "_copy_from"} and len({x.device.type for x in tensors}) > 1


def _described(function: Any, tensors: list[Tensor]) -> str:
    node = torch._C._current_autograd_node()
    where = "forward" if node is None else node.name()
    return f"{function} of {[(x.device.type, str(x.dtype), tuple(x.shape)) for x in tensors]} in {where}"

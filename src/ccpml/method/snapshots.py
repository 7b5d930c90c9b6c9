"""Copies of a network's weights and buffers: keeping, restoring and checking them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["check_shapes", "clones", "copy_onto", "matching", "restored", "state_of", "to_devices_of", "weights_of"]


def weights_of(model: nn.Module, criterion: nn.Module) -> dict[str, Tensor]:
    """Return θ: the parameters of the model by name, without those of the criterion.

    Raises:
        ValueError: If one is a shard, as of ``fully_shard``, which is whole at some times and not at others.
    """
    others = {id(parameter) for parameter in criterion.parameters()}
    weights: dict[str, Tensor] = {name: weight for name, weight in model.named_parameters() if id(weight) not in others}
    for name, weight in weights.items():
        if hasattr(weight, "full_tensor"):  # a DTensor
            raise ValueError(f"model: expected whole weights on each rank, got a shard of {name!r}; train with DDP")
    return weights


def state_of(model: nn.Module, criterion: nn.Module) -> dict[str, Tensor]:
    """Return θ and the buffers of the model (running statistics) by name, without those of the criterion."""
    others = {id(buffer) for buffer in criterion.buffers()}
    buffers = {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in others}
    return {**weights_of(model, criterion), **buffers}


def clones(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, without gradients."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def copy_onto(copies: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, in the memory of earlier copies where those have the same shape, dtype and device."""
    same = {name: copy for name, copy in copies.items() if name in tensors and _is_alike(copy, tensors[name])}
    if same:
        torch._foreach_copy_(list(same.values()), [tensors[name] for name in same])
    return {name: same[name] if name in same else tensor.detach().clone() for name, tensor in tensors.items()}


def matching(copies: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the copies of those tensors that are still there, with the same shape."""
    return {name: copy for name, copy in copies.items() if name in tensors and copy.shape == tensors[name].shape}


def to_devices_of(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, moved to the devices of the tensors of the same names."""
    return {name: copy.to(tensors[name].device) if name in tensors else copy for name, copy in copies.items()}


@contextmanager
def restored(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> Iterator[None]:
    """Write copies into the tensors of the same names and shapes; undo it if the block raises."""
    current = clones(tensors)
    _write(tensors, copies)
    try:
        yield
    except BaseException:
        _write(tensors, current)
        raise


def check_shapes(name: str, saved: dict[str, Tensor], current: dict[str, Tensor]) -> None:
    """Raise ValueError unless each saved tensor has the name and the shape of a current one."""
    for key, tensor in saved.items():
        expected, got = current[key].shape if key in current else None, tensor.shape
        if got != expected:
            words = "none of this name" if expected is None else str(tuple(expected))
            raise ValueError(f"state[{name!r}][{key!r}]: expected {words}, got {tuple(got)}")


def _is_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


@torch.no_grad()
def _write(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> None:
    """Write copies into tensors; one that was added or whose shape has changed since keeps its value."""
    for name, copy in matching(copies, tensors).items():
        tensors[name].copy_(copy)

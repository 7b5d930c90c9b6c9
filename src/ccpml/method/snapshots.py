"""Copies of a network's weights and buffers: keeping, restoring and checking them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["check_shapes", "clones", "copy_onto", "restored", "state_of", "to_devices_of", "weights_of"]


def weights_of(model: nn.Module, criterion: nn.Module) -> dict[str, Tensor]:
    """Return θ: the parameters of the model by name, without those of the criterion."""
    others = {id(parameter) for parameter in criterion.parameters()}
    return {name: weight for name, weight in model.named_parameters() if id(weight) not in others}


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
    """Return copies of tensors, in the memory of earlier copies where those are on the same device."""
    same = {name: copy for name, copy in copies.items() if copy.device == tensors[name].device}
    if same:
        torch._foreach_copy_(list(same.values()), [tensors[name] for name in same])
    return {name: same[name] if name in same else tensor.detach().clone() for name, tensor in tensors.items()}


def to_devices_of(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, moved to the devices of the tensors of the same names."""
    return {name: copy.to(tensors[name].device) if name in tensors else copy for name, copy in copies.items()}


@contextmanager
def restored(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> Iterator[None]:
    """Write copies into the tensors of the same names; undo it if the block raises."""
    current = clones(tensors)
    _write(tensors, copies)
    try:
        yield
    except BaseException:
        _write(tensors, current)
        raise


def check_shapes(name: str, saved: dict[str, Tensor], current: dict[str, Tensor]) -> None:
    """Raise ValueError unless saved tensors have the names and shapes of the current ones."""
    expected, got = ({key: tuple(x.shape) for key, x in tensors.items()} for tensors in (current, saved))
    for key in sorted(expected.keys() | got.keys()):
        if expected.get(key) != got.get(key):
            raise ValueError(f"state[{name!r}][{key!r}]: expected {expected.get(key)}, got {got.get(key)}")


@torch.no_grad()
def _write(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(copies[name])

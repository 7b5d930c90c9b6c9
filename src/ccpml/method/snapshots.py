"""Copies of a network's weights and buffers: keeping, restoring and checking them.

Names are those of the network itself, whatever it is wrapped in: ``torch.compile``, activation checkpointing, DDP,
Lightning Fabric. The weights of ``fully_shard`` are shards, on each rank its own, and so are their copies; what is
saved is whole.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ccpml.method.checks import uncompiled

__all__ = [
    "check_shapes",
    "clones",
    "copy_onto",
    "is_shard",
    "local_part",
    "matching",
    "placed_like",
    "plain_names",
    "restored",
    "state_of",
    "weights_of",
    "whole_copies",
]

_WRAPPINGS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_forward_module.")


def weights_of(model: nn.Module, criterion: nn.Module) -> dict[str, Tensor]:
    """Return θ: the parameters of the model by name, without those of the criterion.

    Raises:
        ValueError: If they are flattened over the ranks, as by FullyShardedDataParallel.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # imported where it is used
    for part in model.modules() if fsdp else ():
        if isinstance(part, fsdp.FullyShardedDataParallel):
            raise ValueError("model: expected weights by name, got FullyShardedDataParallel; use fully_shard, or DDP")
        if isinstance(part, fsdp.FSDPModule):
            part.reshard()  # weights may be whole since the last forward
    others = {id(parameter) for parameter in criterion.parameters()}
    return _by_name(weight for weight in _unwrapped(model).named_parameters() if id(weight[1]) not in others)


def state_of(model: nn.Module, criterion: nn.Module) -> dict[str, Tensor]:
    """Return θ and the buffers of the model (running statistics) by name, without those of the criterion."""
    others = {id(buffer) for buffer in criterion.buffers()}
    buffers = _by_name(buffer for buffer in _unwrapped(model).named_buffers() if id(buffer[1]) not in others)
    return {**weights_of(model, criterion), **buffers}


@torch.inference_mode(False)  # what is made in inference mode cannot be changed outside of it
def clones(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, without gradients."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.inference_mode(False)
@torch.no_grad()
def copy_onto(copies: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, in the memory of earlier copies where those have the same shape, dtype and device."""
    same = {name: copy for name, copy in copies.items() if name in tensors and _is_alike(copy, tensors[name])}
    if same:
        torch._foreach_copy_([local_part(copy) for copy in same.values()], [local_part(tensors[name]) for name in same])
    return {name: same[name] if name in same else tensor.detach().clone() for name, tensor in tensors.items()}


def matching(copies: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the copies of those tensors that are still there, with the same shape."""
    return {name: copy for name, copy in copies.items() if name in tensors and copy.shape == tensors[name].shape}


def placed_like(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, moved to the devices of the tensors of the same names and sharded as these are; a collective."""
    return {name: _placed(copy, tensors[name]) if name in tensors else copy for name, copy in copies.items()}


def whole_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors, those of shards joined over the ranks, which all call this."""
    return {name: _whole(tensor).clone() for name, tensor in tensors.items()}


def is_shard(tensor: Tensor) -> bool:
    """Whether this is a tensor of ``fully_shard``, of which each rank holds a part."""
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module is not imported


def local_part(tensor: Any) -> Tensor:
    """Return the part of a tensor that is on this rank, in the same memory: all of it unless it is a shard."""
    part: Tensor = tensor.to_local() if is_shard(tensor) else tensor
    return part


def plain_names(saved: dict[str, Tensor], current: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return saved tensors by the names of the network, if they were saved by those in a wrapper of it."""
    renamed = {name: _plain(name) for name in saved if name not in current}
    renamed = {name: plain if plain in current else plain.removeprefix("module.") for name, plain in renamed.items()}
    return {renamed[name] if renamed.get(name) in current else name: tensor for name, tensor in saved.items()}


@contextmanager
def restored(model: nn.Module, criterion: nn.Module, copies: dict[str, Tensor]) -> Iterator[None]:
    """Write copies into the weights and buffers of the same names and shapes; undo it if the block raises."""
    current = clones(state_of(model, criterion))
    _write(state_of(model, criterion), copies)
    try:
        yield
    except BaseException:
        _write(state_of(model, criterion), current)
        raise


def check_shapes(name: str, saved: dict[str, Tensor], current: dict[str, Tensor]) -> None:
    """Raise ValueError unless each saved tensor has the name and the shape of a current one."""
    for key, tensor in saved.items():
        expected, got = current[key].shape if key in current else None, tensor.shape
        if got != expected:
            words = "none of this name" if expected is None else str(tuple(expected))
            raise ValueError(f"state[{name!r}][{key!r}]: expected {words}, got {tuple(got)}")


def _unwrapped(model: Any) -> nn.Module:
    """Return the network within torch.compile, DDP and the module of Lightning Fabric, in any order."""
    network: nn.Module = uncompiled(model)
    while (inner := _inner(network)) is not None:
        network = uncompiled(inner)
    return network


def _inner(network: nn.Module) -> Any:
    """Return what DDP or the module of Lightning Fabric wraps; None for other modules."""
    if isinstance(network, DataParallel | DistributedDataParallel):
        return network.module
    return getattr(network, "_forward_module", None)


def _by_name(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {_plain(name): tensor for name, tensor in tensors}


def _plain(name: str) -> str:
    for wrapping in _WRAPPINGS:
        name = name.replace(wrapping, "")
    return name


def _whole(tensor: Any) -> Tensor:
    whole: Tensor = tensor.detach()
    return whole.full_tensor() if is_shard(whole) else whole  # type: ignore[attr-defined]  # a DTensor


def _placed(copy: Tensor, like: Any) -> Tensor:
    if is_shard(copy) == is_shard(like):
        return copy.to(like.device)
    if not is_shard(like):
        return _whole(copy).to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(copy.to(like.device), like.device_mesh, like.placements)


def _is_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


@torch.no_grad()
def _write(tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> None:
    """Write copies into tensors; one that was added or whose shape has changed since keeps its value."""
    for name, copy in placed_like(tensors, matching(copies, tensors)).items():
        tensors[name].copy_(copy)

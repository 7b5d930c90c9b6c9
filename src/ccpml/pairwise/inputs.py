"""Tensors as arguments: which can be computed with, and that their values are finite."""

import torch
from torch import Tensor

__all__ = ["are_finite", "check_dense", "check_device", "check_finite", "check_has_values", "describe", "is_floating"]


def describe(x: object) -> str:
    """Return dtype and shape of a tensor, or the type of anything else, for a message."""
    return f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def is_floating(name: str, x: object) -> bool:
    """Whether this is a tensor of floating-point numbers; it is checked to be dense."""
    if not isinstance(x, Tensor):
        return False
    check_dense(name, x)
    return x.is_floating_point()


def check_dense(name: str, x: Tensor) -> None:
    """Raise ValueError if a tensor is sparse, nested or quantized, for which torch lacks most operations.

    Example:
        >>> check_dense("x", torch.eye(2).to_sparse())
        Traceback (most recent call last):
        ValueError: x: expected a dense tensor, got one of layout sparse_coo; pass x.to_dense()
    """
    if x.is_nested:
        raise ValueError(f"{name}: expected a dense tensor, got a nested one; pass {name}.to_padded_tensor(0)")
    if x.layout != torch.strided:
        layout = str(x.layout).removeprefix("torch.").removesuffix("...")
        raise ValueError(f"{name}: expected a dense tensor, got one of layout {layout}; pass {name}.to_dense()")
    if x.is_quantized:
        raise ValueError(f"{name}: expected floating point, got {x.dtype}; pass {name}.dequantize()")


def check_device(name: str, x: Tensor, like: Tensor) -> None:
    """Raise ValueError unless a tensor is on the device of the embeddings."""
    if x.device != like.device:
        raise ValueError(f"{name}: expected on {like.device} as the embeddings, got {x.device}; move it with .to(...)")


def check_has_values(name: str, x: Tensor) -> None:
    """Raise ValueError if a tensor is on the meta device."""
    if x.is_meta:
        raise ValueError(f"{name}: expected values, got a tensor on the meta device, which has none")


def are_finite(x: Tensor) -> Tensor:
    """Return whether all values are finite, a scalar tensor."""
    return _of_two_bytes(x).isfinite().all()


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError if a value is NaN or infinite, or there are none; the device is waited for.

    Args:
        name: Name of the argument, for messages.
        x: Vectors of floating point along the last axis, shape (n, d), or (C, n, d) of C classes.

    Example:
        >>> check_finite("x", torch.tensor([[1.0], [torch.nan], [torch.inf]]))
        Traceback (most recent call last):
        ValueError: x: expected finite values, got nan in row 1 (the first of 2)
    """
    check_has_values(name, x)
    x = _of_two_bytes(x.detach())
    if x.sum().isfinite():  # of finite values the sum may overflow
        return
    rows = (~x.isfinite().all(dim=-1)).nonzero()  # (bad rows, axes before the last)
    if len(rows):
        *of_class, row = first = rows[0].tolist()
        bad = next(value for value in x[tuple(first)].tolist() if value - value != 0)
        place = f"row {row}" + "".join(f" of class {label}" for label in of_class)
        raise ValueError(f"{name}: expected finite values, got {bad} in {place} (the first of {len(rows)})")


def _of_two_bytes(x: Tensor) -> Tensor:
    """Return a tensor of a dtype that torch computes with: of 8 bits it only converts."""
    return x.float() if x.element_size() == 1 else x

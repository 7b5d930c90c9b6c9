"""Validation of what retrieval accepts: NumPy or torch, any float and integer dtype."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccpml.pairwise.inputs import check_dense, check_finite, check_has_values

__all__ = ["ArrayLike", "Progress", "as_embeddings", "as_labels", "as_numbers", "as_unmasked"]

ArrayLike = Tensor | npt.NDArray[Any]

_LARGEST = 1e150  # a score whose square is finite

Progress = Callable[[int, int], None]
"""Called with the number of steps done and of all steps."""


def as_embeddings(name: str, value: ArrayLike, like: Tensor | None = None) -> Tensor:
    """Return embeddings as a detached float32 or float64 tensor of finite values, shape (N, d).

    Args:
        name: Name of the argument, for messages.
        value: Embeddings, shape (N, d). float64 is kept; every other floating-point dtype becomes float32.
        like: Embeddings to which these are compared: d must agree, and the result is on their device.
    """
    x = value.detach() if isinstance(value, Tensor) else _float_tensor(name, value)
    check_dense(name, x)
    if not x.is_floating_point():
        raise ValueError(f"{name}: expected floating point, got {x.dtype}")
    dim = None if like is None else like.shape[1]
    if x.ndim != 2 or dim not in {None, x.shape[-1]} or x.numel() == 0:
        expected = "(N, d) with N and d of at least 1" if dim is None else f"(N, {dim}) with N of at least 1"
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(x.shape)}")
    x = x if x.dtype == torch.float64 else x.float()
    check_finite(name, x)
    return x if like is None else x.to(like.device)


def as_labels(name: str, value: ArrayLike, embeddings_name: str, embeddings: Tensor) -> Tensor:
    """Return labels of any integer dtype as int64, shape (N,), on the device of their embeddings, one per embedding."""
    if isinstance(value, Tensor):
        check_dense(name, value)
        check_has_values(name, value)
        integer = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    else:
        value = as_unmasked(name, value)
        integer = value.dtype.kind in "iu"
    if not integer:
        raise ValueError(f"{name}: expected integers, got {value.dtype}")
    if tuple(value.shape) != (len(embeddings),):
        expected = f"shape ({len(embeddings)},), as many as {embeddings_name}"
        raise ValueError(f"{name}: expected {expected}, got {tuple(value.shape)}")
    labels = value if isinstance(value, Tensor) else torch.from_numpy(np.require(value, np.int64, ["C", "W"]))
    return labels.detach().to(embeddings.device, torch.int64)


def _float_tensor(name: str, value: npt.NDArray[Any]) -> Tensor:
    array = as_unmasked(name, value)
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: expected floating point, got {array.dtype}")
    return torch.from_numpy(np.require(array, np.float32 if array.itemsize <= 4 else np.float64, ["C", "W"]))


def as_numbers(name: str, value: Tensor | npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return numbers, NaN among them, as float64 of the same shape.

    Raises:
        ValueError: If some are no real numbers, masked, infinite, or so large that their squares are.
    """
    if isinstance(value, Tensor):
        check_has_values(name, value)
        value = value.detach().to("cpu", torch.complex128 if value.is_complex() else torch.float64).numpy()
    array = as_unmasked(name, value)
    if array.dtype.kind == "c":
        raise ValueError(f"{name}: expected real numbers, got {array.dtype}")
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers ({error})") from None
    if np.isinf(numbers).any():
        raise ValueError(f"{name}: expected finite numbers, or NaN for queries that do not count, got infinity")
    if np.nanmax(np.abs(numbers), initial=0.0) > _LARGEST:
        raise ValueError(f"{name}: expected numbers up to {_LARGEST:g}, as they are squared; divide them first")
    return numbers


def as_unmasked(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return an array that has all of its values; NumPy drops a mask, and what is under it becomes a value."""
    if np.ma.is_masked(value):
        raise ValueError(f"{name}: expected all values, got a masked array; pass those that are not masked")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of several lengths; tensors that have no array
        raise ValueError(f"{name}: expected an array, got {type(value).__name__} ({error})") from None

"""Validation of what retrieval accepts: NumPy or torch, any float and integer dtype.

Shapes: N vectors, d dimensions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["ArrayLike", "as_embeddings", "as_labels", "as_positive_int"]

ArrayLike = Tensor | npt.NDArray[Any]


def as_embeddings(name: str, value: ArrayLike, like: Tensor | None = None) -> Tensor:
    """Return embeddings as a detached float32 or float64 tensor of finite values, shape (N, d).

    Args:
        name: Name of the argument, for messages.
        value: Embeddings, shape (N, d). float64 is kept; every other floating-point dtype becomes float32.
        like: Embeddings to which these are compared: d must agree, and the result is on their device.

    Raises:
        ValueError: On a wrong dtype or shape, an empty set, or a value that is NaN or infinite.
    """
    x = value.detach() if isinstance(value, Tensor) else _float_tensor(name, value)
    if not x.is_floating_point():
        raise ValueError(f"{name}: expected floating point, got {x.dtype}")
    dim = None if like is None else like.shape[1]
    if x.ndim != 2 or dim not in {None, x.shape[-1]} or x.numel() == 0:
        expected = "(N, d) with N and d of at least 1" if dim is None else f"(N, {dim}) with N of at least 1"
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(x.shape)}")
    x = x if x.dtype == torch.float64 else x.float()
    x = x if like is None else x.to(like.device)
    finite = torch.isfinite(x).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        bad = x[row][~torch.isfinite(x[row])][0].item()
        raise ValueError(
            f"{name}: expected finite values, got {bad} in row {row} (the first of {int((~finite).sum())})"
        )
    return x


def as_labels(name: str, value: ArrayLike, embeddings_name: str, embeddings: Tensor) -> Tensor:
    """Return labels as int64, shape (N,), on the device of their embeddings.

    Args:
        name: Name of the argument, for messages.
        value: Class ids, shape (N,), any integer dtype, any values.
        embeddings_name: Name of the argument that holds the embeddings, for messages.
        embeddings: Embeddings, shape (N, d).

    Raises:
        ValueError: If the labels are not integers or not one per embedding.
    """
    if isinstance(value, Tensor):
        integer = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    else:
        value = np.asarray(value)
        integer = value.dtype.kind in "iu"
    if not integer:
        raise ValueError(f"{name}: expected integers, got {value.dtype}")
    if tuple(value.shape) != (len(embeddings),):
        expected = f"shape ({len(embeddings)},), as many as {embeddings_name}"
        raise ValueError(f"{name}: expected {expected}, got {tuple(value.shape)}")
    labels = value if isinstance(value, Tensor) else torch.from_numpy(np.require(value, np.int64, ["C", "W"]))
    return labels.detach().to(embeddings.device, torch.int64)


def as_positive_int(name: str, value: int) -> int:
    """Return an integer of at least 1; raise ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return int(value)


def _float_tensor(name: str, value: npt.NDArray[Any]) -> Tensor:
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: expected floating point, got {array.dtype}")
    return torch.from_numpy(np.require(array, np.float32 if array.itemsize <= 4 else np.float64, ["C", "W"]))

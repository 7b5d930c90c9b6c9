"""Checks of arguments; each message names the argument, what was expected and what it got."""

import math
from typing import Any

import torch
from torch import Tensor

from ccpml.distributed import gather_rows


def check_tensor(name: str, x: object) -> None:
    """Raise ValueError unless ``x`` is a tensor."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")


def check_number(name: str, value: float, above: float = -math.inf) -> None:
    """Raise ValueError unless ``value`` is finite and greater than ``above``."""
    if not (math.isfinite(value) and value > above):
        raise ValueError(
            f"{name}: expected a finite number{'' if above == -math.inf else f' > {above:g}'}, got {value!r}"
        )


def check_sizes(**sizes: int) -> None:
    """Raise ValueError unless each is a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {size!r}")


def check_references(ref_emb: Tensor | None, ref_labels: Tensor | None, dim: int) -> None:
    """Raise ValueError unless both or neither are given, with as many labels as references of dimension ``dim``."""
    if (ref_emb is None) != (ref_labels is None):
        raise ValueError("ref_emb, ref_labels: expected both or neither, got one of them")
    if ref_emb is not None and ref_labels is not None:
        check_embeddings("ref_emb", ref_emb, dim=dim)
        check_labels("ref_labels", ref_labels, len(ref_emb))


def check_embeddings(name: str, x: Tensor, dim: int | None = None) -> None:
    """Raise ValueError unless ``x`` is a floating-point matrix, with ``dim`` columns if given."""
    check_tensor(name, x)
    expected = f"(n, {'d' if dim is None else dim})"
    if not x.is_floating_point() or x.ndim != 2 or dim not in {None, x.shape[1]}:
        raise ValueError(f"{name}: expected floating point {expected}, got {x.dtype} {tuple(x.shape)}")


def check_labels(name: str, labels: Tensor, length: int, num_classes: int | None = None) -> None:
    """Raise ValueError unless ``labels`` are ``length`` integers, in 0..num_classes − 1 if given.

    On an accelerator the range is checked without synchronizing with the device: instead of a ValueError, a bad label
    ends the program with a device assertion at the next synchronization.
    """
    check_tensor(name, labels)
    integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not integer or labels.shape != (length,):
        raise ValueError(f"{name}: expected integers ({length},), got {labels.dtype} {tuple(labels.shape)}")
    if num_classes is None or length == 0:
        return
    low, high = labels.aminmax()
    if labels.device.type == "cpu":
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name}: expected classes 0..{num_classes - 1}, got {int(low)}..{int(high)}")
    else:
        torch._assert_async((low >= 0) & (high < num_classes), f"{name}: expected classes 0..{num_classes - 1}")


def check_points(name: str, points: Tensor, like: Tensor | None = None) -> None:
    """Raise ValueError unless ``points`` are (C, b, d), with the C and d of ``like`` if given."""
    check_tensor(name, points)
    fits = like is None or (points.ndim == 3 and (points.shape[0], points.shape[2]) == (like.shape[0], like.shape[2]))
    if not points.is_floating_point() or points.ndim != 3 or not fits:
        expected = "(C, b, d)" if like is None else f"({like.shape[0]}, b, {like.shape[2]})"
        raise ValueError(f"{name}: expected floating point {expected}, got {points.dtype} {tuple(points.shape)}")


def check_pool(points: Tensor, like: Tensor, per_class: int, group: Any) -> None:
    """Raise ValueError unless ``points`` are a finite pool of ``per_class`` points of each class or more.

    Args:
        points: Pool of this rank's classes, shape (C, b, d).
        like: Tensor with the same C and d.
        per_class: Number of proxies per class.
        group: Process group; if the pool of one of its ranks is not finite, all ranks raise.
    """
    check_points("pool", points, like=like)
    if points.shape[1] < per_class:
        raise ValueError(
            f"pool: expected at least {per_class} (proxies_per_class) points of each class, got {points.shape[1]}"
        )
    if not gather_rows(torch.isfinite(points).all()[None], group).all():
        raise ValueError("pool: expected finite embeddings, got NaN or infinity; has the training diverged?")

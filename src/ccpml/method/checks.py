"""Checks of arguments; each message names the argument, what was expected and what it got."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ccpml.distributed import gather_rows
from ccpml.numbers import is_finite
from ccpml.pairwise.inputs import are_finite, check_dense, check_device, check_has_values, describe, is_floating

_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64}

_MAX_DISTANCE, _MAX_PRODUCT = 1e18, 1e29
"""Squares of distances are in range of float32, and values nearer to 0 than `ccpml.pairwise.equation.NEGATIVE_FILL`."""


def check_number(name: str, value: float, above: float = -math.inf, least: float = -math.inf) -> None:
    """Raise ValueError unless ``value`` is a number, finite, greater than ``above``, and ``least`` or more."""
    if not (is_finite(value) and value > above and value >= least):
        bound = "" if above == -math.inf else f" > {above:g}"
        bound += "" if least == -math.inf else f" >= {least:g}"
        raise ValueError(f"{name}: expected a finite number{bound}, got {value!r}")


def uncompiled(module: Any) -> Any:
    """Return what is within ``torch.compile``, whose own type says nothing; anything else as it is."""
    return getattr(module, "_orig_mod", module)


def check_loss(loss: object) -> None:
    """Raise ValueError unless this is a pair loss, not its class or a function."""
    if not isinstance(loss, nn.Module):
        way_out = f"; pass {loss.__name__}()" if isinstance(loss, type) else ""
        raise ValueError(f"loss: expected a pair loss, got {loss!r}{way_out}")


def check_call(
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
    dim: int | None = None,
    num_classes: int | None = None,
) -> None:
    """Raise ValueError unless these are arguments of a `MetricLoss` of this dimension and number of classes, if any.

    Raises:
        RuntimeError: Under ``torch.jit.trace``, whose graph would hold the pairs of one batch.
    """
    if torch._C._get_tracing_state():
        raise RuntimeError("loss: expected no torch.jit.trace, got one; trace the model alone")
    check_embeddings("embeddings", embeddings, dim)
    check_labels("labels", labels, len(embeddings), num_classes)
    check_device("labels", labels, embeddings)
    if (ref_emb is None) != (ref_labels is None):
        raise ValueError("ref_emb, ref_labels: expected both or neither, got one of them")
    if ref_emb is not None and ref_labels is not None:
        check_embeddings("ref_emb", ref_emb, embeddings.shape[1])
        check_labels("ref_labels", ref_labels, len(ref_emb))
        check_device("ref_emb", ref_emb, embeddings)
        check_device("ref_labels", ref_labels, embeddings)


def check_embeddings(name: str, x: Tensor, dim: int | None = None) -> None:
    """Raise ValueError unless ``x`` is a floating-point matrix, with ``dim`` columns if given."""
    if not (is_floating(name, x) and x.ndim == 2 and dim in {None, x.shape[1]}):
        raise ValueError(f"{name}: expected floating point (n, {'d' if dim is None else dim}), got {describe(x)}")


def check_labels(name: str, labels: Tensor, length: int, num_classes: int | None = None) -> None:
    """Raise ValueError unless ``labels`` are ``length`` integers, in 0..num_classes − 1 if given.

    On an accelerator the range is checked without synchronizing with the device: instead of a ValueError, a bad label
    ends the program with a device assertion at the next synchronization. On mps, where older versions of torch have no
    such assertion, the labels are read. In a graph of ``torch.compile`` or ``torch.export`` it is an assertion too.
    """
    if isinstance(labels, Tensor):
        check_dense(name, labels)
    if not (isinstance(labels, Tensor) and labels.dtype in _INTEGERS and labels.shape == (length,)):
        raise ValueError(f"{name}: expected integers ({length},), got {describe(labels)}")
    if num_classes is None or length == 0:
        return
    low, high = labels.long().aminmax()  # torch has none of unsigned integers
    if labels.device.type in {"cpu", "mps"} and not torch.compiler.is_compiling():
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name}: expected classes 0..{num_classes - 1}, got {int(low)}..{int(high)}")
    else:
        torch._assert_async((low >= 0) & (high < num_classes), f"{name}: expected classes 0..{num_classes - 1}")


def check_values(x: Tensor, y: Tensor, distances: bool) -> None:
    """Raise ValueError if distances or inner products of finite vectors, not normalized, are out of range of a loss.

    On an accelerator, in a graph of ``torch.compile`` and in a transform of ``torch.func`` nothing is checked, and a
    loss out of range is not finite.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return
    first, second = (float(torch.linalg.vector_norm(v.detach(), torch.inf)) if v.numel() else 0.0 for v in (x, y))
    largest = math.sqrt(x.shape[1]) * (first + second) if distances else x.shape[1] * first * second
    limit, values = (_MAX_DISTANCE, "distances") if distances else (_MAX_PRODUCT, "inner products")
    if is_finite(first + second) and largest > limit:
        raise ValueError(
            f"embeddings: expected {values} below {limit:g} with normalize=None, got components up to "
            f"{max(first, second):.3g}; has the training diverged?"
        )


def check_points(name: str, points: Tensor, like: Tensor | None = None) -> None:
    """Raise ValueError unless ``points`` are (C, b, d), with the C and d of ``like`` if given."""
    matrices = is_floating(name, points) and points.ndim == 3
    if not matrices or (like is not None and points.shape[::2] != like.shape[::2]):
        expected = "(C, b, d)" if like is None else f"({like.shape[0]}, b, {like.shape[2]})"
        raise ValueError(f"{name}: expected floating point {expected}, got {describe(points)}")


def check_pool(points: Tensor, like: Tensor, per_class: int, group: Any) -> None:
    """Raise ValueError unless ``points`` are a finite pool of ``per_class`` points of each class or more.

    If the pool of one rank of the group is not finite, all its ranks raise.
    """
    check_points("pool", points, like)
    if points.shape[1] < per_class:
        raise ValueError(
            f"pool: expected at least {per_class} (proxies_per_class) points of each class, got {points.shape[1]}"
        )
    check_has_values("pool", points)
    if not gather_rows(are_finite(points)[None], group).all():
        raise ValueError("pool: expected finite embeddings, got NaN or infinity; has the training diverged?")

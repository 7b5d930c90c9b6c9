"""The Lipschitz normalization φ, and that to unit length.

Both are exact up to the largest number of the dtype, where the square of a length overflows.
"""

from typing import Any

import torch
from torch import Tensor

from ccpml.pairwise.derivatives import check_first_order, check_no_transform
from ccpml.pairwise.inputs import describe, is_floating

__all__ = ["l2_normalize", "lipschitz_normalize"]

_LEAST_LENGTH = 1e-12


def lipschitz_normalize(x: Tensor) -> Tensor:
    """Project vectors onto the unit ball: φ(v) = v / max(1, ‖v‖).

    Inside the unit ball (‖v‖ ≤ 1), φ is the identity. Outside, it scales a vector to length 1, and the gradient loses
    its radial part. φ is 2-Lipschitz; plain ℓ₂ normalization is not Lipschitz at the origin.

    Args:
        x: Vectors along the last axis, shape (..., d), floating point.

    Returns:
        φ(x), in the shape and dtype of ``x``. Shorter dtypes than float32 are computed in float32.

    Raises:
        ValueError: If ``x`` is not floating point or has no axis.
        RuntimeError: Within a transform of torch.func, such as ``torch.func.grad``; in a backward pass with
            ``create_graph=True``, as only first-order gradients are supported.

    Example:
        >>> lipschitz_normalize(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])

    Source: Gürbüz et al., "Deep Metric Learning with Chance Constraints", WACV 2024, Lemma 4.1.
    """
    if not (is_floating("x", x) and x.ndim):
        raise ValueError(f"x: expected floating-point vectors (..., d), got {describe(x)}")
    check_no_transform("lipschitz_normalize")
    v = x if x.dtype == torch.float64 else x.float()
    normalized: Tensor = _Lipschitz.apply(v)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return normalized.to(x.dtype)


def l2_normalize(x: Tensor) -> Tensor:
    """Scale vectors to length 1, as `torch.nn.functional.normalize` does: those shorter than 1e-12, by 1e12.

    Args:
        x: Vectors along the last axis, shape (..., d), floating point.

    Returns:
        x / ‖x‖, in the shape and dtype of ``x``.

    Example:
        >>> l2_normalize(torch.tensor([[3.0, 4.0], [3e38, 0.0]]))
        tensor([[0.6000, 0.8000],
                [1.0000, 0.0000]])
    """
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
    if not _may_overflow(norm):
        return x / norm.clamp_min(_LEAST_LENGTH)
    shrinking = _shrinking(norm.detach())
    x = x * shrinking
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.maximum(_LEAST_LENGTH * shrinking)


def _may_overflow(norm: Tensor) -> bool:
    """Whether a length may have overflowed; on a CPU, whether one has. An accelerator is not waited for."""
    return not _is_readable(norm) or bool(torch.isinf(norm).any())


def _is_readable(x: Tensor) -> bool:
    """Whether values can be read at once: on a CPU, and not while a graph is recorded or a function transformed."""
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return x.device.type == "cpu" and not transformed and not torch._C._get_tracing_state()


def _shrinking(norm: Tensor) -> Tensor:
    """Return a power of two for each vector whose length overflowed, with which it does not, and 1 for the others."""
    power = 2.0**-768 if norm.dtype == torch.float64 else 2.0**-96  # three quarters of the exponents
    return torch.where(torch.isinf(norm), torch.full_like(norm, power), 1)


class _Lipschitz(torch.autograd.Function):
    """φ with its gradient: inside the ball g, outside (g − radial part of g) / ‖v‖."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)  # (..., 1)
        outside, shrinking = norm > 1, None
        if _may_overflow(norm):
            shrinking = _shrinking(norm)
            v = v * shrinking
            norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        scale = torch.where(outside, norm, 1)
        normalized = v / scale
        ctx.save_for_backward(normalized, scale, outside, shrinking)
        return normalized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        check_first_order("lipschitz_normalize")
        (gradient,), (normalized, scale, outside, shrinking) = grads, ctx.saved_tensors
        radial = torch.linalg.vecdot(gradient, normalized)[..., None]  # g · v/‖v‖
        result: Tensor = gradient.addcmul(normalized, torch.where(outside, radial, 0), value=-1).div_(scale)
        return result if shrinking is None else result.mul_(shrinking)

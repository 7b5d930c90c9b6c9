"""The Lipschitz normalization φ."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["lipschitz_normalize"]


def lipschitz_normalize(x: Tensor) -> Tensor:
    """Project vectors onto the unit ball: φ(v) = v / max(1, ‖v‖).

    Inside the unit ball (‖v‖ ≤ 1), φ is the identity. Outside, it scales a vector to length 1, and the gradient loses
    its radial part. φ is 2-Lipschitz; plain ℓ₂ normalization is not Lipschitz at the origin.

    Args:
        x: Vectors along the last axis, shape (..., d), floating point.

    Returns:
        φ(x), in the shape and dtype of ``x``. float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: If ``x`` is not floating point or has no axis.

    Example:
        >>> lipschitz_normalize(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])

    Source: Gürbüz et al., "Deep Metric Learning with Chance Constraints", WACV 2024, Lemma 4.1.
    """
    if not x.is_floating_point() or x.ndim == 0:
        raise ValueError(f"x: expected floating-point vectors (..., d), got {x.dtype} of shape {tuple(x.shape)}")
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    normalized: Tensor = _Lipschitz.apply(v)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return normalized.to(x.dtype)


class _Lipschitz(torch.autograd.Function):
    """φ with its gradient: inside the ball g, outside (g − radial part of g) / ‖v‖."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)  # (..., 1)
        scale = torch.where(norm > 1, norm, 1)
        normalized = v / scale
        ctx.save_for_backward(normalized, scale)
        return normalized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gradient,), (normalized, scale) = grads, ctx.saved_tensors
        radial = torch.linalg.vecdot(gradient, normalized)[..., None]  # g · v/‖v‖
        outside: Tensor = torch.where(scale > 1, radial, 0)
        return gradient.addcmul(normalized, outside, value=-1).div_(scale)

"""A convolution with its BatchNorm: one operation where the BatchNorm is frozen."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import conv2d, pad

__all__ = ["convolve", "relu", "relu6"]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def convolve(
    convolution: nn.Conv2d,
    norm: nn.BatchNorm2d,
    features: Tensor,
    activation: Callable[[Tensor], Tensor] | None = None,
    tensorflow_padding: bool = False,
) -> Tensor:
    """Convolve, normalize and activate.

    In eval mode, BatchNorm is a linear map of each channel, s · x + t. Then s is multiplied into the kernel and t added
    to the bias, and BatchNorm needs no pass over the features, forward or backward. The product is computed in each
    call: the gradients of the kernel, and of BatchNorm's own weights if they are trained, are exact. Layers that others
    have replaced or hooked are called one after the other.

    Args:
        convolution: Convolution with zero padding.
        norm: BatchNorm of its outputs.
        features: Inputs (B, C, H, W).
        activation: Function of the outputs, which it may change in place.
        tensorflow_padding: Whether a convolution of stride 2 and an odd kernel pads as TensorFlow does: even sizes by
            one less at the beginning than at the end. Its own padding must be half the kernel, rounded down.

    Returns:
        Outputs (B, C', H', W'), which the caller may change in place.

    Example:
        >>> convolution, norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3).eval()
        >>> features = torch.randn(1, 2, 4, 4)
        >>> torch.allclose(convolve(convolution, norm, features), norm(convolution(features)), atol=1e-6)
        True
    """
    top = left = 0  # paddings that are too much by one: the first row or column of outputs is omitted instead
    if tensorflow_padding and convolution.stride != (1, 1):
        top, left = (1 - size % 2 for size in features.shape[2:])
    if linear := _is_plain(convolution, nn.Conv2d) and _is_plain(norm, nn.BatchNorm2d) and not norm.training:
        weight, bias = _fold(convolution, norm)
        padding = int(convolution.padding[0]) + top, int(convolution.padding[1]) + left
        outputs = conv2d(features, weight, bias, convolution.stride, padding, convolution.dilation, convolution.groups)
    else:
        outputs = convolution(pad(features, (left, 0, top, 0)) if top or left else features)
    if top or left:
        outputs = pad(outputs, (-left, 0, -top, 0))  # unlike slicing, it keeps the gradients in channels_last
    if not linear:
        outputs = norm(outputs)
    return outputs if activation is None else activation(outputs)


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of the convolution followed by BatchNorm in eval mode."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * torch.rsqrt(variance + norm.eps)  # (C',)
    if convolution.bias is not None:
        mean = mean - convolution.bias
    return convolution.weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the layer is still of its own class, without hooks that would have to be called."""
    return type(layer) is kind and not any(getattr(layer, hooks) for hooks in _HOOKS)


def relu(features: Tensor) -> Tensor:
    """Replace the features by max(x, 0)."""
    return functional.relu(features, inplace=True)


def relu6(features: Tensor) -> Tensor:
    """Return min(max(x, 0), 6), in place unless gradients are required: autograd would copy the features first.

    Nor where the network is traced: torch compares a graph with gradients and one without.
    """
    return functional.relu6(features, inplace=not (features.requires_grad or torch._C._get_tracing_state()))

"""BN-Inception, the network of the protocol, with the layer names of its published ImageNet weights."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

from ccpml.models.convolution import convolve, relu
from ccpml.models.embedding import InputConvention, StagedBackbone

__all__ = ["BNInception"]

_STAGE_PREFIXES = ("conv", "inception_3", "inception_4", "inception_5")  # of the names of layers

# Channels of 1×1 | 3×3 reduce, 3×3 | double 3×3 reduce, both 3×3 | pool projection.
# Blocks without 1×1 and projection halve the image and pass on their pooled input.
_BLOCKS = {
    "inception_3a": (64, 64, 64, 64, 96, 32),
    "inception_3b": (64, 64, 96, 64, 96, 64),
    "inception_3c": (0, 128, 160, 64, 96, 0),
    "inception_4a": (224, 64, 96, 96, 128, 128),
    "inception_4b": (192, 96, 128, 96, 128, 128),
    "inception_4c": (160, 128, 160, 128, 160, 128),
    "inception_4d": (96, 128, 192, 160, 192, 128),
    "inception_4e": (0, 128, 192, 192, 256, 0),
    "inception_5a": (352, 192, 320, 160, 224, 128),
    "inception_5b": (352, 192, 320, 192, 224, 128),
}


class BNInception(StagedBackbone):
    """Inception with BatchNorm, with the shapes and names of its published weights.

    The weights are ``bn_inception-52deb4733.pth`` of pretrained-models.pytorch, converted from Caffe: see
    [`load_weights`][ccpml.models.load_weights]. Images are BGR in [0, 255] minus a mean, without division. Weights are
    initialized as by He et al., so that training also works with BatchNorm frozen.

    Raises:
        ValueError: From ``forward``, if images are smaller than 7 × 7.

    Example:
        >>> BNInception()(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 1024, 2, 3])

    Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convention = InputConvention(3, 227, scale=255.0, mean=(104.0, 117.0, 128.0), std=(1.0,) * 3, bgr=True)
        self.out_channels = 1024
        self._add_unit("conv1_7x7_s2", 3, 64, size=7, stride=2)
        self._add_unit("conv2_3x3_reduce", 64, 64)
        self._add_unit("conv2_3x3", 64, 192, size=3)
        before = 192
        for name in _BLOCKS:
            before = self._add_block(name, before)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    def stages(self) -> list[nn.Module]:
        """Return the first convolutions, and the blocks that share a size: 3, 4 and 5."""
        stages: list[nn.Module] = []
        for prefix in _STAGE_PREFIXES:
            layers = [layer for name, layer in self.named_children() if name.startswith(prefix)]
            stages.append(nn.ModuleList(layers))
        return stages

    def run_stage(self, index: int, features: Tensor) -> Tensor:
        """Compute a stage; all map (B, 3, H, W) to (B, 1024, h, w), where h and w are about H / 32 and W / 32."""
        if index == 0:
            return self._first_stage(features)
        for name in _BLOCKS:
            if name.startswith(_STAGE_PREFIXES[index]):
                features = self._block(name, features)
        return features

    def _first_stage(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) < 7:
            raise ValueError(f"images: expected at least 7 × 7 for bn_inception, got {height} × {width}")
        images = images.contiguous(memory_format=torch.channels_last)
        features = _halve(self._apply_units(images, "conv1_7x7_s2"))
        return _halve(self._apply_units(features, "conv2_3x3_reduce", "conv2_3x3"))

    def _add_unit(self, name: str, before: int, after: int, size: int = 1, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, after, size, stride, padding=size // 2)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]  # it has one
        self.add_module(name, convolution)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(after))

    def _add_block(self, name: str, before: int) -> int:
        one, reduce, three, double_reduce, double, projection = _BLOCKS[name]
        stride = 1 if one else 2
        if one:
            self._add_unit(f"{name}_1x1", before, one)
            self._add_unit(f"{name}_pool_proj", before, projection)
        self._add_unit(f"{name}_3x3_reduce", before, reduce)
        self._add_unit(f"{name}_3x3", reduce, three, size=3, stride=stride)
        self._add_unit(f"{name}_double_3x3_reduce", before, double_reduce)
        self._add_unit(f"{name}_double_3x3_1", double_reduce, double, size=3)
        self._add_unit(f"{name}_double_3x3_2", double, double, size=3, stride=stride)
        return one + three + double + (projection or before)

    def _apply_units(self, features: Tensor, *names: str) -> Tensor:
        for name in names:
            features = convolve(getattr(self, name), getattr(self, f"{name}_bn"), features, relu)
        return features

    def _block(self, name: str, features: Tensor) -> Tensor:
        single = self._apply_units(features, f"{name}_3x3_reduce", f"{name}_3x3")
        double = self._apply_units(features, *(f"{name}_double_3x3_{unit}" for unit in ("reduce", "1", "2")))
        if not _BLOCKS[name][0]:
            return torch.cat([single, double, _halve(features, padded=True)], 1)
        pooled = max_pool2d(features, 3, 1, 1) if name == "inception_5b" else avg_pool2d(features, 3, 1, 1)
        first = self._apply_units(features, f"{name}_1x1")
        return torch.cat([first, single, double, self._apply_units(pooled, f"{name}_pool_proj")], 1)


def _halve(features: Tensor, padded: bool = False) -> Tensor:
    """Max-pool by two; with ``padded``, odd sizes are halved as by strided convolutions (the published code fails)."""
    height, width = features.shape[2:]
    padding = (height % 2, width % 2) if padded else 0
    return max_pool2d(features, 3, 2, padding, ceil_mode=True)

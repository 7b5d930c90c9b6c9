"""ResNet-50 with the layer names of torchvision's published ImageNet weights."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from ccpml.models.convolution import convolve, relu
from ccpml.models.embedding import InputConvention, StagedBackbone

__all__ = ["ResNet50"]

_EXPANSION = 4  # a block has four times the output channels of its 3×3 convolution


class ResNet50(StagedBackbone):
    """Residual network of 50 layers, with the shapes and names of torchvision's weights.

    This is version 1.5, whose blocks halve the image in their 3 × 3 convolution, not in the first 1 × 1.
    The weights are ``resnet50-0676ba61.pth`` (``IMAGENET1K_V1``), or any file with the same layers, such as timm's
    ``resnet50`` or DINO's ``dino_resnet50_pretrain.pth``: see [`load_weights`][ccpml.models.load_weights]. Images are
    RGB in [0, 1] of any size, normalized by ImageNet's mean and standard deviation. Weights are initialized as by He et
    al., as in torchvision.

    Example:
        >>> ResNet50()(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 2048, 2, 3])

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convention = InputConvention(3, 224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        self.out_channels = 512 * _EXPANSION
        self.conv1 = _convolution(3, 64, size=7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def stages(self) -> list[nn.Module]:
        """Return the first convolution and the four stages of blocks."""
        return [nn.ModuleList([self.conv1, self.bn1]), self.layer1, self.layer2, self.layer3, self.layer4]

    def run_stage(self, index: int, features: Tensor) -> Tensor:
        """Compute a stage; all map (B, 3, H, W) to (B, 2048, h, w), where h and w are H / 32 and W / 32, rounded up."""
        if index == 0:
            images = features.contiguous(memory_format=torch.channels_last)
            return max_pool2d(convolve(self.conv1, self.bn1, images, relu), 3, 2, padding=1)
        outputs: Tensor = self.stages()[index](features)
        return outputs


class _Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = width * _EXPANSION
        self.conv1 = _convolution(before, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, size=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, after)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample = nn.Sequential()  # the shortcut; empty, it is the identity
        if before != after or stride > 1:
            self.downsample.extend([_convolution(before, after, stride=stride), nn.BatchNorm2d(after)])

    def forward(self, features: Tensor) -> Tensor:
        branch = convolve(self.conv1, self.bn1, features, relu)
        branch = convolve(self.conv2, self.bn2, branch, relu)
        branch = convolve(self.conv3, self.bn3, branch)
        shortcut = features
        if len(self.downsample):
            convolution, norm = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(self.downsample))
            shortcut = convolve(convolution, norm, features)
        return relu(branch.add_(shortcut))


def _stage(before: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(before, width, stride)
    return nn.Sequential(first, *(_Bottleneck(width * _EXPANSION, width, 1) for _ in range(blocks - 1)))


def _convolution(before: int, after: int, size: int = 1, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution

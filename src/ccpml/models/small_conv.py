"""A small network for small images: trains from scratch on a CPU in minutes."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ccpml.models.embedding import InputConvention, StagedBackbone
from ccpml.numbers import as_int

__all__ = ["SmallConv"]


class SmallConv(StagedBackbone):
    """Four blocks of 3 × 3 convolution, BatchNorm and ReLU, the first three with 2 × 2 max pooling.

    Args:
        channels: Channels of the images, 1 or 3.
        width: Channels of the first block; the others have two, four and four times as many.

    Raises:
        ValueError: From ``forward``, if images are smaller than 28 × 28.

    Example:
        >>> SmallConv(channels=3)(torch.zeros(2, 3, 28, 40)).shape
        torch.Size([2, 128, 3, 5])
    """

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        channels, width = as_int("channels", channels, 1), as_int("width", width, 1)
        self.convention = InputConvention(channels, image_size=32, mean=(0.5,) * channels, std=(0.25,) * channels)
        self.out_channels = 4 * width
        self.blocks = nn.Sequential()
        for before, after in pairwise([channels, width, 2 * width, 4 * width, 4 * width]):
            self.blocks.append(nn.Conv2d(before, after, 3, padding=1, bias=False))
            if before != after:  # all but the last; pooling first makes the rest of the block cheaper
                self.blocks.append(nn.MaxPool2d(2))
            self.blocks.extend([nn.BatchNorm2d(after), nn.ReLU(inplace=True)])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def stages(self) -> list[nn.Module]:
        """Return the four blocks."""
        starts = [index for index, layer in enumerate(self.blocks) if isinstance(layer, nn.Conv2d)]
        return [self.blocks[start:end] for start, end in pairwise([*starts, len(self.blocks)])]

    def run_stage(self, index: int, features: Tensor) -> Tensor:
        """Compute a stage; all map (B, C, H, W) to (B, F, H // 8, W // 8)."""
        if index == 0:
            height, width = features.shape[2:]
            if min(height, width) < 28:
                raise ValueError(f"images: expected at least 28 × 28 for small_conv, got {height} × {width}")
            features = features.contiguous(memory_format=torch.channels_last)
        outputs: Tensor = self.stages()[index](features)
        return outputs

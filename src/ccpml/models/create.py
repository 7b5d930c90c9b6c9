"""Models by the names of their backbones."""

from pathlib import Path

from ccpml.models.bn_inception import BNInception
from ccpml.models.embedding import Backbone, EmbeddingModel, Pooling
from ccpml.models.hub import imagenet_weights
from ccpml.models.resnet50 import ResNet50
from ccpml.models.small_conv import SmallConv
from ccpml.models.timm_backbone import TimmBackbone
from ccpml.models.weights import load_weights

__all__ = ["create_model"]


def create_model(
    backbone: str,
    embedding_dim: int = 128,
    pooling: Pooling = "avg",
    channels: int = 3,
    weights: Path | str | None = None,
    freeze_batchnorm: bool = False,
    image_size: int | None = None,
) -> EmbeddingModel:
    """Create an embedding model.

    Args:
        backbone: ``small_conv``, ``bn_inception``, ``resnet50``, or ``timm:`` and the name of a timm model
            (``timm:vit_small_patch16_224.dino``).
        embedding_dim: d.
        pooling: ``avg``, ``max`` or ``avg+max``.
        channels: Of the images, 1 or 3; 1 for ``small_conv`` only (the others see grey as three channels).
        weights: A file that [`load_weights`][ccpml.models.load_weights] loads into the backbone; or ``imagenet``, the
            published weights, from the hub cache or downloaded (of a timm model, whatever is published by that name).
        freeze_batchnorm: Whether every BatchNorm stays as it is, in training too.
        image_size: Side of the images, for the backbones that are made for one size (most transformers of timm); None
            is the size of their published weights. The others take any size.

    Raises:
        ValueError: If an argument is out of its range, or the weights do not fit, or are not to be had.
        RuntimeError: If a timm model is asked for and timm cannot be imported.

    Example:
        >>> model = create_model("small_conv", embedding_dim=16, channels=1)
        >>> model.linear.out_features, model.backbone.convention.channels
        (16, 1)
    """
    net = _create_backbone(backbone, channels, image_size, weights == "imagenet")
    if weights == "imagenet":
        if not isinstance(net, TimmBackbone):
            load_weights(net, imagenet_weights(backbone))
    elif weights is not None:
        load_weights(net.model if isinstance(net, TimmBackbone) else net, weights)  # published files name timm's layers
    return EmbeddingModel(net, embedding_dim, pooling, freeze_batchnorm)


def _create_backbone(name: str, channels: int, image_size: int | None, pretrained: bool) -> Backbone:
    if channels not in {1, 3}:
        raise ValueError(f"channels: expected 1 or 3, got {channels}")
    if name == "small_conv":
        return SmallConv(channels)
    if name not in {"bn_inception", "resnet50"} and not name.startswith("timm:"):
        expected = "'small_conv', 'bn_inception', 'resnet50' or 'timm:<name>'"
        raise ValueError(f"backbone: expected {expected}, got {name!r}")
    if channels != 3:
        raise ValueError(f"channels: {name} needs channels=3 (it takes grey images as well), got {channels}")
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"), image_size, pretrained)
    return BNInception() if name == "bn_inception" else ResNet50()

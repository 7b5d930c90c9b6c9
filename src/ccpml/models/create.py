"""Creation of models by name."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Literal

from ccpml.artifacts import expand_home
from ccpml.backbones import find_backbone
from ccpml.models.embedding import Backbone, EmbeddingModel, Pooling
from ccpml.models.hub import imagenet_weights
from ccpml.models.timm_backbone import TimmBackbone
from ccpml.models.weights import load_weights
from ccpml.numbers import as_int, check_flags

__all__ = ["create_model"]


def create_model(
    backbone: str,
    embedding_dim: int = 128,
    pooling: Pooling = "avg",
    channels: int = 3,
    weights: Path | str | None = None,
    freeze_batchnorm: bool = False,
    image_size: int | None = None,
    bias: bool = False,
    trained_stages: int | Literal["all"] = "all",
) -> EmbeddingModel:
    """Create an embedding model.

    Args:
        backbone: A name from the table of backbones: ``small_conv``, ``efficientnet_lite0``, ``bn_inception``,
            ``resnet50``, or ``timm:`` and the name of a timm model (``timm:vit_small_patch16_224.dino``).
        embedding_dim: Number of dimensions d of an embedding.
        pooling: ``avg``, ``max`` or ``avg+max``.
        channels: Channels of the images, 1 or 3; 1 for ``small_conv`` only (the others repeat a gray channel).
        weights: File that [`load_weights`][ccpml.models.load_weights] loads into the backbone; or ``imagenet`` for the
            published weights, from an installed package (``efficientnet_lite0``), the hub cache or downloaded (for
            timm, the weights published under that name).
        freeze_batchnorm: Whether every BatchNorm stays frozen, in training too.
        image_size: Side of the images, for backbones built for one size (most transformers of timm); None is the size
            of their published weights. Other backbones take any size.
        bias: Whether the linear layer has a bias, as [`start_head`][ccpml.start_head] needs it.
        trained_stages: Number of stages of the backbone that are trained, from the last; the others are frozen, their
            BatchNorms too. 0 trains the linear layer alone.

    Returns:
        A model from images (B, channels, H, W) to embeddings (B, d).

    Raises:
        ValueError: If an argument is out of range, or the weights do not fit or are not available.
        RuntimeError: If a timm model is requested and timm cannot be imported.

    Example:
        >>> model = create_model("small_conv", embedding_dim=16, channels=1)
        >>> import torch
        >>> model(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 16])

    Source: Gürbüz et al., WACV 2024, Section 5 (``bn_inception``, ``resnet50``).
    """
    check_flags(freeze_batchnorm=freeze_batchnorm, bias=bias)
    channels = as_int("channels", channels)
    image_size = None if image_size is None else as_int("image_size", image_size, 1)
    if channels not in {1, 3}:
        raise ValueError(f"channels: expected 1 or 3, got {channels}")
    if not isinstance(weights, str | None):
        weights = expand_home(weights, "weights")
    entry = find_backbone(backbone)
    if channels != 3 and not entry.takes_gray:
        raise ValueError(f"channels: expected 3 for {backbone}, which also takes gray images, got {channels}")
    arguments: tuple[object, ...] = (channels,) if entry.takes_gray else ()
    if entry.variants:
        arguments = backbone.partition(":")[2], image_size, weights == "imagenet"
    net: Backbone = resolve_name(entry.path)(*arguments)
    if weights == "imagenet":
        weights = None if entry.variants else imagenet_weights(backbone)
    if weights is not None:
        # published files use the layer names of timm itself
        load_weights(net.model if isinstance(net, TimmBackbone) else net, weights)
    return EmbeddingModel(net, embedding_dim, pooling, freeze_batchnorm, bias, trained_stages)

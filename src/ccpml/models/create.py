"""Models by the names of their backbones."""

from pathlib import Path

from ccpml.models.embedding import Backbone, EmbeddingModel, Pooling
from ccpml.models.small_conv import SmallConv

__all__ = ["create_model"]


def create_model(
    backbone: str,
    embedding_dim: int = 128,
    pooling: Pooling = "avg",
    channels: int = 3,
    weights: Path | str | None = None,
    freeze_batchnorm: bool = False,
) -> EmbeddingModel:
    net: Backbone = SmallConv(channels)
    return EmbeddingModel(net, embedding_dim, pooling, freeze_batchnorm)

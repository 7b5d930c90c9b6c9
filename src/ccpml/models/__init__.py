"""Backbones and the embedding model."""

from ccpml.models.create import create_model
from ccpml.models.embedding import Backbone, EmbeddingModel, InputConvention, Pooling, freeze_batchnorm
from ccpml.models.small_conv import SmallConv

__all__ = [
    "Backbone",
    "EmbeddingModel",
    "InputConvention",
    "Pooling",
    "SmallConv",
    "create_model",
    "freeze_batchnorm",
]

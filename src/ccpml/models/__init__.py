"""Backbones and the embedding model."""

from ccpml.models.bn_inception import BNInception
from ccpml.models.create import create_model
from ccpml.models.efficientnet_lite0 import EfficientNetLite0
from ccpml.models.embedding import (
    Backbone,
    EmbeddingModel,
    InputConvention,
    Pooling,
    StagedBackbone,
    freeze_batchnorm,
)
from ccpml.models.head_start import HeadStart, closed_form_head, start_head
from ccpml.models.hub import imagenet_weights
from ccpml.models.resnet50 import ResNet50
from ccpml.models.small_conv import SmallConv
from ccpml.models.timm_backbone import TimmBackbone
from ccpml.models.weights import load_weights

__all__ = [
    "BNInception",
    "Backbone",
    "EfficientNetLite0",
    "EmbeddingModel",
    "HeadStart",
    "InputConvention",
    "Pooling",
    "ResNet50",
    "SmallConv",
    "StagedBackbone",
    "TimmBackbone",
    "closed_form_head",
    "create_model",
    "freeze_batchnorm",
    "imagenet_weights",
    "load_weights",
    "start_head",
]

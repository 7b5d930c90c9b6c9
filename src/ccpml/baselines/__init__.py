"""Baselines: the losses CCP is compared with, under the same calling convention."""

from ccpml.baselines.arcface import ArcFaceLoss, SubCenterArcFaceLoss
from ccpml.baselines.cross_batch_memory import CrossBatchMemory
from ccpml.baselines.proxy_anchor import ProxyAnchorLoss
from ccpml.baselines.proxy_loss import ProxyLoss
from ccpml.baselines.proxy_nca import ProxyNCALoss
from ccpml.baselines.soft_triple import SoftTripleLoss

__all__ = [
    "ArcFaceLoss",
    "CrossBatchMemory",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "ProxyNCALoss",
    "SoftTripleLoss",
    "SubCenterArcFaceLoss",
]

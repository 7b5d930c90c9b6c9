"""The methods that CCP is compared with, on the same calling convention."""

from ccpml.rivals.arcface import ArcFaceLoss, SubCenterArcFaceLoss
from ccpml.rivals.memory import CrossBatchMemory
from ccpml.rivals.proxy_anchor import ProxyAnchorLoss
from ccpml.rivals.proxy_loss import ProxyLoss
from ccpml.rivals.proxy_nca import ProxyNCALoss
from ccpml.rivals.soft_triple import SoftTripleLoss

__all__ = [
    "ArcFaceLoss",
    "CrossBatchMemory",
    "ProxyAnchorLoss",
    "ProxyLoss",
    "ProxyNCALoss",
    "SoftTripleLoss",
    "SubCenterArcFaceLoss",
]

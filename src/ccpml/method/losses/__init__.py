"""The four pair losses ℓ of the paper, one file each.

Each takes a batch and its references: the batch itself, or proxies. D are Euclidean distances and S inner products,
both of φ-normalized vectors; P⁺ and P⁻ are the pairs (anchor, reference) of one class and of different classes. A
sample is never paired with itself. The anchor is the sample, the reference the proxy. A mean over no terms is 0, with
zero gradient.
"""

from ccpml.method.losses.contrastive import ContrastiveLoss
from ccpml.method.losses.cosine_contrastive import CosineContrastiveLoss
from ccpml.method.losses.multi_similarity import MultiSimilarityLoss
from ccpml.method.losses.triplet import TripletMarginLoss

__all__ = ["ContrastiveLoss", "CosineContrastiveLoss", "MultiSimilarityLoss", "TripletMarginLoss"]

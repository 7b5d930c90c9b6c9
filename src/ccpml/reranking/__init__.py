"""Better rankings from the same embeddings, and cheaper ones: re-ranking, fusion and small rows. Imports no torch."""

from ccpml.reranking.expansion import augmentation, query_expansion
from ccpml.reranking.methods import METHODS, Reranker
from ccpml.reranking.neighbors import Neighbors, nearest
from ccpml.reranking.quantization import DTYPES, Codes
from ccpml.reranking.reciprocal import k_reciprocal
from ccpml.reranking.vectors import join, normalize

__all__ = [
    "DTYPES",
    "METHODS",
    "Codes",
    "Neighbors",
    "Reranker",
    "augmentation",
    "join",
    "k_reciprocal",
    "nearest",
    "normalize",
    "query_expansion",
]

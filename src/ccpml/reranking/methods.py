"""The methods of re-ranking by their names."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ccpml.reranking.expansion import augmentation, query_expansion
from ccpml.reranking.neighbors import Neighbors
from ccpml.reranking.reciprocal import k_reciprocal

__all__ = ["METHODS", "Reranker"]


class Reranker(Protocol):
    """A method with its default parameters: it ranks a gallery (G, d) for queries (Q, d), its rows ``own``."""

    def __call__(
        self,
        queries: NDArray[np.float32],
        gallery: NDArray[np.float32],
        k: int,
        own: NDArray[np.int64] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Neighbors:
        """Return the k best rows of the gallery for each query."""


METHODS: Final[Mapping[str, Reranker]] = {
    "k-reciprocal": k_reciprocal,
    "query-expansion": query_expansion,
    "augmentation": augmentation,
}

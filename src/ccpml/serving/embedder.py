"""What an index needs of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embedder", "check_embedder"]


class Embedder(Protocol):
    """A model that turns images into vectors; `ccpml.Run` is one."""

    @property
    def path(self) -> Path:
        """Where the model is."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing, in hexadecimal: equal fingerprints produce equal embeddings."""

    @property
    def embedding_dim(self) -> int:
        """Dimensions d of an embedding."""

    def embed(self, images: Sequence[Path | str | bytes | NDArray[np.uint8]]) -> Any:
        """Return φ-normalized embeddings of files, contents of files or arrays, as an array-like of shape (N, d).

        Raises:
            BadImageError: If an image cannot be read.
        """


def check_embedder(embedder: object) -> None:
    """Check that this is a model, not its path.

    Raises:
        ValueError: If it is not.
    """
    if not all(hasattr(embedder, name) for name in ("fingerprint", "embedding_dim", "embed", "path")):
        raise ValueError(f"embedder: expected a model, such as load_run returns, got {embedder!r}")

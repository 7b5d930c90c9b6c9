"""What an index needs of a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ccpml.numbers import as_int
from ccpml.reranking.vectors import as_numbers

__all__ = ["MAX_LENGTH", "Embedder", "check_embedder", "embed_checked"]

MAX_LENGTH: Final = 1.001
"""Greatest length of an embedding: 1 after φ, and its rounding."""


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
        ValueError: If it is not, or an attribute is of another type.
    """
    names = ("fingerprint", "embedding_dim", "embed", "path")
    if isinstance(embedder, type) or not all(hasattr(embedder, name) for name in names):
        raise ValueError(f"embedder: expected a model, such as load_run returns, got {embedder!r}")
    model: Any = embedder
    if not isinstance(model.fingerprint, str):
        raise ValueError(f"embedder: expected a text as fingerprint, got {model.fingerprint!r}")
    if not isinstance(model.path, Path):
        raise ValueError(f"embedder: expected a pathlib.Path as path, got {model.path!r}")
    as_int("embedder: embedding_dim", model.embedding_dim, 1)


def embed_checked(embedder: Embedder, images: Sequence[Any], names: Sequence[object] = ()) -> NDArray[np.float32]:
    """Return the embeddings of images by a model, float32 (N, d), after checking them.

    Args:
        embedder: The model.
        images: As in `Embedder.embed`.
        names: What messages call each image; by default its number.

    Raises:
        BadImageError: If an image cannot be read.
        ValueError: If they have another shape or type, are not finite, or are longer than 1.
    """
    path = embedder.path
    vectors = as_numbers(str(path), embedder.embed(images)).astype(np.float32)
    if not len(images):
        return vectors.reshape(0, embedder.embedding_dim)
    expected = (len(images), embedder.embedding_dim)
    if vectors.shape != expected:
        raise ValueError(f"{path}: expected embeddings of shape {expected}, got {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(lengths <= MAX_LENGTH))  # NaN too
    if not len(wrong):
        return np.ascontiguousarray(vectors)
    name = names[wrong[0]] if names else f"image {wrong[0]} of {len(images)}"
    if not np.isfinite(vectors).all():
        why = "expected finite embeddings, got NaN or infinity"
        raise ValueError(f"{path}: {why} for {name}; the weights have diverged or are damaged")
    why = f"expected φ-normalized embeddings, of length 1 or less, got {lengths[wrong[0]]:.4g}"
    raise ValueError(f"{path}: {why} for {name}; divide those that are longer by their length")

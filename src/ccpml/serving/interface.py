"""What an index offers, whether it is a directory or a collection of a server, and how one is opened."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.serving.collect import Pictures
from ccpml.serving.embedder import Embedder
from ccpml.serving.filters import Filter
from ccpml.serving.index import Index
from ccpml.serving.items import Hit, Item, Picture, Summary
from ccpml.serving.qdrant import QdrantIndex
from ccpml.serving.qdrant.address import is_address
from ccpml.serving.sync import Synced
from ccpml.serving.writer import Added

__all__ = ["PictureIndex", "create_index", "index_exists", "open_index"]


class PictureIndex(Protocol):
    """An index of pictures: `Index` on the disk, or `QdrantIndex` on a server. As text, it is where it is."""

    fingerprint: str
    embedding_dim: int
    model_path: Path
    path: Path
    """Folder for what a service keeps beside the items: pictures of clients, verdicts."""

    @property
    def version(self) -> int:
        """A number that changes when the items do."""

    def __len__(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None:
        """Close files or connections."""

    def discard(self) -> None:
        """Delete the index with all its items, and close it."""

    def embed(self, images: Sequence[Path | str | bytes | NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed images with the model of the index, float32 (N, d)."""

    def add(
        self,
        pictures: Iterable[Picture | Path | str],
        progress: Callable[[int], Any] | None = None,
        source: str = "",
    ) -> Added:
        """Add pictures; one with the path of an item takes its place."""

    def sync(self, data: str | Pictures, progress: Callable[[int], Any] | None = None) -> Synced:
        """Bring the index up to date with a folder, a CSV file or other data."""

    def remove(self, ids: Iterable[int]) -> int:
        """Remove items; return how many were present."""

    def search(self, queries: ArrayLike, k: int = 10, where: Filter | str | None = None) -> list[list[Hit]]:
        """Return the k nearest items of each query, exactly."""

    def check_fields(self, where: Filter) -> None:
        """Check that items have the fields of a filter."""

    def item(self, key: int) -> Item:
        """Return an item."""

    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of an item, a JPEG."""

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings of items, float32 (N, d)."""

    def summary(self, examples: int = 12) -> Summary:
        """Return facts about the index, with the ids of some items."""


def open_index(location: Path | str, embedder: Embedder | None = None) -> PictureIndex:
    """Open an index.

    Args:
        location: A directory, or the address of a collection, such as ``qdrant://localhost:6333/shop``.
        embedder: The model, to add or embed pictures.

    Raises:
        NotAnIndexError: If there is none.
        OtherModelError: If it was made with another model.
        QdrantError: If the server cannot be used.
    """
    if is_address(location):
        return QdrantIndex.open(str(location), embedder)
    return Index.open(location, embedder)


def create_index(location: Path | str, embedder: Embedder) -> PictureIndex:
    """Create an empty index, bound to a model; see `open_index`.

    Raises:
        FileExistsError: If it exists.
        WriteError: If the directory cannot be written.
        QdrantError: If the server cannot be used.
    """
    if is_address(location):
        return QdrantIndex.create(str(location), embedder)
    return Index.create(location, embedder)


def index_exists(location: Path | str) -> bool:
    """Whether there is something at the location of an index; see `open_index`.

    Raises:
        QdrantError: If the server cannot be used.
    """
    return QdrantIndex.exists(str(location)) if is_address(location) else Path(location).exists()

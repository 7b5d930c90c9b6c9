"""What an index offers, whether it is a directory or a collection of a server."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.artifacts import expand_home
from ccpml.numbers import as_int
from ccpml.serving.collect import Pictures
from ccpml.serving.embedder import Embedder, check_embedder, embed_checked
from ccpml.serving.ensemble import MEMBERS_FILE
from ccpml.serving.errors import OtherModelError
from ccpml.serving.filters import Filter
from ccpml.serving.index_writer import Added, IndexWriter
from ccpml.serving.items import Hit, Item, Picture, Summary, own_picture
from ccpml.serving.sync import Synced

__all__ = ["PictureIndex", "as_ids"]


def as_ids(ids: Iterable[int]) -> list[int]:
    """Return ids of items as Python's integers: those of NumPy are none to a database.

    Raises:
        ValueError: If one is no integer, or there are not several.
    """
    if not isinstance(ids, Iterable):
        raise ValueError(f"ids: expected several, such as [1, 2], got {ids!r}")
    return [as_int("ids", key) for key in ids]


class PictureIndex(ABC):
    """An index of pictures: `Index` on the disk, or `QdrantIndex` on a server. As text, it is where it is.

    A copy, also one that is pickled for another process, opens the same index again.

    Attributes:
        build: A text that tells an index from others; empty for those of earlier versions.
        fingerprint: That of the model; see `Embedder`.
        embedding_dim: Dimensions d of an embedding.
        model_path: Where the model was when the index was created.
        path: Folder for what a service keeps beside the items: pictures of clients, verdicts.
    """

    build: str
    fingerprint: str
    embedding_dim: int
    model_path: Path
    path: Path
    _writer: IndexWriter

    @property
    @abstractmethod
    def version(self) -> int:
        """A number that changes when the items do."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close files or connections."""

    @abstractmethod
    def check(self) -> None:
        """Check that it can be searched now.

        Raises:
            NotAnIndexError: If files are gone or cannot be read.
            QdrantError: If the server cannot be used.
        """

    @abstractmethod
    def discard(self) -> None:
        """Delete the index with all its items, and close it."""

    def embed(self, images: Sequence[Path | str | bytes | NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed images with the model of the index; see `Embedder.embed`.

        Returns:
            float32, (N, d).

        Raises:
            ValueError: If the index was opened without its model.
        """
        return embed_checked(self._writer.embedder, images)

    def add(
        self,
        pictures: Iterable[Picture | Path | str],
        progress: Callable[[int], Any] | None = None,
        source: str = "",
    ) -> Added:
        """Add pictures; one with the path of an item takes its place. What was added is kept after each batch.

        Args:
            pictures: Pictures or paths.
            progress: Called with the number of pictures done since the last call.
            source: Name under which `sync` knows them.

        Raises:
            ValueError: If ``pictures`` are one path alone, or an embedding is not finite; batches before it are kept.
            IndexBusyError: If another process or thread is writing to a directory.
            WriteError: If they cannot be written; batches before are kept.
            QdrantError: If the server cannot be used, after some attempts; batches before are kept.
        """
        if isinstance(pictures, str | Path | Picture):
            alone = pictures.path if isinstance(pictures, Picture) else pictures
            raise ValueError(f"pictures: expected several, got {alone} alone; pass a list")
        wanted = (one if isinstance(one, Picture) else Picture(expand_home(one, "pictures")) for one in pictures)
        with self._writer.lock():
            return self._writer.add(wanted, source, progress)

    def remove(self, ids: Iterable[int]) -> int:
        """Remove items; return how many were present. In a directory, their rows stay until it is compacted.

        Raises:
            ValueError: If ``ids`` are no integers.
            IndexBusyError: If another process or thread is writing to a directory.
            WriteError: If it cannot be written.
            QdrantError: If the server cannot be used.
        """
        keys = as_ids(ids)
        with self._writer.lock():
            return self._writer.remove(keys)

    def sources(self) -> dict[str, int]:
        """Return the number of items of each source that `sync` has read, such as ``folder:/data/photos``, by name."""
        return dict(sorted(Counter(known.facts.source for known in self._writer.known() if known.facts.source).items()))

    def remove_source(self, source: str) -> int:
        """Remove all items of one of the `sources`; return how many there were. No file of a picture is changed.

        Raises:
            ValueError: If there is no item of this source.
            IndexBusyError: If another process or thread is writing to a directory.
            WriteError: If it cannot be written.
            QdrantError: If the server cannot be used.
        """
        with self._writer.lock():
            ids = [known.id for known in self._writer.known() if source and known.facts.source == source]
            if not ids:
                expected = ", ".join(self.sources()) or "none, as it has no source"
                raise ValueError(f"{self}: expected a source of the index ({expected}), got {source}")
            return self._writer.remove(ids)

    def find_own_pictures(self, folder: Path) -> None:
        """Note where the pictures of a folder of the index are now, which a service has added before it was moved.

        Args:
            folder: The folder, whose files are named by the SHA-256 of their contents.
        """
        changes = []
        for known in self._writer.known():
            now = own_picture(folder.parent, known.facts.path, known.content_hash)
            if not known.facts.source and now != known.facts.path:
                changes.append((known.id, known.facts._replace(path=now)))
        if changes:
            with self._writer.lock():
                self._writer.update(changes)

    @abstractmethod
    def sync(self, data: str | Pictures, progress: Callable[[int], Any] | None = None) -> Synced:
        """Bring the index up to date with a folder, a CSV file or other data."""

    @abstractmethod
    def search(self, queries: ArrayLike, k: int = 10, where: Filter | str | None = None) -> list[list[Hit]]:
        """Return the k nearest items of each query, exactly."""

    @abstractmethod
    def check_fields(self, where: Filter) -> None:
        """Check that items have the fields of a filter."""

    @abstractmethod
    def item(self, key: int) -> Item:
        """Return an item."""

    @abstractmethod
    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of an item, a JPEG."""

    @abstractmethod
    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings of items, float32 (N, d)."""

    @abstractmethod
    def summary(self, examples: int = 12) -> Summary:
        """Return facts about the index, with the ids of some items."""

    def check_model(self, embedder: Embedder) -> None:
        """Check that an embedder is the model that the index was made with, whose vectors alone can be compared.

        Raises:
            OtherModelError: If it is another one.
            ValueError: If it is no model.
        """
        check_embedder(embedder)
        if embedder.fingerprint == self.fingerprint:
            return
        if embedder.path.absolute() == self.model_path and embedder.embedding_dim < self.embedding_dim:
            file = self.path / MEMBERS_FILE
            if file.exists():
                alone = f"got {embedder.path} alone; pass an EnsembleEmbedder of those that {file} names"
                raise OtherModelError(f"{self}: expected all models that the index was made with, {alone}")
            raise OtherModelError(
                f"{file}: not found, although the index was made with several models; restore it from a copy, or bring "
                "the index up to date with all of them, which writes it again"
            )
        raise OtherModelError(
            f"{self}: expected the model that the index was made with ({self.model_path}), got other weights or "
            f"another preprocessing in {embedder.path}; use that model, or build a new index"
        )

    def _check_model(self, embedder: Embedder | None) -> None:
        """Close the index if it was opened with another model."""
        try:
            if embedder is not None:
                self.check_model(embedder)
        except ValueError:
            self.close()
            raise

    def _missing(self, key: int) -> KeyError:
        return KeyError(f"{self}: no item has the id {key}")

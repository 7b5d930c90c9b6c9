"""What changes an index, whether it is a directory or a collection of a server."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final, NamedTuple, TypeVar

from ccpml.data.images.read import BadImageError
from ccpml.serving.embedder import Embedder
from ccpml.serving.embedding import embed_pictures
from ccpml.serving.items import Picture
from ccpml.serving.pictures import NewItem
from ccpml.serving.storage.transaction import Facts

__all__ = ["CHUNK", "Added", "IndexWriter", "Known", "in_chunks"]

T = TypeVar("T")

CHUNK: Final = 1000
"""Items that are changed at a time, where none is embedded."""


class Added(NamedTuple):
    """Ids of the pictures that were added, and the images that were skipped as they cannot be read."""

    ids: list[int]
    skipped: list[BadImageError]


class Known(NamedTuple):
    """What an index knows about a picture."""

    id: int
    content_hash: str
    facts: Facts


class IndexWriter(ABC):
    """What changes an index; `lock` is held meanwhile. What a method has returned is kept whatever happens then.

    Args:
        name: The index, for messages.
        embedder: The model, if there is one.
    """

    def __init__(self, name: str, embedder: Embedder | None) -> None:
        self._name, self.given_embedder = name, embedder

    @property
    def embedder(self) -> Embedder:
        """The model.

        Raises:
            ValueError: If the index was opened without one.
        """
        if self.given_embedder is None:
            raise ValueError(f"{self._name}: opened without its model; pass it when the index is opened")
        return self.given_embedder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the index; there is none unless a subclass has one."""
        yield

    def add(self, pictures: Iterable[Picture], source: str, progress: Callable[[int], Any] | None) -> Added:
        """Embed and add pictures; see `PictureIndex.add`."""
        done = Added([], [])
        with closing(embed_pictures(self.embedder, self.named(pictures, done.skipped))) as batches:
            for batch in batches:
                done.ids.extend(self.append(batch.new, source))
                done.skipped.extend(error for _, error in batch.skipped)
                if progress is not None:
                    progress(len(batch))
        return done

    def named(self, pictures: Iterable[Picture], others: list[BadImageError]) -> Iterable[Picture]:
        """Yield pictures whose paths the index can keep; append errors about the others to a list."""
        return pictures

    @abstractmethod
    def known(self) -> Iterable[Known]:
        """Return what is known about all items."""

    def damaged(self) -> set[int]:
        """Return the ids of items that are not what was written."""
        return set()

    @abstractmethod
    def append(self, new: list[NewItem], source: str) -> list[int]:
        """Add items, in place of those with the same paths; return their ids."""

    @abstractmethod
    def update(self, changes: Sequence[tuple[int, Facts]]) -> None:
        """Change the facts of items, by id, which then take the place of others with the same paths."""

    @abstractmethod
    def remove(self, ids: Iterable[int]) -> int:
        """Remove items; return how many were present."""


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items in lists of at most ``size``."""
    chunk = list[T]()
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

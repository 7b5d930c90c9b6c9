"""An index of pictures: one directory that can be searched, added to and removed from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.data.images.read import BadImageError
from ccpml.serving.embedder import Embedder
from ccpml.serving.exact import nearest_rows
from ccpml.serving.items import Hit, Item, Picture
from ccpml.serving.pictures import digest, read_picture
from ccpml.serving.rows import append_rows, map_rows
from ccpml.serving.store import NewItem, Store

__all__ = ["Added", "Index", "NotAnIndexError", "OtherModelError", "Summary"]

_VERSION: Final = "1"
_BATCH: Final = 64  # pictures embedded and acknowledged at a time


class NotAnIndexError(ValueError):
    """A path is not the directory of an index."""


class OtherModelError(ValueError):
    """An index was made with other weights or another preprocessing than those of the model."""


class Added(NamedTuple):
    """Ids of the pictures that were added, and the images that were skipped as they cannot be read."""

    ids: list[int]
    skipped: list[BadImageError]


class Summary(NamedTuple):
    """Facts about an index: number of items and of labels, names of the columns of metadata, ids of some items."""

    items: int
    labels: int
    columns: list[str]
    examples: list[int]


class Index:
    """An index of pictures and their embeddings.

    Create one with `create`, open one with `open`; it is a context manager.

    Example:
        ```python
        with Index.create("shop.index", load_run("runs/photos")) as index:
            index.add(Path("photos").rglob("*.png"))
            for hit in index.search(index.embed(["query.jpg"]), k=5)[0]:
                print(hit.distance, hit.item.path)
        ```
    """

    def __init__(self, path: Path, store: Store, embedder: Embedder | None) -> None:
        self.path = path
        self._store = store
        self._embedder = embedder
        meta = store.meta()
        self.fingerprint = meta["fingerprint"]
        self.embedding_dim = int(meta["embedding_dim"])
        self.model_path = Path(meta["model"])

    @classmethod
    def create(cls, path: Path | str, embedder: Embedder) -> "Index":
        """Create an empty index, bound to a model.

        Raises:
            FileExistsError: If the path exists.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path}: already exists")
        path.mkdir(parents=True)
        meta = {
            "version": _VERSION,
            "fingerprint": embedder.fingerprint,
            "embedding_dim": str(embedder.embedding_dim),
            "model": str(embedder.path.resolve()),
        }
        return cls(path, Store.create(path / "index.sqlite", meta), embedder)

    @classmethod
    def open(cls, path: Path | str, embedder: Embedder | None = None) -> "Index":
        """Open an index; to add or embed pictures, with its model.

        Raises:
            NotAnIndexError: If there is none.
            OtherModelError: If it was made with another model.
        """
        path = Path(path)
        file = path / "index.sqlite"
        if not file.is_file():
            raise NotAnIndexError(f"{path}: not an index")
        index = cls(path, Store(file), embedder)
        if embedder is not None and embedder.fingerprint != index.fingerprint:
            raise OtherModelError(
                f"{path}: expected the model that the index was made with ({index.model_path}), got other weights or "
                f"another preprocessing in {embedder.path}; use that model, or build a new index"
            )
        return index

    def __len__(self) -> int:
        return self._store.num_items()

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its files."""
        self._store.close()

    def embed(self, images: Sequence[Path | str | bytes | NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed images with the model of the index; see `Embedder.embed`.

        Returns:
            float32, (N, d).

        Raises:
            ValueError: If the index was opened without its model.
        """
        if self._embedder is None:
            raise ValueError(f"{self.path}: opened without its model; pass it to Index.open")
        return np.asarray(self._embedder.embed(images), dtype=np.float32).reshape(-1, self.embedding_dim)

    def add(self, pictures: Iterable[Picture | Path | str], progress: Callable[[int], Any] | None = None) -> Added:
        """Add pictures; after each batch, what was added is on the disk.

        Args:
            pictures: Pictures or paths.
            progress: Called with the number of pictures done since the last call.
        """
        done, batch = Added([], []), list[Picture]()
        for picture in pictures:
            batch.append(picture if isinstance(picture, Picture) else Picture(Path(picture)))
            if len(batch) == _BATCH:
                self._add_batch(batch, done, progress)
                batch = []
        self._add_batch(batch, done, progress)
        return done

    def _add_batch(self, batch: list[Picture], done: Added, progress: Callable[[int], Any] | None) -> None:
        new = []
        for picture in batch:
            try:
                new.append(self._new_item(picture))
            except BadImageError as error:
                done.skipped.append(error)
        if new:
            with self._store.transaction():
                start = self._store.num_rows()
                append_rows(self._rows_file, start, np.stack([item.vector for item in new]))  # (B, d)
                ids = self._store.insert(start, new)
            done.ids.extend(ids)
        if progress is not None:
            progress(len(batch))

    def _new_item(self, picture: Picture) -> NewItem:
        read = read_picture(picture)
        try:
            found, vector = digest(read.content), self.embed([read.content])[0]
        except BadImageError as error:
            raise BadImageError(error.reason, read.path) from error
        return NewItem(read.path, read.size, read.mtime_ns, picture.label, dict(picture.metadata), found, vector)

    def remove(self, ids: Iterable[int]) -> int:
        """Remove items; return how many were present. Their rows stay as tombstones until the index is compacted."""
        with self._store.transaction():
            return self._store.remove(ids)

    def search(self, queries: ArrayLike, k: int = 10) -> list[list[Hit]]:
        """Return the k nearest items of each query, exactly.

        Args:
            queries: φ-normalized vectors, (Q, d).
            k: Number of items.
        """
        vectors = np.ascontiguousarray(queries, dtype=np.float32).reshape(-1, self.embedding_dim)  # (Q, d)
        distances, rows = nearest_rows(vectors, self._rows(), k, self._store.removed_rows())  # (Q, k) each
        items = self._store.items_of_rows(np.unique(rows).tolist())
        return [
            [
                Hit(items[row], float(distance), rank)
                for rank, (row, distance) in enumerate(zip(found, near, strict=True), 1)
            ]
            for found, near in zip(rows.tolist(), distances.tolist(), strict=True)
        ]

    def item(self, key: int) -> Item:
        """Return an item.

        Raises:
            KeyError: If there is none with this id.
        """
        return self._find(key)[1]

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings of items, float32 (N, d).

        Raises:
            KeyError: If there is none with an id.
        """
        rows = self._rows()
        return np.array([rows[self._find(key)[0]] for key in ids], np.float32).reshape(-1, self.embedding_dim)

    def summary(self, examples: int = 12) -> Summary:
        """Return facts about the index, with the ids of some items."""
        return Summary(len(self), self._store.labels(), self._store.columns(), self._store.some_ids(examples))

    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of an item, a JPEG.

        Raises:
            KeyError: If there is none with this id.
        """
        found = self._store.thumbnail(key)
        if found is None:
            raise KeyError(f"{self.path}: no item has the id {key}")
        return found

    def _find(self, key: int) -> tuple[int, Item]:
        found = self._store.find(key)
        if found is None:
            raise KeyError(f"{self.path}: no item has the id {key}")
        return found

    @property
    def _rows_file(self) -> Path:
        return self.path / "rows.f32"

    def _rows(self) -> NDArray[np.float32]:
        return map_rows(self._rows_file, self._store.num_rows(), self.embedding_dim)


def as_json(hit: Hit) -> dict[str, Any]:
    """Return a hit as plain values."""
    return {"rank": hit.rank, "distance": hit.distance, **asdict(hit.item)}

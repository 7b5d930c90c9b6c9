"""An index of pictures: one directory that can be searched, added to and removed from."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.artifacts import expand_home, mismatch, plain_path
from ccpml.files import WriteError, remove_leftovers, temporary_path
from ccpml.numbers import as_int
from ccpml.serving.collect import Pictures, find_pictures
from ccpml.serving.compaction import Compacted, compact
from ccpml.serving.embedder import Embedder, check_embedder
from ccpml.serving.ensemble import EnsembleEmbedder, write_members
from ccpml.serving.errors import RESTORE, DamagedIndexError, NotAnIndexError, OtherModelError
from ccpml.serving.filters import Filter
from ccpml.serving.index_writer import Added
from ccpml.serving.items import Hit, Item, Summary
from ccpml.serving.picture_index import PictureIndex, as_ids
from ccpml.serving.search.exact import NotFiniteError
from ccpml.serving.search.nearest import check_fields, search
from ccpml.serving.search.scan import Scan
from ccpml.serving.storage.rows import sync_folder, write_rows
from ccpml.serving.storage.schema import BUILD, VERSION
from ccpml.serving.storage.store import Store
from ccpml.serving.storage.verify import Verified, verify
from ccpml.serving.storage.view import View, Views, rows_file
from ccpml.serving.sync import Synced, sync
from ccpml.serving.writer import Writer

__all__ = ["Added", "Index", "NotAnIndexError", "OtherModelError"]

_DATABASE = "index.sqlite"


class Index(PictureIndex):
    """An index of pictures and their embeddings, in a directory.

    `create` makes one, `open` opens one; it is a context manager. Its methods can be called by several threads, while
    one thread of one process adds or removes: each sees what was committed when it began. What `add` and `remove` have
    returned, or reported to ``progress``, is on the disk. Exact search reads the rows that are mapped into memory.

    Attributes:
        path: The directory, absolute. As text, an index is the path that was given.
        fingerprint: That of the model; see `Embedder`.
        embedding_dim: Dimensions d of an embedding.
        model_path: Where the model was when the index was created.
        scan: How rows are searched; None: exactly.

    Example:
        ```python
        with Index.create("shop.index", load_run("runs/photos")) as index:
            index.sync("photos")
            for hit in index.search(index.embed(["query.jpg"]), k=5)[0]:
                print(hit.distance, hit.item.path)
        ```
    """

    def __init__(self, path: Path, embedder: Embedder | None) -> None:
        self.path, self._name = plain_path(path), str(path)
        self._store = Store(self.path / _DATABASE)
        try:
            with self._store.snapshot() as snapshot:
                meta = snapshot.meta()
            self._read_meta(meta)
            self._views = Views(self.path, self._store, self.embedding_dim)
            self._views.check()
        except BaseException:
            self._store.close()
            raise
        self._writer: Writer = Writer(self.path, self._name, self._store, self._views, embedder)
        self.scan: Scan | None = None

    def _read_meta(self, meta: dict[str, str]) -> None:
        if meta.get("version") != VERSION:
            raise NotAnIndexError(
                f"{self}: expected an index of format {VERSION}, got {meta.get('version', 'none')}; open it with "
                "the version of ccpml that made it, or build it again"
            )
        try:
            self.build = meta.get(BUILD, "")
            self.fingerprint = meta["fingerprint"]
            self.embedding_dim = int(meta["embedding_dim"])
            self.model_path = Path(meta["model"])
        except (KeyError, ValueError) as error:
            raise DamagedIndexError(f"{self._store.file}: damaged (no valid {error}); {RESTORE}") from error

    @classmethod
    def create(cls, path: Path | str, embedder: Embedder) -> "Index":
        """Create an empty index, bound to a model. It appears when it is complete.

        Raises:
            FileExistsError: If the path exists.
            ValueError: If ``embedder`` is no model.
            WriteError: If it cannot be written.
        """
        check_embedder(embedder)
        path = expand_home(path)
        if path.exists():
            raise FileExistsError(f"{path}: already exists; choose another name, or open it")
        meta = {
            "version": VERSION,
            BUILD: uuid.uuid4().hex,
            "fingerprint": embedder.fingerprint,
            "embedding_dim": str(embedder.embedding_dim),
            "model": os.fsdecode(os.fsencode(embedder.path.resolve())),
        }
        unfinished = temporary = temporary_path(path)
        try:
            remove_leftovers(path)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            Store.create(temporary / _DATABASE, meta)
            write_rows(rows_file(temporary, 1), ())
            if isinstance(embedder, EnsembleEmbedder):
                write_members(temporary, embedder)
            os.rename(temporary, path)  # noqa: PTH104  # tests replace the module os to make calls fail
            unfinished = path
            sync_folder(path.parent)
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, OSError):
                if path.exists():  # another process was faster
                    raise FileExistsError(f"{path}: already exists; choose another name, or open it") from error
                raise WriteError(error.errno, error.strerror, str(path)) from error
            raise
        return cls(path, embedder)

    @classmethod
    def open(cls, path: Path | str, embedder: Embedder | None = None) -> "Index":
        """Open an index; to add or embed pictures, with its model.

        Raises:
            NotAnIndexError: If there is none, or one that is damaged or of another version.
            OtherModelError: If it was made with another model.
        """
        path = expand_home(path)
        if not (path / _DATABASE).is_file():
            if any(path.glob("rows.*.f32")):
                raise DamagedIndexError(f"{path}: not an index ({_DATABASE} not found; {RESTORE})")
            raise NotAnIndexError(mismatch(path, "an index", _DATABASE))
        index = cls(path, embedder)
        index._check_model(embedder)
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        return Index.open, (self.path, self._writer.given_embedder), {"scan": self.scan}

    def __len__(self) -> int:
        with self._store.snapshot() as snapshot:
            return snapshot.num_items

    def __str__(self) -> str:
        return self._name

    @property
    def version(self) -> int:
        """Number of changes since the index was created."""
        with self._store.snapshot() as snapshot:
            return snapshot.version

    @property
    def num_rows(self) -> int:
        """Number of rows, those of removed items included."""
        with self._store.snapshot() as snapshot:
            return snapshot.num_rows

    def close(self) -> None:
        """Close its files; searches under way finish."""
        self._store.close()

    def check(self) -> None:
        """Check that it can be searched now.

        Raises:
            NotAnIndexError: If its files are gone, cut off or not those that were opened.
        """
        self._store.check()
        self._views.check()

    def discard(self) -> None:
        """Delete the index with all its items, and close it."""
        self.close()
        shutil.rmtree(self.path)

    def sync(self, data: str | Pictures, progress: Callable[[int], Any] | None = None) -> Synced:
        """Bring the index up to date with a folder, a CSV file or other data.

        New and changed files are embedded. A file that has changed its size or time, but not its contents, keeps its
        vector, as does one that was renamed, alone or with a folder that is gone from where another call has read it;
        what such a folder has had and is not found again stays, and is counted in the result. Pictures whose row,
        thumbnail or facts differ from their checksums are embedded again. Items of the same source whose files are gone
        or are no images any more are removed; a file that exists but cannot be opened keeps its item. If it is
        interrupted, the next call does the rest.

        Args:
            data: What `find_pictures` reads, or has found.
            progress: Called with the number of pictures done since the last call.

        Raises:
            SourceConflictError: If labels or metadata of another source would be lost; nothing is changed.
            ValueError: If there are no pictures; as for `add`.
        """
        found = data if isinstance(data, Pictures) else find_pictures(data)
        with self._writer.lock():
            return sync(self._writer, found.outside(self.path), progress)

    def compact(self) -> Compacted:
        """Write rows and database without what removed items have left; other readers may continue meanwhile.

        Raises:
            DamagedIndexError: If a row differs from its checksum; nothing is changed.
            NoSpaceError: If there is no space for both; nothing is changed.
            WriteError: If they cannot be written; nothing is lost.
        """
        with self._writer.lock():
            return compact(self._writer, self.embedding_dim)

    def verify(self, progress: Callable[[int], Any] | None = None) -> Verified:
        """Check rows, facts and thumbnails against their checksums, counts, and the database itself.

        Args:
            progress: Called with the number of rows done since the last call.
        """
        return verify(self.path, self._views, progress)

    @contextmanager
    def view(self) -> Iterator[View]:
        """Open one committed state of the index for the time of the block."""
        with self._views.now() as view:
            yield view

    def search(self, queries: ArrayLike, k: int = 10, where: Filter | str | None = None) -> list[list[Hit]]:
        """Return the k nearest items of each query, exactly; fewer if the index has fewer, or fewer pass the filter.

        Distances are Euclidean, computed in float64 from the stored vectors; at equal distances, the item that was
        added first comes first. An item whose vector is a query is found like any other, at distance 0.

        Args:
            queries: φ-normalized vectors, (Q, d); one vector is one query.
            k: Number of items, at least 0.
            where: A filter, such as ``"label = 'mug' and price < 20"``; see `Filter`.

        Raises:
            FilterError: If the filter cannot be understood, or names a field that no item has.
            ValueError: If the queries have other dimensions or are not finite, or k is negative.
        """
        with self.view() as view:
            try:
                return search(view, queries, k, where, self.scan)
            except NotFiniteError as error:
                file = rows_file(self.path, view.snapshot.generation)
                raise DamagedIndexError(f"{file}: damaged ({error}); {RESTORE}") from error

    def check_fields(self, where: Filter) -> None:
        """Check that items have, or had, the fields of a filter; those of an empty index could have any.

        Raises:
            UnknownFieldError: If no item had one of them since the last compaction.
        """
        with self._store.snapshot() as snapshot:
            check_fields(snapshot, where)

    def item(self, key: int) -> Item:
        """Return an item.

        Raises:
            KeyError: If there is none with this id.
        """
        with self._store.snapshot() as snapshot:
            found = snapshot.find(key)
        if found is None:
            raise self._missing(key)
        return found[1]

    def at(self, path: str | os.PathLike[str]) -> Item | None:
        """Return the item of an image file, or of the name of an image that is in none; None if there is none."""
        name = expand_home(path)
        with self._store.snapshot() as snapshot:
            return snapshot.at(str(plain_path(name))) or snapshot.at(str(name))

    def items(self, after: int = 0, limit: int = -1) -> list[Item]:
        """Return up to ``limit`` items with ids above ``after``, by id; all if it is negative."""
        with self._store.snapshot() as snapshot:
            return snapshot.items(after, limit)

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings of items, float32 (N, d).

        Raises:
            KeyError: If there is none with an id.
        """
        with self.view() as view:
            keys = as_ids(ids)
            vectors = np.empty((len(keys), self.embedding_dim), np.float32)
            for number, key in enumerate(keys):
                found = view.snapshot.find(key)
                if found is None:
                    raise self._missing(key)
                vectors[number] = view.rows[found[0]]
        return vectors

    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of an item, a JPEG.

        Raises:
            KeyError: If there is none with this id.
        """
        with self._store.snapshot() as snapshot:
            found = snapshot.thumbnail(key)
        if found is None:
            raise self._missing(key)
        return found

    def summary(self, examples: int = 12) -> Summary:
        """Return facts about the index, with the ids of some items."""
        with self._store.snapshot() as snapshot:
            labels, columns = snapshot.num_labels(), snapshot.columns()
            return Summary(snapshot.num_items, labels, columns, snapshot.some_ids(as_int("examples", examples, 0)))


def as_json(hit: Hit) -> dict[str, Any]:
    """Return a hit as plain values."""
    return {"rank": hit.rank, "distance": hit.distance, **asdict(hit.item)}

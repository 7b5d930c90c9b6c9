"""An index of pictures in a collection of a qdrant server."""

import base64
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.data.images.read import BadImageError
from ccpml.numbers import as_int
from ccpml.serving.collect import Pictures, find_pictures
from ccpml.serving.embedder import Embedder, check_embedder
from ccpml.serving.filters.tree import Filter, unknown_field
from ccpml.serving.index_writer import in_chunks
from ccpml.serving.items import Hit, Item, Summary
from ccpml.serving.picture_index import PictureIndex, as_ids
from ccpml.serving.qdrant.address import Address
from ccpml.serving.qdrant.collection import columns_of, create_collection, read_meta
from ccpml.serving.qdrant.connection import Connection, connect
from ccpml.serving.qdrant.filters import qdrant_filter
from ccpml.serving.qdrant.points import NOT_OF_ITEM, item_of
from ccpml.serving.qdrant.writer import QdrantWriter
from ccpml.serving.search.approximate import LowRecallError, Recall
from ccpml.serving.search.exact import check_queries
from ccpml.serving.sync import Synced, sync

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["QdrantIndex"]

_QUERIES: Final = 64  # that are sent at a time
_VECTORS: Final = 1000  # that are read at a time
_MEASURED: Final = 200  # queries of a measurement: ids are hashes, so the first are a random sample
_MAX_LABELS: Final = 100_000  # that are counted


class QdrantIndex(PictureIndex):
    """An index of pictures and their embeddings in a collection of a qdrant server.

    Items are points: their vectors with Euclidean distance, their fields, metadata and thumbnails as payload. The
    pictures themselves stay where they are. The id of an item is derived from its path, so that an upload which failed
    is completed by repeating it. Several processes may add and remove; each change of a point is whole.

    Attributes:
        address: Address of the collection.
        path: Folder for what a service keeps beside the index, in the working directory; made when it is needed.
        fingerprint: That of the model; see `Embedder`.
        embedding_dim: Dimensions d of an embedding.
        model_path: Where the model was when the index was created.

    Example:
        ```python
        with QdrantIndex.create("qdrant://localhost:6333/shop", load_run("runs/photos")) as index:
            index.sync("photos")
            for hit in index.search(index.embed(["query.jpg"]), k=5)[0]:
                print(hit.distance, hit.item.path)
        ```
    """

    def __init__(self, connection: Connection, embedder: Embedder | None) -> None:
        self._connection = connection
        self.address = connection.address
        self.path = Path(f"{self.address.collection}.qdrant").absolute()
        meta = read_meta(connection)
        self.build = str(meta.get("build", ""))
        self.fingerprint = str(meta["fingerprint"])
        self.embedding_dim = int(meta["embedding_dim"])
        self.model_path = Path(meta["model"])
        self._uses_graph = False
        self._writer: QdrantWriter = QdrantWriter(connection, embedder, columns_of(meta))

    @classmethod
    def create(cls, address: Address | str, embedder: Embedder, client: "QdrantClient | None" = None) -> "QdrantIndex":
        """Create a collection, bound to a model.

        Args:
            address: Address of the collection.
            embedder: The model.
            client: Client to use instead of a connection to the address.

        Raises:
            FileExistsError: If the collection exists.
            QdrantError: If the server cannot be used.
        """
        check_embedder(embedder)
        connection = _connection(address, client)
        create_collection(connection, embedder)
        return cls(connection, embedder)

    @classmethod
    def open(
        cls, address: Address | str, embedder: Embedder | None = None, client: "QdrantClient | None" = None
    ) -> "QdrantIndex":
        """Open an index; to add or embed pictures, with its model.

        Args:
            address: Address of the collection.
            embedder: The model.
            client: Client to use instead of a connection to the address.

        Raises:
            NotAnIndexError: If the collection does not exist, or was not made by ccpml.
            OtherModelError: If it was made with another model.
            QdrantError: If the server cannot be used.
        """
        index = cls(_connection(address, client), embedder)
        index._check_model(embedder)
        return index

    @staticmethod
    def exists(address: Address | str) -> bool:
        """Whether there is a collection.

        Raises:
            QdrantError: If the server cannot be used.
        """
        connection = _connection(address, None)
        try:
            return bool(connection.read("collection_exists"))
        finally:
            connection.client.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return QdrantIndex.open, (str(self.address), self._writer.given_embedder)

    def __len__(self) -> int:
        return int(self._connection.read("count", exact=True).count)

    def __str__(self) -> str:
        return str(self.address)

    @property
    def version(self) -> int:
        """A number that changes every ten seconds: the server does not count changes."""
        return int(time.time() // 10)

    def close(self) -> None:
        """Close the connection."""
        self._connection.client.close()

    def check(self) -> None:
        """Check that it can be searched now.

        Raises:
            NotAnIndexError: If the collection is gone, or is another one.
            QdrantError: If the server cannot be used.
        """
        read_meta(self._connection)

    def discard(self) -> None:
        """Delete the collection with all its items, and close the connection."""
        self._connection.write("delete_collection")
        self.close()

    def sync(self, data: str | Pictures, progress: Callable[[int], Any] | None = None) -> Synced:
        """Bring the index up to date with a folder, a CSV file or other data, as `Index.sync` does.

        Only what is new or changed is embedded and uploaded, so the next call completes one that failed.

        Args:
            data: What `find_pictures` reads, or has found.
            progress: Called with the number of pictures done since the last call.

        Raises:
            ValueError: If there are no pictures; as for `add`.
            QdrantError: If the server cannot be used, after some attempts; batches before are kept.
        """
        found = data if isinstance(data, Pictures) else find_pictures(data)
        skipped = list[BadImageError]()
        named = list(self._writer.named(found, skipped))
        done = sync(self._writer, replace(found, pictures=named), progress)
        done.skipped[:0] = skipped
        return done

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        where: Filter | str | None = None,
    ) -> list[list[Hit]]:
        """Return the k nearest items of each query: exactly, unless `use_graph` was called and there is no filter.

        Distances are Euclidean, as the server computes them in float32; at equal distances, the lower id comes first.

        Args:
            queries: φ-normalized vectors, (Q, d); one vector is one query.
            k: Number of items, at least 0.
            where: A filter; see `Filter`.

        Raises:
            FilterError: If the filter cannot be understood, qdrant has no such filter, or no item has a field of it.
            ValueError: If the queries have other dimensions or are not finite, or k is negative.
            QdrantError: If the server cannot be used.
        """
        from qdrant_client import models

        vectors = check_queries(queries, self.embedding_dim)  # (Q, d)
        k = as_int("k", k, 0)
        condition = where if isinstance(where, Filter | None) else Filter.parse(where)
        if condition is not None:
            self.check_fields(condition)
        if k == 0:
            return [[] for _ in vectors]
        passing = None if condition is None else qdrant_filter(condition)
        payload = models.PayloadSelectorExclude(exclude=list(NOT_OF_ITEM))
        exact = not self._uses_graph or passing is not None
        return [_hits(points) for points in self._nearest(vectors, k, exact, passing, payload)]

    def use_graph(self, min_recall: float = 0.95) -> Recall:
        """Make the server search its HNSW graph instead of all vectors, unless there is a filter.

        Args:
            min_recall: Smallest recall@10 that is accepted, on up to 200 items of the index.

        Returns:
            The recall that was measured.

        Raises:
            LowRecallError: If it is smaller; search stays exact.
            QdrantError: If the server cannot be used.
        """
        points, _ = self._connection.read("scroll", limit=_MEASURED, with_payload=False, with_vectors=True)
        vectors = np.array([point.vector for point in points], np.float32).reshape(-1, self.embedding_dim)  # (Q, d)
        exact, graph = (
            [
                [found.id for found in near if found.id != point.id][:10]
                for point, near in zip(points, self._nearest(vectors, 11, is_exact, None, False), strict=True)
            ]
            for is_exact in (True, False)
        )
        shares = [len({*near} & {*found}) / len(near) for near, found in zip(exact, graph, strict=True) if near]
        recall = Recall(float(np.mean(shares)) if shares else 1.0, max(1, len(shares)))
        if recall.value < min_recall:
            raise LowRecallError(f"{self}: expected a recall@10 of at least {min_recall:g}, measured {recall}")
        self._uses_graph = True
        return recall

    def _nearest(
        self, vectors: NDArray[np.float32], k: int, exact: bool, passing: Any, payload: Any
    ) -> Iterator[list[Any]]:
        """Yield the nearest points of each query, of vectors (Q, d)."""
        from qdrant_client import models

        parameters = models.SearchParams(exact=exact)
        for chunk in in_chunks(vectors.tolist(), _QUERIES):
            requests = [
                models.QueryRequest(query=vector, filter=passing, params=parameters, limit=k, with_payload=payload)
                for vector in chunk
            ]
            for answer in self._connection.read("query_batch_points", requests=requests):
                yield answer.points

    def check_fields(self, where: Filter) -> None:
        """Check that items have the fields of a filter, and that a server takes it; an empty index could have any.

        Raises:
            UnknownFieldError: If no item has one of the fields.
            FilterError: If the server does not compare so.
        """
        names = [field.name for field in where.fields() if field.is_metadata]
        if not set(names) <= self._writer.columns:
            self._writer.columns = columns_of(read_meta(self._connection))  # others may have added some
        for field in where.fields():
            if field.is_metadata and field.name not in self._writer.columns and len(self):
                raise unknown_field(field, self._writer.columns)
        qdrant_filter(where)

    def item(self, key: int) -> Item:
        """Return an item.

        Raises:
            KeyError: If there is none with this id.
        """
        from qdrant_client import models

        return item_of(self._payload(key, models.PayloadSelectorExclude(exclude=list(NOT_OF_ITEM))))

    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of an item, a JPEG.

        Raises:
            KeyError: If there is none with this id.
        """
        return base64.b64decode(self._payload(key, ["thumbnail"])["thumbnail"])

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the embeddings of items, float32 (N, d).

        Raises:
            KeyError: If there is none with an id.
        """
        ids, found = as_ids(ids), dict[int, Any]()
        for chunk in in_chunks((key for key in ids if 0 < key < 2**64), _VECTORS):
            records = self._connection.read("retrieve", ids=chunk, with_payload=False, with_vectors=True)
            found |= {record.id: record.vector for record in records}
        for key in ids:
            if key not in found:
                raise self._missing(key)
        return np.array([found[key] for key in ids], np.float32).reshape(-1, self.embedding_dim)

    def summary(self, examples: int = 12) -> Summary:
        """Return facts about the index, with the ids of some items."""
        columns = sorted(columns_of(read_meta(self._connection)))
        labels = [hit.value for hit in self._connection.read("facet", key="label", limit=_MAX_LABELS, exact=True).hits]
        points = self._connection.read("scroll", limit=examples, with_payload=False)[0] if examples else []
        return Summary(len(self), len(set(labels) - {""}), columns, [point.id for point in points])

    def _payload(self, key: int, selector: Any) -> dict[str, Any]:
        key = as_int("id", key)
        records = [] if not 0 < key < 2**64 else self._connection.read("retrieve", ids=[key], with_payload=selector)
        if not records:
            raise self._missing(key)
        return dict(records[0].payload)


def _connection(address: Address | str, client: "QdrantClient | None") -> Connection:
    address = address if isinstance(address, Address) else Address.parse(address)
    return Connection(client or connect(address), address)


def _hits(points: Iterable[Any]) -> list[Hit]:
    nearest = sorted((float(point.score), point.id, point.payload) for point in points)
    return [Hit(item_of(payload), distance, rank) for rank, (distance, _, payload) in enumerate(nearest, 1)]

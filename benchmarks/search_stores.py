"""The stores that ``benchmarks.search`` compares, behind one interface: this library's index and others.

Each holds N vectors of d dimensions with ids 0 to N − 1 and a price of 0 to 99, of which a filter passes one.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PRICE = 7
"""The filter passes the items with this price, about 1 %."""

_CHUNK = 1000


class Ccpml:
    """The index of this library; items have metadata, and thumbnails that are empty."""

    package = None
    kind = ""

    def build(self, folder: Path, vectors: Any, prices: Any) -> None:
        from ccpml.serving import Index

        class Model:  # is asked for nothing
            path, fingerprint, embedding_dim = folder / "run", hashlib.sha256().hexdigest(), vectors.shape[1]

        with Index.create(folder / "index", Model()) as index:
            self.index = index
            self.count = 0
            self._insert(vectors, prices)
        self._prepare(folder)

    def _prepare(self, folder: Path) -> None:
        if self.kind:
            self.open(folder)
            self.close()

    def _insert(self, vectors: Any, prices: Any) -> None:
        from ccpml.serving.pictures import Digest, NewItem
        from ccpml.serving.storage.rows import append_rows
        from ccpml.serving.storage.view import rows_file

        writer, digest = self.index._writer, Digest("0" * 64, "0" * 16, 256, 256, b"")
        for start in range(0, len(vectors), _CHUNK):
            part = slice(start, start + _CHUNK)
            pairs = zip(vectors[part], prices[part].tolist(), strict=True)
            items = [
                NewItem(f"{self.count + number}.jpg", 1, 1, "", {"price": price}, digest, vector)
                for number, (vector, price) in enumerate(pairs)
            ]
            with writer.lock(), writer.store.transaction() as change:
                first = change.num_rows
                append_rows(rows_file(writer.folder, change.generation), first, vectors[part])
                change.insert(items, "")
            self.count += len(items)

    def open(self, folder: Path) -> None:
        from ccpml.serving import Index

        self.index = Index.open(folder / "index")
        self.count = self.index.num_rows
        if self.kind:
            from ccpml.serving.search.approximate import open_approximate

            with self.index.view() as view:
                self.index.scan = open_approximate(folder / "index", view, self.kind)

    def close(self) -> None:
        self.index.close()

    def search(self, query: Any, k: int, filtered: bool) -> list[int]:
        hits = self.index.search(query, k, f"price = {PRICE}" if filtered else None)[0]
        return [hit.item.id - 1 for hit in hits]

    def add(self, vectors: Any, prices: Any) -> None:
        self._insert(vectors, prices)

    def remove(self, ids: list[int]) -> None:
        self.index.remove([key + 1 for key in ids])


class CcpmlInt8(Ccpml):
    kind = "int8"


class CcpmlGraph(Ccpml):
    kind = "hnsw"


class FaissFlat:
    """faiss: exact search; the filter is a list of ids, found beforehand."""

    package = "faiss-cpu"

    def _new(self, dim: int) -> Any:
        import faiss

        return faiss.IndexFlatL2(dim)

    def build(self, folder: Path, vectors: Any, prices: Any) -> None:
        import faiss

        index = self._new(vectors.shape[1])
        index.add(vectors)
        faiss.write_index(index, str(folder / "index.faiss"))
        np.save(folder / "prices.npy", prices)

    def open(self, folder: Path) -> None:
        import faiss

        self.index = faiss.read_index(str(folder / "index.faiss"))
        self.passing = np.flatnonzero(np.load(folder / "prices.npy") == PRICE)

    def close(self) -> None:
        del self.index

    def _parameters(self, selector: Any) -> Any:
        import faiss

        return faiss.SearchParameters(sel=selector)

    def search(self, query: Any, k: int, filtered: bool) -> list[int]:
        import faiss

        options = {"params": self._parameters(faiss.IDSelectorBatch(self.passing))} if filtered else {}
        found: list[int] = self.index.search(query[None], k, **options)[1][0].tolist()
        return found

    def add(self, vectors: Any, prices: Any) -> None:
        self.index.add(vectors)

    def remove(self, ids: list[int]) -> None:
        self.index.remove_ids(np.array(ids))


class FaissHnsw(FaissFlat):
    """faiss: the graph of float32 vectors with 32 edges, at its defaults but for 64 candidates in a search."""

    def _new(self, dim: int) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(dim, 32)
        index.hnsw.efSearch = 64
        return index

    def _parameters(self, selector: Any) -> Any:
        import faiss

        return faiss.SearchParametersHNSW(sel=selector, efSearch=64)


class LanceDb:
    """LanceDB without a vector index: exact."""

    package = "lancedb"
    with_index = False

    def build(self, folder: Path, vectors: Any, prices: Any) -> None:
        import lancedb

        base = lancedb.connect(str(folder / "lance"))
        table = base.create_table("items", self._table(0, vectors, prices))
        if self.with_index:
            table.create_index(metric="l2", vector_column_name="vector")

    @staticmethod
    def _table(first: int, vectors: Any, prices: Any) -> Any:
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        numbers = pa.array(np.arange(first, first + len(vectors)))
        return pa.table({"id": numbers, "price": pa.array(prices), "vector": column})

    def open(self, folder: Path) -> None:
        import lancedb

        self.table = lancedb.connect(str(folder / "lance")).open_table("items")

    def close(self) -> None:
        del self.table

    def search(self, query: Any, k: int, filtered: bool) -> list[int]:
        asked = self.table.search(query).distance_type("l2").select(["id"]).limit(k)
        asked = asked.where(f"price = {PRICE}", prefilter=True) if filtered else asked
        found: list[int] = asked.to_arrow()["id"].to_pylist()
        return found

    def add(self, vectors: Any, prices: Any) -> None:
        self.table.add(self._table(self.table.count_rows(), vectors, prices))

    def remove(self, ids: list[int]) -> None:
        self.table.delete(f"id IN ({', '.join(map(str, ids))})")


class LanceDbIndexed(LanceDb):
    """LanceDB with its default index, IVF-PQ."""

    with_index = True


class QdrantLocal:
    """The local mode of qdrant-client, which keeps its points in a folder."""

    package = "qdrant-client"

    def build(self, folder: Path, vectors: Any, prices: Any) -> None:
        from qdrant_client.models import Distance, VectorParams

        client = self._client(folder)
        client.create_collection("items", VectorParams(size=vectors.shape[1], distance=Distance.EUCLID))
        self.client = client
        self._upsert(0, vectors, prices)
        client.close()

    @staticmethod
    def _client(folder: Path) -> Any:
        from qdrant_client import QdrantClient

        return QdrantClient(path=str(folder / "qdrant"))

    def _upsert(self, first: int, vectors: Any, prices: Any) -> None:
        from qdrant_client.models import PointStruct

        for start in range(0, len(vectors), _CHUNK):
            part = slice(start, start + _CHUNK)
            pairs = zip(vectors[part].tolist(), prices[part].tolist(), strict=True)
            points = [
                PointStruct(id=first + start + number, vector=vector, payload={"price": price})
                for number, (vector, price) in enumerate(pairs)
            ]
            self.client.upsert("items", points)

    def open(self, folder: Path) -> None:
        self.client = self._client(folder)

    def close(self) -> None:
        self.client.close()

    def search(self, query: Any, k: int, filtered: bool) -> list[int]:
        from qdrant_client.models import FieldCondition, Filter, MatchValue

        condition = Filter(must=[FieldCondition(key="price", match=MatchValue(value=PRICE))]) if filtered else None
        found = self.client.query_points("items", query=query.tolist(), limit=k, query_filter=condition)
        return [point.id for point in found.points]

    def add(self, vectors: Any, prices: Any) -> None:
        self._upsert(self.client.count("items").count, vectors, prices)

    def remove(self, ids: list[int]) -> None:
        self.client.delete("items", ids)


@dataclass(frozen=True)
class Entry:
    """A store in the tables: its title, how to make it, and why it is left out above a size."""

    title: str
    make: Callable[[], Any]
    most: int = 10**9
    reason: str = ""


STORES = {
    "ccpml": Entry("ccpml, exact", Ccpml),
    "ccpml-int8": Entry("ccpml, int8 rows, re-scored", CcpmlInt8),
    "ccpml-graph": Entry("ccpml, approximate", CcpmlGraph),
    "faiss-flat": Entry("faiss flat (vectors alone)", FaissFlat),
    "faiss-hnsw": Entry("faiss HNSW32 (vectors alone)", FaissHnsw),
    "lancedb": Entry("LanceDB, exact", LanceDb),
    "lancedb-ivfpq": Entry("LanceDB, IVF-PQ at its defaults", LanceDbIndexed),
    "qdrant-local": Entry(
        "qdrant-client, local mode", QdrantLocal, 100_000, "left out: it advises against more than 20,000 points"
    ),
}

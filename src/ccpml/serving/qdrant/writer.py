"""Changes of a collection. Each can be repeated: ids are those of paths."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ccpml.data.images.read import BadImageError
from ccpml.serving.embedder import Embedder
from ccpml.serving.errors import QdrantError
from ccpml.serving.index_writer import IndexWriter, Known, in_chunks
from ccpml.serving.items import Picture
from ccpml.serving.pictures import NewItem
from ccpml.serving.qdrant.collection import add_columns
from ccpml.serving.qdrant.connection import Connection
from ccpml.serving.qdrant.points import FACTS, facts_of, facts_payload, payload_of, point_id
from ccpml.serving.storage.schema import metadata_text
from ccpml.serving.storage.transaction import Facts

__all__ = ["QdrantWriter"]

_PAGE: Final = 1000  # points that are listed or removed at a time
_UPLOAD: Final = 64  # points that are uploaded at a time: about 2 MB


class QdrantWriter(IndexWriter):
    """What changes a collection.

    Args:
        connection: The collection.
        embedder: The model, if there is one.
        columns: Keys of metadata that the collection knows; new ones are added.
    """

    def __init__(self, connection: Connection, embedder: Embedder | None, columns: set[str]) -> None:
        super().__init__(str(connection.address), embedder)
        self.connection, self.columns = connection, columns

    def named(self, pictures: Iterable[Picture], others: list[BadImageError]) -> Iterator[Picture]:
        """Yield pictures whose paths are UTF-8, as texts in JSON must be; append errors about the others to a list."""
        for picture in pictures:
            try:
                str(picture.file).encode()
            except UnicodeEncodeError:
                others.append(BadImageError("its path is not UTF-8, which qdrant needs", picture.name))
            else:
                yield picture

    def known(self) -> Iterator[Known]:
        """Yield what is known about all items."""
        offset = None
        while True:
            points, offset = self.connection.read(
                "scroll", limit=_PAGE, offset=offset, with_payload=[*FACTS, "content_hash"]
            )
            for point in points:
                yield Known(point.id, point.payload["content_hash"], facts_of(point.payload))
            if offset is None:
                return

    def append(self, new: list[NewItem], source: str) -> list[int]:
        """Upload items, in place of those with the same paths; return their ids."""
        points = dict[int, tuple[dict[str, Any], list[float]]]()
        for item in new:
            facts = Facts(item.path, item.size, item.mtime_ns, item.label, metadata_text(item.metadata), source)
            payload = payload_of(facts, item.digest)
            points[payload["id"]] = payload, item.vector.tolist()
        self._upload(points)
        return [point_id(item.path) for item in new]

    def update(self, changes: Sequence[tuple[int, Facts]]) -> None:
        """Change the facts of items, by id; a change of the path moves the item to another id."""
        for chunk in in_chunks(changes, _UPLOAD):
            keys = [key for key, _ in chunk]
            records = self.connection.read("retrieve", ids=keys, with_payload=True, with_vectors=True)
            found = {record.id: record for record in records}
            moved = {
                point_id(facts.path): ({**found[key].payload, **facts_payload(facts)}, found[key].vector)
                for key, facts in chunk
                if key in found
            }
            self._upload(moved)
            self.remove(key for key in keys if key not in moved)

    def remove(self, ids: Iterable[int]) -> int:
        """Remove items; return how many were present."""
        from qdrant_client import models

        removed = 0
        for chunk in in_chunks((key for key in ids if 0 < key < 2**64), _PAGE):  # others are no ids of points
            records = self.connection.read("retrieve", ids=list(dict.fromkeys(chunk)), with_payload=False)
            present = [record.id for record in records]
            if present:
                self.connection.write("delete", points_selector=models.PointIdsList(points=present), wait=True)
            removed += len(present)
        return removed

    def _upload(self, points: dict[int, tuple[dict[str, Any], list[float]]]) -> None:
        from qdrant_client import models

        if not points:
            return
        self._check_ids(points)
        names = {name for payload, _ in points.values() for name in payload["metadata"]}
        if not names <= self.columns:
            add_columns(self.connection, names)
            self.columns |= names
        structs = [
            models.PointStruct(id=key, vector=vector, payload=payload) for key, (payload, vector) in points.items()
        ]
        self.connection.write("upsert", points=structs, wait=True)

    def _check_ids(self, points: dict[int, tuple[dict[str, Any], list[float]]]) -> None:
        """Check that no id is that of another path, which 53 bits make improbable but not impossible."""
        for record in self.connection.read("retrieve", ids=list(points), with_payload=["path"]):
            path = points[record.id][0]["path"]
            if record.payload["path"] != path:
                raise QdrantError(
                    f"{self.connection.address}: {path} has the id of {record.payload['path']}; rename one of the files"
                )

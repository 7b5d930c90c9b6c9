"""The metadata of a collection, which bind it to a model and name the columns of its items."""

import uuid
from typing import TYPE_CHECKING, Any, Final

from ccpml.serving.errors import NotAnIndexError
from ccpml.serving.qdrant.connection import Connection

if TYPE_CHECKING:
    from ccpml.serving.embedder import Embedder

__all__ = ["add_columns", "columns_of", "create_collection", "read_meta"]

_VERSION: Final = "1"
_COLUMN: Final = "column:"  # begins keys that name columns: the server merges new keys with those there are


def create_collection(connection: Connection, embedder: "Embedder") -> None:
    """Create the collection of an index.

    Raises:
        FileExistsError: If it exists.
        QdrantError: If the server cannot be used.
    """
    from qdrant_client import models

    if connection.read("collection_exists"):
        raise FileExistsError(f"{connection.address}: already exists; choose another name, or open it")
    connection.once(
        "create_collection",
        vectors_config=models.VectorParams(size=embedder.embedding_dim, distance=models.Distance.EUCLID),
        on_disk_payload=True,
        metadata={
            "ccpml": _VERSION,
            "build": uuid.uuid4().hex,
            "fingerprint": embedder.fingerprint,
            "embedding_dim": embedder.embedding_dim,
            "model": str(embedder.path.resolve()),
        },
    )
    for field in ("label", "source"):
        connection.write("create_payload_index", field_name=field, field_schema="keyword")


def read_meta(connection: Connection) -> dict[str, Any]:
    """Return the facts about an index.

    Raises:
        NotAnIndexError: If the collection does not exist, or was not made by this version of ccpml.
    """
    address = connection.address
    if not connection.read("collection_exists"):
        raise NotAnIndexError(f"{address}: not an index (collection not found); create it first")
    config = connection.read("get_collection").config
    meta = config.metadata or {}
    if "ccpml" not in meta:
        raise NotAnIndexError(
            f"{address}: not an index; expected a collection that ccpml made, on a server that keeps metadata (1.16 or "
            "newer); choose another name"
        )
    if meta["ccpml"] != _VERSION:
        raise NotAnIndexError(f"{address}: expected an index of format {_VERSION}, got {meta['ccpml']}; build it again")
    size = getattr(config.params.vectors, "size", None)
    if size != meta["embedding_dim"]:
        raise NotAnIndexError(f"{address}: expected vectors with {meta['embedding_dim']} dimensions, got {size}")
    return dict(meta)


def columns_of(meta: dict[str, Any]) -> set[str]:
    """Return the keys of metadata that items have or had."""
    return {key.removeprefix(_COLUMN) for key in meta if key.startswith(_COLUMN)}


def add_columns(connection: Connection, names: set[str]) -> None:
    """Add keys of metadata."""
    connection.write("update_collection", metadata={f"{_COLUMN}{name}": True for name in names})

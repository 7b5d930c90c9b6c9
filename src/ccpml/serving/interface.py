"""How an index is opened or created, whether it is a directory or a collection of a server."""

from pathlib import Path

from ccpml.artifacts import expand_home
from ccpml.serving.embedder import Embedder
from ccpml.serving.index import Index
from ccpml.serving.picture_index import PictureIndex
from ccpml.serving.qdrant import QdrantIndex
from ccpml.serving.qdrant.address import is_address

__all__ = ["PictureIndex", "create_index", "index_exists", "open_index"]


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
    return QdrantIndex.exists(str(location)) if is_address(location) else expand_home(location, "location").exists()

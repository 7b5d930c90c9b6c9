"""Search: an index of pictures, exact and filtered search in it. Imports no torch."""

from ccpml.serving.collect import Pictures, find_pictures
from ccpml.serving.embedder import Embedder
from ccpml.serving.errors import (
    DamagedIndexError,
    IndexBusyError,
    NotAnIndexError,
    OtherModelError,
    QdrantError,
    SourceConflictError,
)
from ccpml.serving.filters import Filter, FilterError
from ccpml.serving.index import Index
from ccpml.serving.interface import PictureIndex, create_index, index_exists, open_index
from ccpml.serving.items import Hit, Item, Picture
from ccpml.serving.qdrant import QdrantIndex
from ccpml.serving.search.queries import Query, Reply, ask, find_queries

__all__ = [
    "DamagedIndexError",
    "Embedder",
    "Filter",
    "FilterError",
    "Hit",
    "Index",
    "IndexBusyError",
    "Item",
    "NotAnIndexError",
    "OtherModelError",
    "Picture",
    "PictureIndex",
    "Pictures",
    "QdrantError",
    "QdrantIndex",
    "Query",
    "Reply",
    "SourceConflictError",
    "ask",
    "create_index",
    "find_pictures",
    "find_queries",
    "index_exists",
    "open_index",
]

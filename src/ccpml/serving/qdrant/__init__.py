"""An index of pictures in a collection of a qdrant server, with the interface of `ccpml.serving.Index`."""

from ccpml.serving.errors import QdrantError
from ccpml.serving.qdrant.address import Address
from ccpml.serving.qdrant.index import QdrantIndex

__all__ = ["Address", "QdrantError", "QdrantIndex"]

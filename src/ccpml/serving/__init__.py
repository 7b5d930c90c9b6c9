"""Search: an index of pictures, exact and filtered search in it. Imports no torch."""

from ccpml.serving.collect import Pictures, find_pictures
from ccpml.serving.embedder import Embedder
from ccpml.serving.index import Index, NotAnIndexError, OtherModelError
from ccpml.serving.items import Hit, Item, Picture

__all__ = [
    "Embedder",
    "Hit",
    "Index",
    "Item",
    "NotAnIndexError",
    "OtherModelError",
    "Picture",
    "Pictures",
    "find_pictures",
]

"""Items as points of a collection, and back."""

import base64
import hashlib
import json
from collections.abc import Mapping
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Final

from ccpml.serving.items import Item
from ccpml.serving.pictures import Digest
from ccpml.serving.storage.transaction import Facts

__all__ = ["DIGEST", "FACTS", "NOT_OF_ITEM", "facts_of", "facts_payload", "fold", "item_of", "payload_of", "point_id"]

FACTS: Final = ("path", "size", "mtime_ns", "label", "metadata", "source")
"""Parts of a payload that may change while the contents of the picture do not."""

DIGEST: Final = ("content_hash", "perceptual_hash", "width", "height")

NOT_OF_ITEM: Final = ("thumbnail", "folded", "size", "mtime_ns", "source")
"""Parts of a payload that an item does not have."""

_FOLDED: Final = str.maketrans(ascii_uppercase, ascii_lowercase)


def point_id(path: str) -> int:
    """Return the id of a picture: 53 bits, which JavaScript holds exactly, of the SHA-256 of its path.

    A path has the same id wherever and whenever it is uploaded, so that an upload can be repeated.

    Example:
        >>> point_id("/photos/1.jpg")
        19537210300319
    """
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 11 or 1


def payload_of(facts: Facts, digest: Digest) -> dict[str, Any]:
    """Return the payload of a point."""
    return {
        **facts_payload(facts),
        **{name: getattr(digest, name) for name in DIGEST},
        "thumbnail": base64.b64encode(digest.thumbnail).decode("ascii"),
    }


def facts_payload(facts: Facts) -> dict[str, Any]:
    """Return the part of a payload that holds facts; ``folded`` has the texts in lower case, for ``like``."""
    metadata = json.loads(facts.metadata)
    texts = {name: fold(value) for name, value in metadata.items() if isinstance(value, str)}
    folded = {"path": fold(facts.path), "label": fold(facts.label), "metadata": texts}
    return {**facts._asdict(), "metadata": metadata, "id": point_id(facts.path), "folded": folded}


def facts_of(payload: Mapping[str, Any]) -> Facts:
    """Return the facts of a payload."""
    values = {name: payload[name] for name in FACTS}
    return Facts(**{**values, "metadata": json.dumps(payload["metadata"])})


def item_of(payload: Mapping[str, Any]) -> Item:
    """Return the item of a payload."""
    return Item(
        payload["id"], payload["path"], payload["label"], payload["metadata"], *(payload[name] for name in DIGEST)
    )


def fold(text: str) -> str:
    """Return a text with the letters A to Z in lower case, as ``like`` compares them.

    Example:
        >>> fold("Café ÄRA")
        'café Ära'
    """
    return text.translate(_FOLDED)

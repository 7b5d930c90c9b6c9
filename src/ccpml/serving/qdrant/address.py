"""Addresses of collections: ``qdrant://host:6333/collection``, and ``qdrants://`` with TLS."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

__all__ = ["API_KEY", "Address", "is_address"]

API_KEY: Final = "CCPML_QDRANT_API_KEY"
"""Environment variable with the API key of the server."""

DEFAULT_PORT: Final = 6333

_FORM: Final = "qdrant://host:6333/collection, or qdrants:// for TLS"


def is_address(location: object) -> bool:
    """Whether a location is meant as the address of a collection, not as a path.

    Example:
        >>> is_address("qdrant://localhost/shop"), is_address("shop.index")
        (True, False)
    """
    return isinstance(location, str) and re.match(r"qdrants?:", location, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Address:
    """Where a collection is; as text, it is the address again.

    Attributes:
        host: Name or IP address of the server.
        collection: Name of the collection.
        port: Port of its REST interface.
        tls: Whether the connection is encrypted, and the server's certificate checked.
    """

    host: str
    collection: str
    port: int = DEFAULT_PORT
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse an address.

        Raises:
            ValueError: If it is none, or holds a key, which belongs into the environment.

        Example:
            >>> Address.parse("qdrants://search.example.org/shop")
            Address(host='search.example.org', collection='shop', port=6333, tls=True)
        """
        if "@" in text or "?" in text or "#" in text:  # do not repeat what may be a secret
            raise ValueError(f"store: expected {_FORM}, got an address with @, ? or #; a key is read from {API_KEY}")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port
        except ValueError as error:
            raise ValueError(f"store: expected {_FORM}, got {text} ({error})") from error
        collection = parts.path.removeprefix("/").removesuffix("/")
        if parts.scheme not in {"qdrant", "qdrants"} or not host or port == 0:
            raise ValueError(f"store: expected {_FORM}, got {text}")
        if not re.fullmatch(r"\w[\w.-]{0,254}", collection):
            raise ValueError(
                f"store: expected {_FORM}, got {text}; the name of a collection has letters, digits, _, - and . only"
            )
        return cls(host, collection, port, parts.scheme == "qdrants")

    def __str__(self) -> str:
        return f"qdrant{'s' if self.tls else ''}://{self.server}/{self.collection}"

    @property
    def server(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, so that nobody else sees what is sent."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

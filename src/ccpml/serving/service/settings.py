"""What a service allows: bounds of a request, permissions, and who is answered."""

import re
from dataclasses import dataclass
from typing import Any, Final

from ccpml.numbers import as_int, as_tuple, check_flags, is_finite

__all__ = ["MAX_K", "MAX_PICTURES", "MAX_WHERE", "ServiceSettings"]

MAX_K: Final = 1000
"""Most hits of a search, whatever the settings."""

MAX_PICTURES: Final = 16
"""Most pictures of one query, whatever the settings."""

MAX_WHERE: Final = 1000
"""Most characters of a filter."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")  # others are in no header
_MAX_WORKERS: Final = 1024  # threads, all of which start with the service


@dataclass(frozen=True)
class ServiceSettings:
    """Bounds and permissions of a service.

    Attributes:
        token: If given, requests must carry it as ``Authorization: Bearer <token>``, except for the page, the
            description of the routes and the state of health.
        writable: Whether pictures can be added and removed.
        feedback: Whether verdicts about hits are recorded in the directory of the index.
        hosts: Names by which requests may address the service (header ``Host``), without port; empty for any.
        rate: Requests per second and client address; None allows 50, and any number to loopback addresses.
        max_bytes: Bytes of a request.
        max_held_bytes: Bytes of all requests under way together.
        max_pixels: Pixels of a picture.
        max_pictures: Pictures of one query.
        max_k: Hits of a search.
        max_connections: Connections at a time; further ones are closed.
        workers: Threads that decode, embed and search.
        queue: Requests that wait for a worker; further ones are refused.
        timeout: Seconds that a client may take to send a request, and to read any part of the answer.
    """

    token: str | None = None
    writable: bool = False
    feedback: bool = False
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    rate: float | None = None
    max_bytes: int = 20_000_000
    max_held_bytes: int = 500_000_000
    max_pixels: int = 40_000_000
    max_pictures: int = 8
    max_k: int = MAX_K
    max_connections: int = 512
    workers: int = 2
    queue: int = 128
    timeout: float = 30.0

    def __post_init__(self) -> None:
        check_flags(writable=self.writable, feedback=self.feedback)
        object.__setattr__(self, "hosts", tuple(map(_host, as_tuple("hosts", self.hosts, "several names"))))
        for name in ("max_bytes", "max_held_bytes", "max_pixels", "max_connections", "queue"):
            object.__setattr__(self, name, as_int(name, getattr(self, name), 1))
        for name, limit in (("max_k", MAX_K), ("max_pictures", MAX_PICTURES), ("workers", _MAX_WORKERS)):
            object.__setattr__(self, name, as_int(name, getattr(self, name)))
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"{name}: expected 1 to {limit}, got {getattr(self, name)}")
        for name in ("timeout", "rate"):
            value: Any = getattr(self, name)
            if not ((name == "rate" and value is None) or (is_finite(value) and value > 0)):
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        token: Any = self.token
        if token is None:
            return
        if not isinstance(token, str):
            raise ValueError(f"token: expected a text, got {type(token).__name__}")
        if not (token.isascii() and token.isprintable() and token == token.strip()):
            raise ValueError(
                "token: expected printable ASCII characters without spaces around them, as headers carry no others; "
                "`openssl rand -hex 32` prints one"
            )
        if len(token) < 16:
            raise ValueError(
                f"token: expected at least 16 characters, got {len(token)}; `openssl rand -hex 32` prints one"
            )


def _host(name: Any) -> str:
    """Return a name as it is compared with the header ``Host``, whose port is left out."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        expected = "expected names without scheme, port and *, such as pictures.example.com or [::1]"
        raise ValueError(f"hosts: {expected}, got {name!r}")
    return name.lower()

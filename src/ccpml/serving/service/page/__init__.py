"""The page of the service: one file, ``index.html``, with its style and its script in it."""

import base64
import hashlib
import re
from importlib import resources
from typing import NamedTuple

__all__ = ["Page", "read_page"]


class Page(NamedTuple):
    """A page, UTF-8, and its content security policy: it may run its own script and style, and ask its own service."""

    content: bytes
    policy: str


def read_page() -> Page:
    """Return the page of the service.

    Example:
        >>> read_page().policy.partition(";")[0]
        "default-src 'none'"
    """
    content = (resources.files(__name__) / "index.html").read_bytes()
    rules = {
        "default-src": "'none'",
        "script-src": _hashes(content, b"script"),
        "style-src": _hashes(content, b"style"),
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return Page(content, "; ".join(f"{name} {value}" for name, value in rules.items()))


def _hashes(content: bytes, tag: bytes) -> str:
    """Return the hashes of the elements of a kind, as a content security policy names them."""
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found)

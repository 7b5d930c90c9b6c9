"""Download of one file that resumes after a dropped connection or an interruption, and checksums of files."""

import errno
import hashlib
import http.client
import json
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from ccpml.files import require_space
from ccpml.progress import progress_bar

__all__ = ["download", "file_digest"]

_TIMEOUT: Final = 30.0  # seconds without a byte
_PAUSES: Final = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts that receive nothing
_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHUNK: Final = 2**18
_MB: Final = 10**6


class _Dropped(Exception):  # noqa: N818 -- not an error while attempts remain
    """The server cannot be reached, or the connection broke."""


class _Version(NamedTuple):
    """Version of a file on the server; only a part of the same version can be resumed."""

    url: str
    etag: str | None
    modified: str | None

    def same(self, other: "_Version | None") -> bool:
        """Whether both are known to be the same version."""
        return other == self and not (self.etag is None and self.modified is None)

    def if_range(self) -> dict[str, str]:
        """Return the header that requests the rest of the file only if it still has this version."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else self.modified
        return {"If-Range": strong} if strong else {}


def download(url: str, part: Path, room: int = 0, progress: bool = True) -> None:
    """Download a file, or the rest of it if a part exists.

    After a dropped connection the download resumes where it broke, until five attempts in a row receive nothing;
    without a network the first attempt is the last. It restarts if the server does not support ranges or the file has
    changed.

    Args:
        url: Address, http, https or ftp.
        part: File to write. While it is incomplete, a file beside it records the version on the server.
        room: Number of bytes that must be free in addition to the size of the file.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ValueError: If the server cannot be reached, does not have the file, or the disk is too full.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            if _resume(url, part, room, progress):
                _note(part).unlink(missing_ok=True)
                return
        except _Dropped as error:
            if not _size(part) and _is_offline(error.__cause__):
                raise ValueError(f"{urlsplit(url).netloc}: cannot be reached ({error})") from error
            failures = 1 if _size(part) > before else failures + 1
            if failures > len(_PAUSES):
                raise ValueError(f"{urlsplit(url).netloc}: cannot be reached ({error})") from error
            pause = _PAUSES[failures - 1]
            print(f"{urlsplit(url).netloc}: {error}; retrying in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)


def file_digest(file: Path, algorithm: str = "sha256", progress: bool = False) -> str:
    """Return the checksum of a file in hexadecimal, by a hash function of ``hashlib``."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as stream, progress_bar(_size(file) // _MB, "MB", "checksum", shown=progress) as bar:
        while chunk := stream.read(16 * _CHUNK):
            digest.update(chunk)
            bar.update(stream.tell() // _MB - bar.n)
    return digest.hexdigest()


def _resume(url: str, part: Path, room: int, progress: bool) -> bool:
    """Request the missing bytes and append them; return False if the part did not fit and was removed."""
    saved = _read_note(part)
    have = _size(part) if saved is not None and saved.url == url else 0
    headers = {"User-Agent": "ccpml (https://pypi.org/project/ccpml)", "Accept-Encoding": "identity"}
    if have and saved is not None:
        headers |= {"Range": f"bytes={have}-", **saved.if_range()}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                if error.headers.get("Content-Range") == f"bytes */{have}" and _version(url, error).same(saved):
                    return True
                part.unlink()
                return False
            answer = f"the server answered {error.code} ({error.reason})"
            if error.code in _TRANSIENT_STATUSES:
                raise _Dropped(answer) from error
            raise ValueError(f"{url}: {answer}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(_reason(error)) from error
    with response:
        version = _version(url, response)
        if response.status == 206:
            content_range = str(response.headers.get("Content-Range", ""))
            if not (content_range.startswith(f"bytes {have}-") and version.same(saved)):
                part.unlink()
                return False
        start = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        require_space(part.parent, (total or start) - start + room, f"the download of {part.name} and its contents")
        _append(response, part, version, start, total, progress)
    return True


def _append(response: Any, part: Path, version: _Version, start: int, total: int | None, progress: bool) -> None:
    """Write the received bytes after the first ``start`` bytes of the part."""
    with (
        part.open("ab" if start else "wb") as file,
        progress_bar((total or 0) // _MB, "MB", "downloading", initial=start // _MB, shown=progress) as bar,
    ):
        _note(part).write_text(json.dumps(version))
        done = start
        while True:
            try:
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Dropped(_reason(error)) from error
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            bar.update(done // _MB - bar.n)
        if total is not None and done < total:
            raise _Dropped("the connection was closed")


def _version(url: str, response: Any) -> _Version:
    return _Version(url, response.headers.get("ETag"), response.headers.get("Last-Modified"))


def _reason(error: Exception) -> str:
    """Return a short reason why a connection failed."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "timed out"
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


def _is_offline(error: object) -> bool:
    """Whether a connection failed since there is no network: the name has no address, or there is no route to it."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    no_route = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}
    return isinstance(reason, socket.gaierror) or (isinstance(reason, OSError) and reason.errno in no_route)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> _Version | None:
    try:
        return _Version(*json.loads(_note(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None

"""Downloading one large file: what came before a dropped connection, or Ctrl-C, is not fetched again."""

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from ccpml.data.upkeep.disk import require_space
from ccpml.progress import progress_bar

__all__ = ["download"]

_TIMEOUT: Final = 30.0  # seconds without a byte
_PAUSES: Final = (1.0, 2.0, 4.0, 8.0)  # seconds between tries that bring nothing
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers of HTTP that may be others soon
_CHUNK: Final = 2**18
_MB: Final = 10**6


class _Dropped(Exception):  # noqa: N818 -- not an error yet
    """The server cannot be reached, or does not go on, for now."""


class _Version(NamedTuple):
    """Which state of a file the server has: a part of another state cannot be gone on with."""

    url: str
    etag: str | None
    modified: str | None

    def same(self, other: "_Version | None") -> bool:
        """Say whether nothing speaks against, and something for, both being one state."""
        return other == self and not (self.etag is None and self.modified is None)

    def if_range(self) -> dict[str, str]:
        """Give the header by which a server sends the rest only of this state."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else self.modified
        return {"If-Range": strong} if strong else {}


def download(
    url: str, part: Path, room: int = 0, progress: bool = True, open_url: Callable[..., Any] = urllib.request.urlopen
) -> None:
    """Download a file, or the rest of it.

    A dropped connection is taken up again where it broke, at most five times without a new byte. If the server
    cannot send parts, or has another file by now, the download begins anew.

    Args:
        url: Its address, http or https.
        part: Where to put it; beside it stands, while it is incomplete, a note of which state of the file it is.
        room: Number of bytes that must be free beyond those of the file.
        progress: Show a progress bar on standard error.
        open_url: As ``urllib.request.urlopen``.

    Raises:
        ValueError: If the server cannot be reached, does not have the file, or the disk has no room.
        OSError: If the file cannot be written.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            if _go_on(url, part, room, progress, open_url):
                _note(part).unlink(missing_ok=True)
                return
        except _Dropped as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures > len(_PAUSES):
                raise ValueError(f"cannot reach {urlsplit(url).netloc}: {error}") from error
            pause = _PAUSES[failures - 1]
            print(f"{urlsplit(url).netloc}: {error}; trying again in {pause:.0f} s", file=sys.stderr)
            time.sleep(pause)


def _go_on(url: str, part: Path, room: int, progress: bool, open_url: Callable[..., Any]) -> bool:
    """Ask for what is missing and take it; False if the part did not fit and was thrown away."""
    saved = _read_note(part)
    have = _size(part) if saved is not None and saved.url == url else 0
    headers = {"User-Agent": "ccpml (https://pypi.org/project/ccpml)", "Accept-Encoding": "identity"}
    if have and saved is not None:
        headers |= {"Range": f"bytes={have}-", **saved.if_range()}
    try:
        response = open_url(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                if error.headers.get("Content-Range") == f"bytes */{have}" and _version(url, error).same(saved):
                    return True
                part.unlink()
                return False
            if error.code in _PASSING:
                raise _Dropped(f"the server answers {error.code} ({error.reason})") from error
            raise ValueError(f"{url}: the server answers {error.code} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(_reason(error)) from error
    with response:
        version = _version(url, response)
        if response.status == 206 and not (_begins_at(response, have) and version.same(saved)):
            part.unlink()
            return False
        start = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        require_space(part.parent, (total or start) - start + room, f"the download of {part.name} and what it holds")
        _take(response, part, version, start, total, progress)
    return True


def _take(response: Any, part: Path, version: _Version, start: int, total: int | None, progress: bool) -> None:
    """Write what comes behind the first ``start`` bytes of the part."""
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


def _begins_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _reason(error: Exception) -> str:
    """Say in a few words why a connection failed."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> _Version | None:
    try:
        return _Version(*json.loads(_note(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None

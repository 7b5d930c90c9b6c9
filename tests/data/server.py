"""A server on this machine alone that sends one file, whole or in part, and can be told to behave badly."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Site:
    """What the server has and does.

    Attributes:
        content: The file.
        etag: Its version.
        ranges: Whether it sends parts.
        cuts: After how many bytes each answer breaks off, one after the other; then none does.
        statuses: What it answers instead, one after the other.
        asked: The range that each request asked for, or an empty text.
        url: Its address.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"1"'
        self.ranges = True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def serving(content: bytes, name: str = "set.tgz") -> Iterator[Site]:
    """Serve a file on 127.0.0.1."""
    site = Site(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            site.asked.append(asked)
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            start, same = 0, self.headers.get("If-Range", site.etag) == site.etag
            if asked and site.ranges and same:
                start = int(re.findall(r"\d+", asked)[0])
                if start >= len(site.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(site.content)}")
                    self.send_header("ETag", site.etag)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            body = site.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", site.etag)
            self.end_headers()
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/{name}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

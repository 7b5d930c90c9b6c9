"""A local server of one file that can simulate failures."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Site:
    """Contents and behavior of the server.

    Attributes:
        content: Contents of the file.
        etag: Version of the file; empty if the server sends none.
        ranges: Whether the server supports ranges.
        cuts: Number of bytes after which each answer in turn breaks off; further answers are complete.
        statuses: Error status of each answer in turn, instead of the file.
        asked: Range of each request, or an empty string.
        silent: Seconds to wait after an answer that was cut.
        url: Address of the file.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"1"'
        self.ranges = True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.asked: list[str] = []
        self.silent = 0.0
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
            if site.etag:
                self.send_header("ETag", site.etag)
            self.end_headers()
            if not site.cuts:
                self.wfile.write(body)
                return
            self.wfile.write(body[: site.cuts.pop(0)])
            self.wfile.flush()
            if site.silent:
                time.sleep(site.silent)

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

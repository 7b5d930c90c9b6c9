"""A server with the part of qdrant's REST interface that ccpml uses, over the client's embedded mode.

It tests what is sent and read over HTTP, not qdrant.
"""

import json
import re
import warnings
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

from qdrant_client import QdrantClient, models

ROUTES = [
    ("GET", r"/exists", lambda db, name, body: {"exists": db.collection_exists(name)}),
    ("GET", r"", lambda db, name, body: db.get_collection(name)),
    ("DELETE", r"", lambda db, name, body: db.delete_collection(name)),
    ("PUT", r"", lambda db, name, body: create(db, name, models.CreateCollection(**body))),
    ("PATCH", r"", lambda db, name, body: db.update_collection(name, metadata=body["metadata"])),
    ("PUT", r"/index", lambda db, name, body: {"operation_id": 0, "status": "completed"}),
    ("PUT", r"/points", lambda db, name, body: db.upsert(name, models.PointsList(**body).points)),
    ("POST", r"/points", lambda db, name, body: retrieve(db, name, models.PointRequest(**body))),
    ("POST", r"/points/count", lambda db, name, body: db.count(name, models.CountRequest(**body).filter)),
    ("POST", r"/points/scroll", lambda db, name, body: scroll(db, name, models.ScrollRequest(**body))),
    ("POST", r"/points/delete", lambda db, name, body: db.delete(name, models.PointIdsList(**body))),
    ("POST", r"/points/query/batch", lambda db, name, body: query(db, name, models.QueryRequestBatch(**body))),
    ("POST", r"/facet", lambda db, name, body: facet(db, name, models.FacetRequest(**body))),
]


def create(db, name, given):
    return db.create_collection(name, vectors_config=given.vectors, metadata=given.metadata)


def retrieve(db, name, given):
    return db.retrieve(name, given.ids, with_payload=given.with_payload, with_vectors=given.with_vector or False)


def scroll(db, name, given):
    points, following = db.scroll(
        name,
        given.filter,
        limit=given.limit,
        offset=given.offset,
        with_payload=given.with_payload,
        with_vectors=given.with_vector or False,
    )
    return {"points": points, "next_page_offset": following}


def query(db, name, given):
    assert all(search.params is not None for search in given.searches)
    found = db.query_batch_points(name, given.searches)
    for search, answer in zip(given.searches, found, strict=True):
        if not search.params.exact and getattr(db, "misses", False):
            answer.points[:] = answer.points[::2]  # as a graph that misses every second
    return found


def facet(db, name, given):
    return db.facet(name, given.key, given.filter, limit=given.limit)


class Server:
    """What the server holds, and how it behaves.

    Attributes:
        failures: What happens to each of the next calls of a kind, by method and end of path: a status, "cut" before or
            "lost" after it is done, or None.
        calls: Method and path of each call.
        key: The API key that calls must carry.
        url: Address, without the collection.
    """

    def __init__(self):
        self.db = QdrantClient(":memory:", force_disable_check_same_thread=True)
        self.failures, self.calls, self.key, self.url = {}, [], None, ""
        self.lock = Lock()

    def answer(self, method, path, body):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the embedded mode ignores parameters of HNSW
            for verb, pattern, call in ROUTES:
                match = re.fullmatch(rf"/collections/([^/]+){pattern}", path)
                if verb == method and match:
                    return call(self.db, unquote(match[1]), body)
        raise LookupError(f"Not found: {method} {path}")


@contextmanager
def qdrant_server():
    """Serve on 127.0.0.1."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.calls.append((self.command, path))
            waiting = server.failures.get((self.command, path.rpartition("/")[2]), [])
            failure = waiting.pop(0) if waiting else None
            if server.key and self.headers.get("api-key") != server.key:
                self.send(401, b"Must provide an API key or an Authorization bearer token")
            elif failure == "cut":
                self.close_connection = True
            elif isinstance(failure, int):
                self.send(failure, json.dumps({"status": {"error": "Service internal error: simulated"}}).encode())
            else:
                status, text = self.work(path, json.loads(body or b"{}"))
                if failure == "lost":
                    self.close_connection = True
                else:
                    self.send(status, text)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

        def work(self, path, body):
            try:
                with server.lock:
                    result = server.answer(self.command, path, body)
            except (LookupError, ValueError) as error:
                return 404, json.dumps({"status": {"error": str(error)}}).encode()
            return 200, json.dumps({"result": to_json(result), "status": "ok", "time": 0.0}).encode()

        def send(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"qdrant://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        server.db.close()


def to_json(value):
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    return value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value

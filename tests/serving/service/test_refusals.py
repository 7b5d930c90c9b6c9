"""Wrong requests: one sentence, a fitting status, and nothing changed."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.serving.service.conftest import encoded

PICTURE = encoded(np.full((20, 30, 3), 90, np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size, with a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "JPEG", progressive=True)
    start = content.getvalue().rfind(b"\xff\xda")
    scan = content.getvalue()[start:-2]
    return content.getvalue()[:-2] + scan * count + b"\xff\xd9"


PICTURES = {
    "scans": (many_scans(100), 422, "picture: expected a JPEG of at most 100 scans, got more"),
    "nothing": (b"", 422, "picture: the file is empty"),
    "text": (b"hello", 422, "picture: not an image of a known format, or damaged header"),
    "half": (PICTURE[:60], 422, "picture: "),
    "svg": (
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        422,
        "picture: not an",
    ),
    "too large": (png_header(8000, 6000), 413, "picture: expected at most 40 million pixels, got 8000 × 6000"),
    "a bomb": (png_header(60_000, 60_000), 413, "picture: expected at most 40 million pixels, got 60000 × 60000"),
    "no pixels": (png_header(0, 0), 422, "picture: "),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_cannot_be_used_is_named_as_such(connect, index, name):
    content, status, sentence = PICTURES[name]
    client = connect(writable=True)
    for path in ("/api/search", "/api/items"):
        response = client.post(path, files={"picture": ("x.png", content)})
        assert (response.status_code, response.json()["detail"][: len(sentence)]) == (status, sentence)
    assert len(index) == 20
    assert not list((index.path / "pictures").glob("*"))


FIELDS = {
    "k: expected 1 to 1000, got 0": {"k": "0"},
    "k: expected 1 to 1000, got 1001": {"k": "1001"},
    "k: expected an integer, got 'many'": {"k": "many"},
    "max_distance: expected 0 to 2, got nan": {"max_distance": "nan"},
    "max_distance: expected 0 to 2, got -1": {"max_distance": "-1"},
    "precision: the model has no certificate": {"precision": "0.9"},
    "where: expected at most 1000 characters, got 1001": {"where": "x" * 1001},
    "where: ": {"where": "label ="},
    "where: shade": {"where": "shade = 'red'"},
    "shade: unknown field; known are id, k, where": {"shade": "red"},
    "hide_duplicates: expected true or false, got 'perhaps'": {"hide_duplicates": "perhaps"},
    "picture: expected a file, got text": {"picture": "a.jpg"},
    "query: expected either pictures or an id": {"id": "1"},
}


@pytest.mark.parametrize("sentence", FIELDS)
def test_a_wrong_field_is_named(connect, sentence):
    response = connect().post("/api/search", files={"picture": PICTURE}, data=FIELDS[sentence])
    assert response.status_code == 422
    assert response.json()["detail"].startswith(sentence)
    assert "\n" not in response.json()["detail"]


BODIES = {
    "body: not valid JSON": ("application/json", b'{"id": 1'),
    "body: expected an object, got a list": ("application/json", b"[1, 2]"),
    "body: missing boundary": ("multipart/form-data", b"--x"),
    "body: invalid multipart": ("multipart/form-data; boundary=x", b"--y\r\n"),
}


@pytest.mark.parametrize("sentence", BODIES)
def test_a_broken_body_is_named(connect, sentence):
    kind, body = BODIES[sentence]
    response = connect().post("/api/search", content=body, headers={"Content-Type": kind})
    assert response.status_code == 422
    assert response.json()["detail"].lower().startswith(sentence.lower())


def test_true_and_false_are_no_numbers(connect):
    client = connect()
    for fields in ({"id": True}, {"id": 1, "k": True}, {"id": 1, "max_distance": True}, {"id": 1, "precision": False}):
        name, value = [*fields.items()][-1]
        detail = f"{name}: expected a number, got {str(value).lower()}"
        assert client.post("/api/search", json=fields).json() == {"detail": detail}


def test_deeply_nested_json_is_refused(connect):
    client, kind = connect(), {"Content-Type": "application/json"}
    for depth, status in ((30_000, 422), (50_000, 413)):
        body = b'{"id":' + b"[" * depth + b"]" * depth + b"}"
        assert client.post("/api/search", content=body, headers=kind).status_code == status


def test_another_type_of_body_is_refused(connect):
    response = connect().post("/api/search", content=b"<x/>", headers={"Content-Type": "text/xml"})
    assert (response.status_code, response.json()) == (
        415,
        {"detail": "body: expected multipart/form-data or application/json"},
    )


def test_too_many_pictures_fields_or_bytes_are_refused(connect):
    client = connect(max_pictures=2, max_bytes=5_000)
    many = client.post("/api/search", files=[("picture", PICTURE)] * 3)
    assert (many.status_code, many.json()["detail"]) == (422, "body: Too many files. Maximum number of files is 2")
    fields = client.post("/api/search", files={f"f{number}": (None, "1") for number in range(20)})
    assert fields.status_code == 422
    long = client.post("/api/search", files={"picture": b"x" * 6_000})
    assert (long.status_code, long.json()["detail"]) == (413, "body: expected at most 5,000 bytes")
    streamed = client.post(
        "/api/search",
        content=(b"x" * 1_000 for _ in range(6)),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert streamed.status_code == 413
    assert streamed.headers["connection"] == "close"


@pytest.mark.parametrize("key", ["0", "-1", "x", "1e3", "9" * 30])
def test_an_id_that_is_none_is_refused(connect, key):
    client = connect(writable=True)
    for response in (
        client.get(f"/api/items/{key}"),
        client.delete(f"/api/items/{key}"),
        client.get(f"/api/items/{key}/thumbnail"),
    ):
        assert response.status_code == 422
        assert response.json()["detail"].startswith("id: expected ")


def test_items_and_paths_that_do_not_exist_are_not_found(connect):
    client = connect(writable=True)
    for path in ("/api/items/99", "/api/items/99/thumbnail", "/nowhere", "/page/none.js", "/page/..%2fapp.py"):
        response = client.get(path)
        assert response.status_code == 404, path
        assert set(response.json()) == {"detail"}
    assert client.post("/api/search", json={"id": 99}).json() == {"detail": "id: no item 99"}
    assert client.put("/api/search").status_code == 405
    assert client.put("/api/items/1").headers["allow"] == "DELETE, GET"


def test_nothing_can_be_changed_unless_allowed(connect, index):
    client = connect()
    assert client.post("/api/items", files={"picture": PICTURE}).status_code == 403
    assert client.delete("/api/items/1").status_code == 403
    assert client.post("/api/feedback", json={"query_id": 1, "id": 2, "verdict": "right"}).status_code == 403
    assert len(index) == 20


@pytest.mark.parametrize(
    "metadata",
    [
        "[1]",
        "{",
        '{"a": {"b": 1}}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 9223372036854775808}',
        '"x"',
        '{"": 1}',
        r'{"a\ud800": 1}',
        r'{"a\u0000b": 1}',
        r'{"a": "b\u0000c"}',
    ],
)
def test_metadata_that_is_no_object_of_plain_values_is_refused(connect, index, metadata):
    response = connect(writable=True).post("/api/items", files={"picture": PICTURE}, data={"metadata": metadata})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("metadata: expected ")
    assert len(index) == 20


@pytest.mark.parametrize("broken", [b"", b"no picture", PICTURE[:-40]])
def test_the_broken_one_of_several_pictures_is_named(connect, broken):
    files = [("picture", content) for content in (PICTURE, PICTURE, broken)]
    response = connect().post("/api/search", files=files)
    assert (response.status_code, response.json()["detail"][:11]) == (422, "picture 3: ")


def test_what_is_not_used_is_refused(connect, index):
    client = connect(writable=True)
    response = client.post("/api/search?k=3", files={"picture": PICTURE})
    assert (response.status_code, response.json()["detail"]) == (
        422,
        "k: expected in the body of the request, got it in the address",
    )
    response = client.post("/api/items", files={"picture": PICTURE}, data={"label": "a\0b"})
    assert (response.status_code, response.json()["detail"]) == (422, "label: expected text without NUL")
    assert len(index) == 20


def test_an_error_of_the_service_shows_nothing_of_its_inside(index, connect, monkeypatch):
    from fastapi.testclient import TestClient

    client = connect()
    monkeypatch.setattr(index, "search", lambda *arguments: 1 / 0)
    calm = TestClient(client.app, base_url="http://localhost", raise_server_exceptions=False)
    response = calm.post("/api/search", json={"id": 1})
    assert (response.status_code, response.json()) == (500, {"detail": "the service failed; its log says why"})


def test_a_full_disk_is_named_and_nothing_is_added(connect, index, monkeypatch):
    from ccpml.files import WriteError

    def fail(*arguments):
        raise WriteError(28, "No space left on device", "/secret/place")

    monkeypatch.setattr("ccpml.serving.service.service.write_bytes", fail)
    response = connect(writable=True).post("/api/items", files={"picture": PICTURE})
    assert response.status_code == 507
    assert "secret" not in response.text
    assert len(index) == 20


def test_an_animation_is_read_by_its_first_frame(connect):
    frames = [Image.new("RGB", (40, 30), (shade, 0, 0)) for shade in range(0, 250, 10)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    answer = connect().post("/api/search", files={"picture": content.getvalue()}).json()
    assert (answer["query"]["width"], answer["query"]["height"]) == (40, 30)

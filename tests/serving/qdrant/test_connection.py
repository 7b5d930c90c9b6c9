"""A server that is down, silent, another kind of server, or wants a key: one sentence each."""

import socket
import sys
from contextlib import closing

import pytest

from ccpml.serving.qdrant import QdrantError, QdrantIndex, connection
from ccpml.serving.qdrant.address import API_KEY, Address
from tests.server import serving
from tests.serving.embedders import ColorEmbedder
from tests.serving.qdrant.server import qdrant_server


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0)


def message_of(location, embedder=None):
    with pytest.raises(QdrantError) as error:
        QdrantIndex.open(location, embedder)
    assert str(error.value).startswith(f"{Address.parse(location)}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_server():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    message = message_of(f"qdrant://127.0.0.1:{port}/shop")
    assert f"expected a qdrant server at 127.0.0.1:{port}, got no connection" in message


def test_no_answer(monkeypatch):
    monkeypatch.setattr(connection, "TIMEOUT", 1)
    monkeypatch.setattr(connection, "READ_ATTEMPTS", 1)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        message = message_of(f"qdrant://127.0.0.1:{listener.getsockname()[1]}/shop")
    assert "expected an answer within 1 s, got none" in message


def test_another_server():
    with serving(b"a page", "index.html") as site:
        address = f"qdrant://{site.url.split('/')[2]}/shop"
        assert "expected a qdrant server" in message_of(address)
        assert "an answer of another kind" in message_of(address)


def test_tls_where_there_is_none():
    with qdrant_server() as server:
        assert "expected TLS, got an error" in message_of(f"{server.url.replace('qdrant', 'qdrants')}/shop")


def test_a_key_is_sent_and_named_where_it_is_needed(monkeypatch):
    with qdrant_server() as server:
        server.key = "right"
        monkeypatch.delenv(API_KEY, raising=False)
        assert f"an API key is needed (401); set {API_KEY}" in message_of(f"{server.url}/shop")
        monkeypatch.setenv(API_KEY, "secret")
        message = message_of(f"{server.url}/shop")
        assert f"the API key is not accepted (401); set {API_KEY}" in message
        assert "secret" not in message
        monkeypatch.setenv(API_KEY, "right")
        QdrantIndex.create(f"{server.url}/shop", ColorEmbedder()).close()


def test_a_key_is_not_sent_to_another_machine_unencrypted(monkeypatch):
    monkeypatch.setenv(API_KEY, "secret")
    message = message_of("qdrant://search.example.org/shop")
    assert "expected qdrants:// (TLS)" in message
    assert "secret" not in message


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install qdrant-client \(the extra qdrant"):
        QdrantIndex.open("qdrant://127.0.0.1/shop")

"""The service over a collection: what it does over a directory, and what it says when the store is away."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ccpml.serving import QdrantIndex
from ccpml.serving.qdrant import connection
from ccpml.serving.service import ServiceSettings, create_app
from tests.serving.embedders import ColorEmbedder
from tests.serving.qdrant.server import qdrant_server

EMBEDDER = ColorEmbedder()


def picture(seed):
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_search_add_remove_and_a_store_that_is_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "FIRST_WAIT", 0)
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    with qdrant_server() as server, QdrantIndex.create(f"{server.url}/shop", EMBEDDER) as index:
        ids = index.add(sorted(tmp_path.glob("*.png"))).ids
        app = create_app(index, EMBEDDER, ServiceSettings(writable=True))
        with TestClient(app, "http://127.0.0.1:8000") as client:
            assert client.get("/api/info").json()["items"] == 4
            found = client.post("/api/search", files={"picture": picture(2)}).json()
            assert (found["hits"][0]["id"], found["hits"][0]["distance"]) == (ids[2], pytest.approx(0, abs=1e-6))
            found = client.post("/api/search", json={"id": ids[1]}).json()
            assert sorted(hit["id"] for hit in found["hits"]) == sorted({*ids} - {ids[1]})
            assert client.get(f"/api/items/{ids[0]}/thumbnail").content == index.thumbnail(ids[0])
            added = client.post("/api/items", files={"picture": picture(9)}, data={"label": "mug"})
            assert (added.status_code, len(index), added.json()["label"]) == (201, 5, "mug")
            assert len(list((tmp_path / "shop.qdrant" / "pictures").iterdir())) == 1
            assert client.delete(f"/api/items/{added.json()['id']}").status_code == 204
            assert (len(index), list((tmp_path / "shop.qdrant" / "pictures").iterdir())) == (4, [])
            server.failures["POST", "batch"] = ["cut"] * connection.READ_ATTEMPTS
            refused = client.post("/api/search", files={"picture": picture(2)})
            assert (refused.status_code, list(refused.json())) == (503, ["detail"])
            assert client.post("/api/search", files={"picture": picture(2)}).status_code == 200

"""Names of files and labels in any bytes: whatever asks for such an item is answered."""

import os

import numpy as np
import pytest

from ccpml.serving import Picture
from tests.serving.service.conftest import encoded

ODD = ["caf\udce9", "line\nbreak", "=1+1", "<b>", "名", "\u202egnp", "%s", "tab\t", "'\"", "x" * 200]


@pytest.mark.parametrize("name", ODD)
def test_items_with_odd_names_are_found(connect, index, tmp_path, name):
    content = encoded(np.full((9, 9, 3), 200, np.uint8))
    file = tmp_path / f"{name}.png"
    file.write_bytes(content)
    index.add([Picture(file, name, {"text": name.encode("utf-8", "replace").decode(), "nothing": None})])
    key = index.items()[-1].id
    client = connect(feedback=True)
    shown = name.encode("utf-8", "backslashreplace").decode()
    item = client.get(f"/api/items/{key}").json()
    assert (item["label"], item["name"]) == (shown, f"{shown}.png")
    answers = [
        client.post("/api/search", files={"picture": content}),
        client.post("/api/search", json={"id": key, "k": 100}),
        client.post("/api/search", json={"id": 1, "k": 100}),
        client.get(f"/api/items/{key}/thumbnail"),
        client.get("/api/info"),
        client.get("/health"),
        client.get("/metrics"),
        client.post("/api/feedback", json={"query_id": 1, "id": key, "verdict": "right"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 7 + [201]
    assert answers[0].json()["hits"][0]["label"] == shown
    assert os.fsencode(file) == os.fsencode(index.item(key).path)

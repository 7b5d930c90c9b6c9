"""What the routes answer."""

import errno
import io
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from ccpml.calibration import Certificate
from ccpml.serving import Index
from ccpml.serving.ensemble import EnsembleEmbedder
from ccpml.serving.search.reranked import Reranked
from ccpml.serving.search.scan import Exact
from ccpml.serving.service import ServiceSettings, create_app
from tests.serving.embedders import ColorEmbedder
from tests.serving.service.conftest import LOCAL, encoded

PICTURE = encoded(np.full((20, 30, 3), 90, np.uint8))


def search(client, *pictures, **fields):
    files = [("picture", content) for content in pictures]
    return client.post("/api/search", files=files, data=fields) if files else client.post("/api/search", json=fields)


def test_a_picture_of_the_index_finds_itself_first_and_then_the_nearest_by_definition(connect, index, toy_pictures):
    answer = search(connect(), toy_pictures[7].path.read_bytes(), k=5).json()
    vectors = index.vectors(range(1, 21)).astype(np.float64)
    distances = np.linalg.norm(vectors - vectors[7], axis=1)
    assert [hit["id"] for hit in answer["hits"]] == (np.argsort(distances, kind="stable") + 1)[:5].tolist()
    assert np.allclose([hit["distance"] for hit in answer["hits"]], np.sort(distances)[:5], atol=1e-6)
    assert answer["answered"] is True
    assert answer["hits"][0]["name"] == "1-2.png"
    assert answer["hits"][0]["metadata"] == {"price": 12.0}


def test_a_search_by_id_leaves_the_item_itself_out(connect):
    answer = search(connect(), id=3, k=4).json()
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4]
    assert 3 not in {hit["id"] for hit in answer["hits"]}
    assert answer["query"] == {"id": 3, "hash": None, "width": 32, "height": 32}


def test_several_pictures_are_searched_for_by_their_mean(connect, index, toy_pictures):
    contents = [toy_pictures[row].path.read_bytes() for row in (0, 6)]
    answer = search(connect(), *contents, k=3).json()
    vectors = index.vectors([1, 7])
    mean = vectors.sum(axis=0) / np.linalg.norm(vectors.sum(axis=0))  # of unit vectors: their direction
    expected = np.sort(np.linalg.norm(index.vectors(range(1, 21)) - mean, axis=1))[:3]
    assert np.allclose([hit["distance"] for hit in answer["hits"]], expected, atol=1e-6)


def test_hits_are_within_the_distance_and_pass_the_filter(connect):
    client = connect()
    everything = search(client, id=1, k=20).json()["hits"]
    limit = everything[4]["distance"]
    near = search(client, id=1, k=20, max_distance=limit, where="price >= 2").json()["hits"]
    expected = [hit["id"] for hit in everything if hit["distance"] <= limit and hit["metadata"]["price"] >= 2]
    assert [hit["id"] for hit in near] == expected


def test_a_search_without_a_near_hit_is_unanswered_and_says_how_far_the_nearest_is(connect):
    client = connect()
    answer = search(client, PICTURE, max_distance=1e-6).json()
    assert (answer["answered"], answer["hits"]) == (False, [])
    assert answer["note"].startswith("no picture within the distance 0.000; the nearest is at 0.")
    assert search(client, PICTURE, where="label = 'none'").json()["note"] == "no picture matches"
    assert client.get("/api/drift").json()["unanswered"] == 2


def test_pictures_that_look_the_same_are_marked_and_can_be_left_out(connect, toy_pictures):
    client = connect(writable=True)
    again = io.BytesIO()
    Image.open(toy_pictures[3].path).resize((64, 64), Image.Resampling.NEAREST).save(again, "PNG")
    client.post("/api/items", files={"picture": again.getvalue()})
    query = toy_pictures[3].path.read_bytes()
    marked = search(client, query, k=3).json()["hits"]
    assert [hit["duplicate"] for hit in marked] == [False, True, False]
    kept = search(client, query, k=2, hide_duplicates="true").json()["hits"]
    assert [hit["id"] for hit in kept] == [marked[0]["id"], marked[2]["id"]]


def test_items_are_described_added_and_removed(connect, index):
    client = connect(writable=True)
    added = client.post("/api/items", files={"picture": ("../../etc/x.sh", PICTURE)}, data={"label": "gray"})
    key = added.json()["id"]
    assert added.status_code == 201
    assert client.get(f"/api/items/{key}").json() == added.json()
    assert (added.json()["width"], added.json()["height"]) == (30, 20)
    stored = list((index.path / "pictures").iterdir())
    assert [file.read_bytes() for file in stored] == [PICTURE]
    assert "etc" not in stored[0].name
    assert search(client, PICTURE, k=1).json()["hits"][0]["label"] == "gray"
    assert client.delete(f"/api/items/{key}").status_code == 204
    assert client.delete(f"/api/items/{key}").status_code == 404
    assert list((index.path / "pictures").iterdir()) == []


def test_the_same_picture_added_again_is_replaced(connect, index):
    client = connect(writable=True)
    for label in ("gray", "slate"):
        client.post("/api/items", files={"picture": PICTURE}, data={"label": label, "metadata": '{"price": 3}'})
    assert len(index) == 21
    hit = search(client, PICTURE, k=1).json()["hits"][0]
    assert (hit["label"], hit["metadata"]) == ("slate", {"price": 3})


@pytest.mark.parametrize("kept", [False, True])
def test_pictures_of_an_index_that_was_moved_or_copied_are_still_its_own(connect, index, tmp_path, kept):
    client = connect(writable=True)
    first, second = (
        client.post("/api/items", files={"picture": content}, data={"label": "own"}).json()["id"]
        for content in (PICTURE, encoded(np.zeros((20, 30, 3), np.uint8)))
    )
    place = shutil.copytree(index.path, tmp_path / "other.index")
    if not kept:
        shutil.rmtree(index.path / "pictures")
    with Index.open(place, ColorEmbedder()) as copy:
        found = [copy.item(first), copy.items(first)[0], copy.search(copy.vectors([second]), k=1)[0][0].item]
        assert {Path(item.path).parent for item in found} == {place / "pictures"}  # also where no service has begun
        with TestClient(create_app(copy, ColorEmbedder(), ServiceSettings(writable=True)), base_url=LOCAL) as other:
            assert {Path(copy.item(key).path).parent for key in (first, second)} == {place / "pictures"}
            assert other.delete(f"/api/items/{second}").status_code == 204
            again = other.post("/api/items", files={"picture": PICTURE}, data={"label": "again"}).json()["id"]
            assert [hit["id"] for hit in search(other, PICTURE, k=1).json()["hits"]] == [again]
        assert len(copy) == 21
        assert [Path(item.path).read_bytes() for item in copy.items() if item.label == "again"] == [PICTURE]
    assert len(list((place / "pictures").iterdir())) == 1


def test_a_thumbnail_is_a_small_jpeg_that_browsers_keep(connect):
    client = connect()
    response = client.get("/api/items/1/thumbnail")
    assert Image.open(io.BytesIO(response.content)).size == (32, 32)
    again = client.get("/api/items/1/thumbnail", headers={"If-None-Match": f'"other", {response.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")


def test_ids_of_another_index_are_refused(index, tmp_path, toy_pictures):
    """As of a page that was open while the service was switched to a new index."""
    with Index.create(tmp_path / "other.index", ColorEmbedder()) as other:
        other.add(toy_pictures[::-1])
        names = []
        for each in (index, other):
            app = create_app(each, ColorEmbedder(), ServiceSettings(feedback=True, writable=True))
            with TestClient(app, base_url=LOCAL) as client:
                names.append(client.get("/api/info").json()["index"])
                headers = {"X-Index": names[0]}
                answers = [
                    client.post("/api/search", json={"id": 1}, headers=headers),
                    client.post("/api/feedback", json={"query_id": 1, "id": 2, "verdict": "right"}, headers=headers),
                    client.get("/api/items/1", headers=headers),
                    client.delete("/api/items/9", headers=headers),
                    client.post("/api/explain", json={"query_id": 1, "id": 2}, headers=headers),
                ]
            codes = [answer.status_code for answer in answers]
            assert codes == ([200, 201, 200, 204, 200] if each is index else [409] * 5)
    assert answers[0].json() == {"detail": "the service has another index now; search again"}
    assert not (other.path / "verdicts.csv").exists()
    assert len(set(names)) == 2


def test_a_browser_does_not_show_thumbnails_of_an_index_that_was_served_before(tmp_path, connect, toy_pictures):
    earlier = connect().get("/api/items/1/thumbnail")
    assert "no-cache" in earlier.headers["cache-control"]
    with Index.create(tmp_path / "other.index", ColorEmbedder()) as other:
        other.add(toy_pictures[::-1])
        with TestClient(create_app(other, ColorEmbedder(), ServiceSettings()), base_url=LOCAL) as client:
            now = client.get("/api/items/1/thumbnail", headers={"If-None-Match": earlier.headers["etag"]})
    assert now.status_code == 200
    assert now.content != earlier.content


def test_the_page_may_load_nothing_from_elsewhere(connect):
    response = connect().get("/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe" not in policy


def test_info_says_what_there_is_and_what_is_allowed(connect):
    found = connect(writable=True, max_k=50).get("/api/info").json()
    expected = {"items": 20, "labels": 4, "embedding_dim": 12, "model": "colors", "max_k": 50, "writable": True}
    assert {name: found[name] for name in expected} == expected
    assert set(found["fields"]) >= {"label", "width", "price"}
    assert 0 < len(found["examples"]) <= 12
    assert (found["certificate"], found["needs_token"], found["feedback"]) == (None, False, False)


def test_health_counts_the_changes_of_the_index(connect):
    client = connect(writable=True)
    before = client.get("/health").json()
    client.delete("/api/items/1")
    after = client.get("/health").json()
    assert (before["status"], after["items"], after["generation"]) == ("ready", 19, before["generation"] + 1)


def test_columns_named_as_fields_of_the_index_are_listed_as_a_filter_finds_them(tmp_path, toy_pictures):
    pictures = [replace(each, metadata={"id": 4000 + n, "width": "wide"}) for n, each in enumerate(toy_pictures)]
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        own.add(pictures)
        with TestClient(create_app(own, ColorEmbedder()), base_url="http://localhost") as client:
            fields = client.get("/api/info").json()["fields"]
            assert fields == ["label", "width", "height", "metadata.id", "metadata.width"]
            content = pictures[0].path.read_bytes()
            hits = search(client, content, where="`metadata.id` = 4003 and metadata.width = 'wide'").json()["hits"]
            assert [hit["metadata"]["id"] for hit in hits] == [4003]


@pytest.fixture
def certified(tmp_path, index, toy_pictures):
    """A client of a service whose run has a certificate for the two nearest answers."""
    from fastapi.testclient import TestClient

    embedder = ColorEmbedder(path=tmp_path)
    Certificate(embedder.fingerprint, 0.95, {0.8: 0.5, 0.9: 0.01}, answers=2).write(tmp_path)
    with TestClient(create_app(index, embedder, ServiceSettings()), base_url="http://localhost") as client:
        yield client


def test_hits_carry_the_certified_precision_where_the_certificate_reaches(certified, toy_pictures):
    hits = search(certified, toy_pictures[0].path.read_bytes(), k=4).json()["hits"]
    expected = [0.9 if hit["distance"] <= 0.01 else 0.8 if hit["distance"] <= 0.5 else None for hit in hits]
    assert [hit["precision"] for hit in hits] == [*expected[:2], None, None]
    assert {hit["precision"] for hit in hits[:2]} & {0.8, 0.9}
    levels = [{"precision": 0.8, "distance": 0.5}, {"precision": 0.9, "distance": 0.01}]
    assert certified.get("/api/info").json()["certificate"] == {"confidence": 0.95, "answers": 2, "precisions": levels}


def test_a_precision_becomes_the_distance_that_is_certified_for_it(certified, toy_pictures):
    content = toy_pictures[0].path.read_bytes()
    assert all(hit["distance"] <= 0.01 for hit in search(certified, content, precision=0.85).json()["hits"])
    refused = search(certified, content, precision=0.95)
    assert refused.status_code == 422
    assert refused.json()["detail"] == "precision: expected at most 0.9, as certified, got 0.95"


def test_hits_of_several_models_have_no_certified_precision(tmp_path, toy_pictures):
    both = EnsembleEmbedder([ColorEmbedder(2), ColorEmbedder(3)])
    with Index.create(tmp_path / "both.index", both) as index:
        index.add(toy_pictures[:3])
        with TestClient(create_app(index, both), base_url=LOCAL) as client:
            refused = search(client, toy_pictures[0].path.read_bytes(), precision=0.8)
            assert client.get("/api/info").json()["model"] == "colors + colors"
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("precision: hits are of several models together, which have no")


def test_hits_that_are_ranked_again_have_no_certified_precision(certified, index, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "scan", Reranked(Exact(), "k-reciprocal"))
    service = create_app(index, ColorEmbedder(path=tmp_path)).state.service
    assert service.certificate is None
    assert service.note == "certified precisions are of the nearest hits; these are ranked again"
    with TestClient(create_app(index, ColorEmbedder(path=tmp_path)), base_url=LOCAL) as client:
        refused = search(client, PICTURE, precision=0.8)
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "precision: hits are ranked again here, and have no certified one",
    )


def test_a_certificate_of_other_weights_or_a_damaged_one_is_named_and_not_used(tmp_path, index):
    Certificate("0" * 64, 0.95, {0.8: 0.5}).write(tmp_path)
    service = create_app(index, ColorEmbedder(path=tmp_path)).state.service
    assert service.certificate is None
    assert "certificate.json: expected the certificate of the weights in use" in service.note
    assert service.note.endswith("; calibrate the run again; until then, hits have no certified precision")
    (tmp_path / "certificate.json").write_text("{")
    assert "damaged" in create_app(index, ColorEmbedder(path=tmp_path)).state.service.note


def test_the_description_of_the_routes_is_complete(connect):
    described = connect().get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (path, method)
            good = [status for status in operation["responses"] if status[0] == "2"]
            assert good, (path, method)
            for status, response in operation["responses"].items():
                if status[0] == "4":
                    assert "Problem" in json.dumps(response), (path, method, status)
    assert set(described["paths"]["/api/search"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
    }


def test_the_description_has_the_bounds_and_the_token_of_the_service(connect):
    found = connect(token="0123456789abcdef", max_k=7, max_pictures=3).get("/openapi.json").json()
    body = found["paths"]["/api/search"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert (body["properties"]["k"]["maximum"], body["properties"]["k"]["default"]) == (7, 7)
    assert body["properties"]["picture"]["maxItems"] == 3
    assert found["paths"]["/api/info"]["get"]["security"] == [{"token": []}]
    assert "security" not in found["paths"]["/health"]["get"]
    open_one = connect(max_k=7)
    assert "securitySchemes" not in open_one.get("/openapi.json").json()["components"]
    assert len(search(open_one, id=1).json()["hits"]) == 7  # fewer than the 20 by default
    assert search(open_one, id=1, k=8).json() == {"detail": "k: expected 1 to 7, got 8"}


def test_an_index_that_cannot_be_read_is_not_ready(connect, monkeypatch):
    client = connect()
    monkeypatch.setattr("ccpml.serving.service.service.Service.generation", lambda self: int("x"))
    response = client.get("/health")
    assert (response.status_code, response.json()) == (503, {"detail": "the index cannot be read"})


@pytest.mark.parametrize("lost", ["directory", "database", "rows", "replaced"])
def test_an_index_whose_files_are_gone_is_not_ready(connect, index, tmp_path, lost):
    client = connect()
    assert client.get("/health").status_code == 200
    if lost in {"directory", "replaced"}:
        index.path.rename(tmp_path / "old.index")
    else:
        (index.path / ("index.sqlite" if lost == "database" else "rows.1.f32")).unlink()
    if lost == "replaced":
        shutil.copytree(tmp_path / "old.index", index.path)
    assert client.get("/health").status_code == 503


@pytest.mark.parametrize("place", ["nothing", "another index"])
def test_an_index_that_was_moved_is_named_and_what_is_in_its_place_is_not_touched(
    connect, index, tmp_path, caplog, place
):
    client = connect(writable=True, feedback=True)
    assert search(client, PICTURE).status_code == 200
    index.path.rename(tmp_path / "old.index")
    if place == "another index":
        shutil.copytree(tmp_path / "old.index", index.path)
    before = {path: path.read_bytes() for path in index.path.rglob("*") if path.is_file()}
    verdict = {"query_id": 1, "id": 2, "verdict": "right"}
    for response in (
        client.post("/api/items", files={"picture": PICTURE}),
        client.delete("/api/items/3"),
        client.post("/api/feedback", json=verdict),
    ):
        assert (response.status_code, response.json()) == (503, {"detail": "the index cannot be read"})
    assert {path: path.read_bytes() for path in index.path.rglob("*") if path.is_file()} == before
    assert index.path.exists() == bool(before)
    assert all(record.exc_info is None for record in caplog.records)


def test_searches_and_changes_at_the_same_time_do_not_disturb_each_other(connect, toy_pictures):
    client, failures = connect(writable=True), []

    def ask(row):
        for _ in range(5):
            hits = search(client, toy_pictures[row].path.read_bytes(), k=1).json()["hits"]
            if hits[0]["id"] != row + 1:
                failures.append(hits)

    def change(number):
        for step in range(3):
            content = encoded(np.full((9, 9, 3), 7 * number + step, np.uint8))
            key = client.post("/api/items", files={"picture": content}).json()["id"]
            if client.delete(f"/api/items/{key}").status_code != 204:
                failures.append(key)

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(4)]
    threads += [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert client.get("/health").json()["items"] == 20


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; allow more open files (ulimit -n)"),
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "no thread can be started; free some memory, or allow more processes"),
    ],
)
def test_what_the_system_refuses_is_logged_as_a_sentence(connect, monkeypatch, caplog, error, logged):
    def refuse(*_):
        raise error

    client = connect()
    monkeypatch.setattr("ccpml.serving.service.service.Service.item", refuse)
    for response in (client.get("/api/items/1"), search(client, id=1)):
        detail = "the service lacks memory, threads or open files; try again later"
        assert (response.status_code, response.json()) == (503, {"detail": detail})
        assert response.headers["retry-after"]
    assert [record.getMessage().startswith(logged) for record in caplog.records if record.levelname == "ERROR"] == [
        True
    ] * 2

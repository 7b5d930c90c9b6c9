"""The index in a collection against the index on the disk, and what it does when the server fails."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image
from qdrant_client import QdrantClient, models

from ccpml.serving import Filter, FilterError, Index, NotAnIndexError, OtherModelError, Picture, find_pictures
from ccpml.serving.qdrant import QdrantError, QdrantIndex, connection
from ccpml.serving.search.approximate import LowRecallError
from tests.serving.embedders import ColorEmbedder
from tests.serving.qdrant.server import qdrant_server

ADDRESS = "qdrant://embedded/shop"
EMBEDDER = ColorEmbedder()

pytestmark = pytest.mark.filterwarnings("ignore:(Local mode|Payload indexes):UserWarning")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    found = []
    for number in range(70):  # more than a batch
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(folder / f"{number}.png")
        price = [3, 7.5, None][number % 3]
        found.append(Picture(folder / f"{number}.png", ["mug", "Bowl", ""][number % 3], {"price": price}))
    return found


@pytest.fixture(scope="module")
def queries():
    vectors = np.random.default_rng(1).random((5, EMBEDDER.embedding_dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def client():
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def server():
    with qdrant_server() as server:
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds that the connection would have waited."""
    found = []
    monkeypatch.setattr(connection.Connection.__init__, "__defaults__", (found.append,))
    return found


class CountingEmbedder(ColorEmbedder):
    count = 0

    def embed(self, images):
        self.count += len(images)
        return super().embed(images)


def answers(index, queries, **options):
    return [
        [(hit.item.path, hit.item.label, dict(hit.item.metadata), hit.rank) for hit in found]
        for found in index.search(queries, **options)
    ], [[hit.distance for hit in found] for found in index.search(queries, **options)]


def test_answers_are_those_of_the_index_on_the_disk(tmp_path, pictures, queries, client):
    with (
        Index.create(tmp_path / "x.index", EMBEDDER) as exact,
        QdrantIndex.create(ADDRESS, EMBEDDER, client) as index,
    ):
        local, remote = exact.add(pictures).ids, index.add(pictures).ids
        assert len(index) == len(exact) == len(set(remote)) == 70
        for step in range(3):
            if step == 1:  # some are removed, one of them twice
                assert index.remove([remote[3], remote[3], *remote[40:60], 5]) == 21
                exact.remove([local[3], *local[40:60]])
            if step == 2:  # and some added again
                index.add(pictures[40:45])
                exact.add(pictures[40:45])
            found, distances = answers(index, queries, k=12)
            expected, exact_distances = answers(exact, queries, k=12)
            assert found == expected
            np.testing.assert_allclose(distances, exact_distances, atol=1e-5)
        assert len(index.search(queries, k=100)[0]) == len(index) == 54
        hit = index.search(queries[:1], k=1)[0][0]
        twin = exact.search(queries[:1], k=1)[0][0].item
        assert index.item(hit.item.id) == hit.item
        assert (hit.item.content_hash, hit.item.perceptual_hash) == (twin.content_hash, twin.perceptual_hash)
        assert index.thumbnail(hit.item.id) == exact.thumbnail(twin.id)
        np.testing.assert_array_equal(index.vectors([hit.item.id]), exact.vectors([twin.id]))


@pytest.mark.parametrize("where", ["label = 'mug'", "price < 7 or label like 'b%'", "not price is null", "width = 1"])
def test_filtered_answers_are_the_nearest_of_the_items_that_pass(pictures, queries, client, where):
    passes = {
        "label = 'mug'": lambda p: p.label == "mug",
        "price < 7 or label like 'b%'": lambda p: p.label != "",
        "not price is null": lambda p: p.metadata["price"] is not None,
        "width = 1": lambda p: False,
    }[where]
    kept = [picture for picture in pictures if passes(picture)]
    vectors = EMBEDDER.embed([picture.path for picture in kept])
    with QdrantIndex.create(ADDRESS, EMBEDDER, client) as index:
        index.add(pictures)
        found = index.search(queries, k=9, where=Filter.parse(where))
    for query, hits in zip(queries, found, strict=True):
        distances = np.linalg.norm(vectors - query, axis=1) if kept else np.empty(0)
        nearest = np.argsort(distances)[:9]
        assert [hit.item.path for hit in hits] == [str(kept[row].path) for row in nearest]
        assert [hit.distance for hit in hits] == pytest.approx(distances[nearest].tolist(), abs=1e-5)


def test_a_field_that_no_item_has_is_refused(pictures, queries, client):
    with QdrantIndex.create(ADDRESS, EMBEDDER, client) as index:
        index.add(pictures[:2])
        with pytest.raises(FilterError, match=r"prize: unknown field; the index has .*price"):
            index.search(queries, where=Filter.parse("prize < 3"))
        with pytest.raises(FilterError, match="qdrant orders no texts"):
            index.check_fields(Filter.parse("label < 'm'"))
        other = QdrantIndex.open(ADDRESS, EMBEDDER, client)
        index.add([Picture(pictures[3].path, "", {"size": 3})])
        assert len(other.search(queries, where=Filter.parse("size = 3"))[0]) == 1  # what others added is known


def test_a_picture_takes_the_place_of_that_with_its_path(tmp_path, client):
    file = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(file)
    with QdrantIndex.create(ADDRESS, EMBEDDER, client) as index:
        first = index.add([file, file]).ids
        assert len(index) == 1
        assert first[0] == first[1] < 2**53
        Image.new("RGB", (4, 4), "blue").save(file)
        assert index.add([Picture(file, "mug", {"price": 3})]).ids == first[:1]
        assert (index.item(first[0]).label, index.item(first[0]).metadata) == ("mug", {"price": 3})
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        assert index.item(first[0]).content_hash == content
        np.testing.assert_allclose(index.vectors(first[:1]), EMBEDDER.embed([file]), atol=1e-6)
        for key in (0, -1, 2**70, first[0] + 1):
            with pytest.raises(KeyError, match="no item"):
                index.item(key)
            with pytest.raises(KeyError, match="no item"):
                index.vectors([key])
        assert index.remove([0, -1, 2**70]) == 0


def test_unreadable_pictures_are_skipped(tmp_path, client):
    (tmp_path / "broken.png").write_bytes(b"none")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    odd = tmp_path / os.fsdecode(b"\xff.png")
    odd.hardlink_to(tmp_path / "a.png")
    with QdrantIndex.create(ADDRESS, EMBEDDER, client) as index:
        added = index.add([tmp_path / "broken.png", tmp_path / "a.png", tmp_path / "none.png", odd])
        assert len(added.ids) == len(index) == 1
        assert sorted(error.name for error in added.skipped) == sorted(
            str(tmp_path / name) for name in ("broken.png", "none.png", odd.name)
        )


def test_a_folder_is_synchronized_as_on_the_disk(tmp_path, queries, client):
    folder = tmp_path / "photos"
    rng = np.random.default_rng(2)
    for number in range(12):
        file = folder / f"{number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(file)
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    embedder = CountingEmbedder()
    with (
        Index.create(tmp_path / "x.index", EMBEDDER) as exact,
        QdrantIndex.create(ADDRESS, embedder, client) as index,
    ):
        index.add([tmp_path / "other.png"])
        exact.add([tmp_path / "other.png"])
        assert index.sync(str(folder)) == exact.sync(str(folder))
        (folder / "0" / "0.png").unlink()
        (folder / "1" / "1.png").rename(folder / "2" / "renamed.png")
        (folder / "1" / "4.png").write_bytes(b"no image")
        Image.new("RGB", (5, 5), "green").save(folder / "0" / "3.png")
        Image.new("RGB", (5, 5), "blue").save(folder / "new.png")
        (folder / "2" / "2.png").touch()
        embedder.count = 0
        done, expected = index.sync(str(folder)), exact.sync(str(folder))
        assert embedder.count == 2
        assert str(done) == str(expected) == "1 added, 1 changed, 1 renamed, 2 removed, 8 unchanged"
        assert [error.name for error in done.skipped] == [error.name for error in expected.skipped]
        found, distances = answers(index, queries, k=20)
        expected, exact_distances = answers(exact, queries, k=20)
        assert found == expected
        np.testing.assert_allclose(distances, exact_distances, atol=1e-5)
        assert index.summary(3)[:3] == exact.summary(3)[:3] == (12, 3, [])
        assert len(index.summary(3).examples) == 3
        assert [index.item(key).id for key in index.summary(3).examples] == index.summary(3).examples
        moved = folder.rename(tmp_path / "moved")
        assert str(index.sync(str(moved))) == str(exact.sync(str(moved)))
        assert embedder.count == 2
        assert answers(index, queries, k=20)[0] == answers(exact, queries, k=20)[0]
        assert index.sources() == exact.sources()
        assert index.remove_source(f"folder:{moved}") == exact.remove_source(f"folder:{moved}")
        assert len(index) == len(exact) == 1


def test_labels_and_metadata_of_a_table_are_brought_up_to_date(tmp_path, client):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    table = tmp_path / "shop.csv"
    table.write_text("path,label,price\na.png,mug,3\n")
    embedder = CountingEmbedder()
    with QdrantIndex.create(ADDRESS, embedder, client) as index:
        index.sync(str(table))
        table.write_text("path,label,color\na.png,cup,red\n")
        assert index.sync(find_pictures(str(table))).unchanged == 1
        assert embedder.count == 1
        (hit,) = index.search(embedder.embed([tmp_path / "a.png"]), where="color = 'red' and label like 'CUP'")[0]
        assert (hit.item.label, hit.item.metadata) == ("cup", {"color": "red"})
        assert index.thumbnail(hit.item.id).startswith(b"\xff\xd8")


def test_over_http_as_embedded(pictures, queries, client, server):
    with (
        QdrantIndex.create(ADDRESS, EMBEDDER, client) as embedded,
        QdrantIndex.create(f"{server.url}/shop", EMBEDDER) as index,
    ):
        ids = index.add(pictures).ids
        assert ids == embedded.add(pictures).ids
        where = Filter.parse("label like 'MUG' or price >= 7")
        for options in ({}, {"where": where}, {"k": 3}):
            assert index.search(queries, **options) == embedded.search(queries, **options)
        assert index.remove(ids[:2]) == 2
        assert len(index) == 68
        assert index.thumbnail(ids[5]) == embedded.thumbnail(ids[5])
        np.testing.assert_array_equal(index.vectors(ids[5:9]), embedded.vectors(ids[5:9]))
    with QdrantIndex.open(f"{server.url}/shop", EMBEDDER) as index:
        assert len(index) == 68
        assert index.model_path == EMBEDDER.path.resolve()


def test_the_recall_of_a_graph_is_measured_before_it_is_used(pictures, queries, client, server):
    with QdrantIndex.create(ADDRESS, EMBEDDER, client) as index:
        assert index.use_graph().value == 1  # an empty one
        index.add(pictures)
        assert index.use_graph() == (1.0, 70)  # the embedded mode is exact
    with QdrantIndex.create(f"{server.url}/shop", EMBEDDER) as index:
        index.add(pictures)
        server.db.misses = True
        before = index.search(queries)
        with pytest.raises(LowRecallError, match=r"shop: expected a recall@10 of at least 0.95, measured .* 0.5000"):
            index.use_graph()
        assert index.search(queries) == before
        assert index.use_graph(0.4).value == 0.5
        assert [len(found) for found in index.search(queries)] == [5] * 5
        where = Filter.parse("label = 'mug'")
        assert [len(found) for found in index.search(queries, where=where)] == [10] * 5  # exact with a filter


def test_an_upload_that_failed_is_resumed_with_what_is_missing(pictures, server):
    embedder = CountingEmbedder()
    folder = str(pictures[0].path.parent)
    with QdrantIndex.create(f"{server.url}/shop", embedder) as index:
        server.failures["PUT", "points"] = [None, *["cut"] * connection.WRITE_ATTEMPTS]
        with pytest.raises(QdrantError, match=r"the connection broke off .*\(6 attempts\)"):
            index.sync(folder)
        assert len(index) == 64
        assert embedder.count == 70
        embedder.count = 0
        assert (index.sync(folder).added, embedder.count, len(index)) == (6, 6, 70)


@pytest.mark.parametrize("failure", ["cut", "lost", 500, 503])
def test_a_failed_call_is_repeated(pictures, queries, server, waits, failure):
    with QdrantIndex.create(f"{server.url}/shop", EMBEDDER) as index:
        server.failures["PUT", "points"] = [failure, failure]
        server.failures["POST", "batch"] = [failure]
        index.add(pictures[:5])
        assert len(index) == 5
        assert len(index.search(queries)[0]) == 5
    assert waits == [0.5, 1.0, 0.5]


def test_an_error_of_the_request_is_not_repeated(pictures, server, waits):
    with QdrantIndex.create(f"{server.url}/shop", EMBEDDER) as index:
        server.failures["PUT", "points"] = [400]
        with pytest.raises(QdrantError, match=r"shop: the server refuses: Service internal error: simulated \(400\)$"):
            index.add(pictures[:5])
    assert waits == []


def test_an_index_is_bound_to_its_model(client):
    QdrantIndex.create(ADDRESS, ColorEmbedder(2), client)
    with pytest.raises(FileExistsError, match="already exists"):
        QdrantIndex.create(ADDRESS, ColorEmbedder(2), client)
    with pytest.raises(ValueError, match="without its model"):
        QdrantIndex.open(ADDRESS, client=client).embed([])
    with pytest.raises(OtherModelError, match=r"qdrant://embedded:6333/shop: expected the model .*other weights"):
        QdrantIndex.open(ADDRESS, ColorEmbedder(3), client)


def test_other_collections_are_refused(client):
    with pytest.raises(NotAnIndexError, match=r"not an index \(collection not found\)"):
        QdrantIndex.open(ADDRESS, client=client)
    vectors = models.VectorParams(size=3, distance=models.Distance.EUCLID)
    client.create_collection("shop", vectors)
    with pytest.raises(NotAnIndexError, match="not an index; expected a collection that ccpml made"):
        QdrantIndex.open(ADDRESS, client=client)
    client.delete_collection("shop")
    client.create_collection(
        "shop", vectors, metadata={"ccpml": "1", "embedding_dim": 4, "fingerprint": "", "model": ""}
    )
    with pytest.raises(NotAnIndexError, match="expected vectors with 4 dimensions, got 3"):
        QdrantIndex.open(ADDRESS, client=client)
    client.delete_collection("shop")
    client.create_collection("shop", vectors, metadata={"ccpml": "2"})
    with pytest.raises(NotAnIndexError, match="expected an index of format 1, got 2; build it again"):
        QdrantIndex.open(ADDRESS, client=client)

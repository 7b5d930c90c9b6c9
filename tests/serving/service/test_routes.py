import numpy as np


def test_a_picture_of_the_index_finds_itself_first_and_then_the_nearest_by_definition(connect, index, toy_pictures):
    client = connect()
    answer = client.post("/api/search", files={"picture": toy_pictures[7].path.read_bytes()}, data={"k": "5"}).json()
    vectors = index.vectors(range(1, 21)).astype(np.float64)
    distances = np.linalg.norm(vectors - vectors[7], axis=1)
    expected = (np.argsort(distances, kind="stable") + 1)[:5].tolist()
    assert [hit["id"] for hit in answer["hits"]] == expected
    assert np.allclose([hit["distance"] for hit in answer["hits"]], np.sort(distances)[:5], atol=1e-3)
    assert answer["answered"] is True


def test_a_search_by_id_leaves_the_item_itself_out(connect):
    hits = connect().post("/api/search", json={"id": 3, "k": 4}).json()["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert 3 not in {hit["id"] for hit in hits}

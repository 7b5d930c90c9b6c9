import shutil

import numpy as np
import pytest
from PIL import Image

from ccpml.serving import Index, OtherModelError, Picture, Query, ask, find_queries
from ccpml.serving.search import queries as module
from ccpml.serving.search.queries import mean_vector
from ccpml.serving.service import create_app
from tests.serving.embedders import ColorEmbedder

EMBEDDER = ColorEmbedder()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(9):
        (folder / f"class{number % 3}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8)).save(folder / f"class{number % 3}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def index(photos, tmp_path_factory):
    with Index.create(tmp_path_factory.mktemp("index") / "x.index", EMBEDDER) as index:
        index.sync(str(photos))
        yield index


def test_files_that_are_left_out_are_named(photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "inbox")
    for name in ("a.heic", "b.HEIC", "notes.txt"):
        (tmp_path / "inbox" / name).write_bytes(b"x")
    assert len(find_queries([str(tmp_path / "inbox")])) == 9
    error = capsys.readouterr().err
    assert f"{tmp_path}/inbox: ignored " in error
    assert "notes.txt" in error


def test_names_are_pictures_folders_files_of_pictures_and_items(photos, tmp_path):
    (tmp_path / "list.csv").write_text(f"path,label\n{photos}/class0/0.png,a\n{photos}/class1/1.png,b\n")
    (tmp_path / "photo").write_bytes((photos / "class0" / "0.png").read_bytes())  # without suffix
    given = [str(tmp_path / "photo"), str(photos), str(tmp_path / "list.csv"), str(photos / "class1" / "*.png")]
    found = find_queries(given, [4])
    assert [len(query.pictures) for query in found] == [1] * (1 + 9 + 2 + 3) + [0]
    assert [query.pictures[0].label for query in found[10:12]] == ["a", "b"]
    assert list(found[-1].ids) == [4]
    (whole,) = find_queries(given, [4], together=True)
    assert (len(whole.pictures), list(whole.ids)) == (15, [4])
    with pytest.raises(ValueError, match=r"missing\.jpg: not found"):
        find_queries([str(tmp_path / "missing.jpg")])


def test_one_of_several_pictures_that_is_not_found_is_named_and_the_others_answered(index, photos, tmp_path):
    given = [str(tmp_path / "gone.jpg"), str(photos / "class0" / "0.png")]
    missing, found = ask(index, find_queries(given), 4, embedder=EMBEDDER)
    assert missing.hits is None
    assert [str(error) for error in missing.skipped] == [f"{given[0]}: cannot be opened (No such file or directory)"]
    assert found.hits[0].item.path.endswith("class0/0.png")
    for other in ("gone", str(tmp_path / "*.jpg")):  # which may be anything
        with pytest.raises(ValueError, match=r"not found|no images found"):
            find_queries([*given, other])


def test_items_are_no_answers_to_themselves_and_the_same_pictures_are(index, photos):
    item = index.item(5)
    by_id, by_picture = ask(index, [Query(ids=[5]), Query([Picture(photos / item.path)])], 4, embedder=EMBEDDER)
    assert by_picture.hits[0][:2] == (item, 0)
    assert [hit.item for hit in by_id.hits[:3]] == [hit.item for hit in by_picture.hits[1:]]
    assert [hit.rank for hit in by_id.hits] == [1, 2, 3, 4]
    assert by_id.label == item.label
    assert by_picture.label == ""
    assert by_id.thumbnails == [index.thumbnail(5)]
    assert [reply.hits for reply in ask(index, (Query(ids=[key]) for key in (5,)), 4)] == [by_id.hits]


def test_unreadable_pictures_are_named_and_the_others_answered(index, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_QUERIES", 3)
    (tmp_path / "bad.png").write_bytes(b"none")
    bad = Picture(tmp_path / "bad.png")
    good = [Picture(path) for path in sorted(photos.glob("*/*.png"))]
    queries = [Query([picture]) for picture in (good[0], bad, *good[1:5], bad)]
    replies = list(ask(index, [*queries, Query([bad, good[5]]), Query([bad], [3])], 1, embedder=EMBEDDER))
    assert [bool(reply.skipped) for reply in replies] == [False, True, *[False] * 4, True, True, True]
    assert [reply.hits is None for reply in replies] == [False, True, *[False] * 4, True, False, False]
    found = [reply.hits[0].item.path for reply in replies if reply.hits]
    assert found[:6] == [str(picture.path) for picture in good[:6]]
    assert str(replies[1].skipped[0]) == f"{tmp_path / 'bad.png'}: not an image of a known format, or damaged header"


def test_several_pictures_of_one_thing_are_searched_for_by_their_mean_direction(index):
    vectors = index.vectors([1, 2, 6])
    expected = vectors.sum(axis=0) / np.linalg.norm(vectors.sum(axis=0))  # of unit vectors
    np.testing.assert_allclose(mean_vector(vectors), expected, rtol=1e-6)
    np.testing.assert_array_equal(mean_vector(vectors[:1]), vectors[0])
    np.testing.assert_allclose(mean_vector(0.5 * vectors), 0.5 * expected, rtol=1e-6)
    assert mean_vector(np.float32([[1, 0], [-1, 0]])).tolist() == [0, 0]
    (reply,) = ask(index, [Query(ids=[1, 2, 6])], k=20)
    assert sorted(hit.item.id for hit in reply.hits) == [3, 4, 5, 7, 8, 9]
    assert reply.label == ""  # of two classes
    assert [hit.distance for hit in reply.hits] == pytest.approx(
        sorted(np.linalg.norm(index.vectors([3, 4, 5, 7, 8, 9]) - expected, axis=1)), rel=1e-5
    )


def test_pictures_need_the_model(index, photos):
    with pytest.raises(ValueError, match="pass the model"):
        next(ask(index, find_queries([str(photos)])))


def test_another_model_than_that_of_the_index_is_refused(index):
    other = ColorEmbedder()
    other.fingerprint = "0" * 64
    for use in (lambda: list(ask(index, [Query(ids=[1])], embedder=other)), lambda: create_app(index, other)):
        with pytest.raises(OtherModelError, match="expected the model that the index was made with"):
            use()
    assert index.items(limit=1), "it is not closed"


def test_pictures_of_a_query_may_come_from_an_iterator_and_what_is_no_query_is_named(index, photos):
    files = sorted(photos.glob("*/*.png"))[:2]
    (reply,) = ask(index, [Query(Picture(file) for file in files)], 2, embedder=EMBEDDER)
    (expected,) = ask(index, [Query([Picture(file) for file in files])], 2, embedder=EMBEDDER)
    assert reply.hits == expected.hits != []
    for wrong in (files, [str(files[0])], Picture(files[0]), files[0], 3):
        with pytest.raises(ValueError, match=r"pictures: expected (several )?pictures, got "):
            Query(wrong)
    for wrong in (["q.jpg"], files, [Picture(files[0])], Query(ids=[1]), "q.jpg"):
        with pytest.raises(ValueError, match=r"queries: expected (several )?queries, got "):
            next(ask(index, wrong, embedder=EMBEDDER))
    for k in (True, -1, 2.5):
        with pytest.raises(ValueError, match="k: expected an integer of at least 0, got "):
            next(ask(index, [Query(ids=[1])], k))

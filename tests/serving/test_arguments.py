"""Arguments of an index, on the disk and on a server: numbers of NumPy, and what is none of what is expected."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from qdrant_client import QdrantClient

from ccpml.serving import FilterError, Index, OtherModelError, Picture, QdrantIndex, find_queries
from ccpml.serving.ensemble import EnsembleEmbedder
from tests.serving.changes import EMBEDDER, picture
from tests.serving.embedders import ColorEmbedder

pytestmark = pytest.mark.filterwarnings("ignore:(Local mode|Payload indexes):UserWarning")

VECTOR = np.ones(EMBEDDER.embedding_dim, np.float32) / EMBEDDER.embedding_dim**0.5


@pytest.fixture(params=["disk", "server"])
def index(request, tmp_path):
    if request.param == "disk":
        made = Index.create(tmp_path / "made.index", EMBEDDER)
    else:
        made = QdrantIndex.create("qdrant://embedded/shop", EMBEDDER, client=QdrantClient(":memory:"))
    with made as index:
        yield index


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_numbers_of_other_libraries_are_numbers(index, kind):
    """To SQLite, an integer of NumPy is no number: an item was said to be absent, and nothing was removed."""
    ids = index.add(picture(number, 1) for number in range(6)).ids
    assert index.item(kind(ids)[1]) == index.item(ids[1])
    assert index.thumbnail(kind(ids)[1]) == index.thumbnail(ids[1])
    np.testing.assert_array_equal(index.vectors(kind(ids)), index.vectors(ids))
    assert [hit.item.id for hit in index.search(VECTOR, kind(2))[0]] == [h.item.id for h in index.search(VECTOR, 2)[0]]
    assert len(index.summary(kind(2)).examples) == 2
    if isinstance(index, Index):
        assert index.items(kind(ids)[2], kind(2)) == index.items(ids[2], 2)
    assert index.remove(kind(ids[:4])) == 4
    assert len(index) == 2


def test_numbers_of_numpy_in_metadata_are_numbers(index):
    given = {
        "count": np.int64(3),
        "price": np.float32(1.5),
        "sold": np.bool_(True),
        "color": np.str_("red"),
        "no": None,
    }
    [key] = index.add([Picture("a", metadata=given, image=np.zeros((9, 9, 3), np.uint8))]).ids
    assert index.item(key).metadata == {"count": 3, "price": 1.5, "sold": True, "color": "red", "no": None}
    assert index.search(VECTOR, 1, "count = 3 and price < 2")[0][0].item.id == key


@pytest.mark.parametrize("given", [{"label": "a\0"}, {"metadata": {"a": "b\0c"}}, {"metadata": {"a\0b": 1}}])
def test_text_that_filters_would_see_cut_is_refused(given):
    with pytest.raises(ValueError, match=rf"^{next(iter(given))}: expected .*(without NUL|that UTF-8 can write), got"):
        Picture("a.png", **given)


def test_an_ensemble_of_paths_is_refused():
    with pytest.raises(ValueError, match="embedder: expected a model, such as load_run returns, got 'runs/a'"):
        EnsembleEmbedder(["runs/a", "runs/b"])
    with pytest.raises(ValueError, match="embedder: expected several models, got runs/a alone; pass a list"):
        EnsembleEmbedder("runs/a")


class Other(ColorEmbedder):
    """A model of one's own, with something wrong."""

    def __init__(self, change=lambda vectors: vectors, **attributes):
        super().__init__()
        self.change = change
        vars(self).update(attributes)

    def embed(self, images):
        return self.change(super().embed(images))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            Other(lambda x: 20 * x),
            r"runs/colors: expected φ-normalized embeddings, of length 1 or less, got 20 for a\.png",
        ),
        (Other(lambda x: x[:, :5]), r"runs/colors: expected embeddings of shape \(1, 12\), got \(1, 5\)"),
        (Other(lambda x: x + 0j), "runs/colors: expected an array of numbers, got complex"),
        (Other(lambda x: [[1.0], [2.0, 3.0]]), "runs/colors: expected an array of numbers, got list"),
        (Other(embedding_dim=3.0), "embedder: embedding_dim: expected an integer of at least 1, got 3.0"),
        (Other(fingerprint=5), "embedder: expected a text as fingerprint, got 5"),
        (Other(path="runs/a"), "embedder: expected a pathlib.Path as path, got 'runs/a'"),
        (Other, "embedder: expected a model, such as load_run returns, got <class"),
    ],
)
def test_what_is_wrong_with_a_model_of_ones_own_is_named(tmp_path, wrong, message):
    picture = Picture("a.png", image=np.full((9, 9, 3), 99, np.uint8))
    with pytest.raises(ValueError, match=f"^{message}"):
        Index.create(tmp_path / "x.index", wrong).add([picture])
    if message.startswith("embedder"):
        assert not (tmp_path / "x.index").exists()


def test_one_model_in_place_of_several_says_which_are_expected(tmp_path):
    both = EnsembleEmbedder([ColorEmbedder(2), ColorEmbedder(3)])
    Index.create(tmp_path / "both.index", both).close()
    file = tmp_path / "both.index" / "ensemble.json"
    expected = f"both.index: expected all models .*, got runs/colors alone; pass an EnsembleEmbedder of .* {file} names"
    with pytest.raises(OtherModelError, match=expected):
        Index.open(tmp_path / "both.index", both.runs[0])
    file.unlink()
    with pytest.raises(OtherModelError, match=f"{file}: not found, although .* several models; restore it from a copy"):
        Index.open(tmp_path / "both.index", both.runs[0])


def test_what_are_no_numbers_is_refused_by_name(index):
    for k in (-1, 2.5, "3", None, True):
        with pytest.raises(ValueError, match="k: expected an integer of at least 0, got"):
            index.search(VECTOR, k)
    for call in (index.item, index.thumbnail):
        for key in ("1", 1.0, None):
            with pytest.raises(ValueError, match="id: expected an integer, got"):
                call(key)
    for call in (index.remove, index.vectors):
        for ids in (["1"], [1.5], 3, "1", None):
            with pytest.raises(ValueError, match=r"ids: expected (an integer|several)"):
                call(ids)
    for queries in (np.ma.masked_array(VECTOR, VECTOR > 0), "x", None, torch.tensor(VECTOR).bfloat16()):
        with pytest.raises(ValueError, match="queries: expected"):
            index.search(queries)
    with pytest.raises(FilterError, match=r"filter: expected a text, such as .*, got 3"):
        index.search(VECTOR, 3, 3)


def test_one_picture_in_place_of_several_is_refused(index):
    """The letters of its path would be paths."""
    for alone in ("a.png", Path("a.png"), Picture(Path("a.png"))):
        with pytest.raises(ValueError, match=r"pictures: expected several, got a\.png alone; pass a list"):
            index.add(alone)
    with pytest.raises(ValueError, match=r"given: expected several names, got a\.png alone; pass a list"):
        find_queries("a.png")


@pytest.mark.parametrize("model", ["runs/photos", Path("runs/photos")])
def test_the_path_of_a_model_is_none(tmp_path, model):
    with pytest.raises(ValueError, match="embedder: expected a model, such as load_run returns, got"):
        Index.create(tmp_path / "x.index", model)
    with pytest.raises(ValueError, match="embedder: expected a model, such as load_run returns, got"):
        QdrantIndex.create("qdrant://embedded/shop", model, client=QdrantClient(":memory:"))
    assert not (tmp_path / "x.index").exists()
    Index.create(tmp_path / "made.index", EMBEDDER).close()
    with pytest.raises(ValueError, match="embedder: expected a model, such as load_run returns, got"):
        Index.open(tmp_path / "made.index", model)


def test_pictures_are_checked_when_they_are_made():
    assert Picture("a.png").path == Path("a.png")
    with pytest.raises(ValueError, match="label: expected a text, got 3"):
        Picture(Path("a"), label=3)
    for name in (1, "", None):
        with pytest.raises(ValueError, match="metadata: expected texts as names, not empty, got"):
            Picture(Path("a"), metadata={name: 1})
    with pytest.raises(ValueError, match=r"metadata: expected names that UTF-8 can write, got 'a\\udc80'"):
        Picture(Path("a"), metadata={"a\udc80": 1})
    assert Picture(Path("a"), metadata={"x": np.float32(1), "y": None, "z": True}).metadata["x"] == 1
    for value in (np.nan, float("inf"), np.float64("nan"), Path("a"), np.zeros(2), ["a"], {"b": 1}, ("c",), b"d"):
        with pytest.raises(ValueError, match="metadata: expected texts, finite numbers, True, False or None, got"):
            Picture(Path("a"), metadata={"x": value})
    for metadata in (None, [("a", 1)], "a", 3):
        with pytest.raises(ValueError, match="metadata: expected names and values, got "):
            Picture(Path("a"), metadata=metadata)
    for shape, dtype in (((8, 8, 3), float), ((8, 8), np.int64), ((1, 3, 8, 8), np.uint8), ((8, 8, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"image: expected uint8 \(H, W\), \(H, W, 1\) or \(H, W, 3\), got "):
            Picture(Path("a"), image=np.zeros(shape, dtype))
    with pytest.raises(ValueError, match="image: expected the contents of a file or an array, got Image"):
        Picture(Path("a"), image=Image.new("L", (4, 4)))

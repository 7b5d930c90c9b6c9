import numpy as np
import pytest
from PIL import Image

from ccpml.serving import Index, NotAnIndexError, OtherModelError
from tests.serving.embedders import ColorEmbedder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def test_what_is_added_is_found_after_opening_again_and_removed_items_are_not(tmp_path, photos):
    embedder = ColorEmbedder()
    (photos / "broken.png").write_bytes(b"none")
    with Index.create(tmp_path / "x.index", embedder) as index:
        added = index.add(sorted(photos.iterdir()))
        assert len(added.ids) == len(index) == 7
        assert [error.name for error in added.skipped] == [str(photos / "broken.png")]
        assert index.remove([added.ids[3]]) == 1
    with Index.open(tmp_path / "x.index", embedder) as index:
        vectors = embedder.embed([photos / f"{number}.png" for number in range(7)])
        hits = index.search(vectors, k=10)
        for number, found in enumerate(hits):
            kept = [other for other in range(7) if other != 3]
            expected = np.linalg.norm(vectors[kept] - vectors[number], axis=1)
            assert [hit.distance for hit in found] == pytest.approx(np.sort(expected).tolist(), abs=1e-3)
            assert [hit.item.id for hit in found] == [kept[i] + 1 for i in np.argsort(expected)]
        assert index.thumbnail(1).startswith(b"\xff\xd8")


def test_an_index_is_bound_to_its_model(tmp_path):
    Index.create(tmp_path / "x.index", ColorEmbedder(2)).close()
    with pytest.raises(OtherModelError, match="other weights"):
        Index.open(tmp_path / "x.index", ColorEmbedder(3))
    with pytest.raises(NotAnIndexError):
        Index.open(tmp_path / "none.index")

from pathlib import Path

import numpy as np
import pytest

from ccpml.data import ImageTable, PackedImage, Source, build_cache, load_source, read_image
from tests.data.layouts import make_inshop, small_counts
from tests.toy import toy_folder


def test_folders_and_files(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy", classes=4, per_class=2)
    file = tmp_path / "list.csv"
    file.write_text("path,label\ntoy/group0/class00/0.png,a\n")
    assert load_source(f"csv:{file}").table.class_names == ("a",)
    source = load_source(f"folder:{folder}")
    assert source.table.num_classes == 4
    assert source.folder == folder


def test_glyphs_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    table = ImageTable(np.zeros((3, 64, 64), np.uint8), np.array([0, 1, 2]), ("A", "B", "C"), name="glyphs")
    glyphs = Source(table, {"A": "train", "B": "validation", "C": "test"})
    monkeypatch.setattr("ccpml.data.sources.glyphs.load_glyphs", lambda: glyphs)
    assert load_source("glyphs", side=256) is glyphs
    with pytest.raises(ValueError, match="nothing to cache"):
        build_cache("glyphs")


@pytest.mark.parametrize("wrong", ["glyph", "folder:", "CUB"])
def test_unknown_names(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected groceries, glyphs, .*, inshop, folder:<path> or csv:<file>"):
        load_source(wrong)


def test_a_benchmark_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table with pixels from the packed file; a cache of smaller images is not used."""
    small_counts(monkeypatch)
    folder = make_inshop(tmp_path)
    home = build_cache("inshop", tmp_path, side=32, progress=False)
    assert home == folder / ".ccpml-cache" / "inshop"
    plain, packed = load_source("inshop", tmp_path), load_source("inshop", tmp_path, side=32)
    assert packed.table.packed
    assert not plain.table.packed
    assert packed.split_of_class == plain.split_of_class
    assert np.array_equal(packed.table.labels, plain.table.labels)
    assert packed.table.roles is not None
    assert plain.table.roles is not None
    assert packed.table.roles.tolist() == plain.table.roles.tolist()
    for row, image in enumerate(packed.table.images):
        assert isinstance(image, PackedImage)
        assert packed.table.name_of(row) == plain.table.name_of(row)
        pixels = read_image(image, channels=3)
        assert min(pixels.shape[:2]) <= 32
    assert not load_source("inshop", tmp_path, side=33).table.packed


def test_wrong_arguments_of_a_cache_are_named(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy")
    for side in (0, 32.5, "32", None, True):
        with pytest.raises(ValueError, match="side: expected an integer of at least 1"):
            build_cache(f"folder:{folder}", side=side, progress=False)
    with pytest.raises(ValueError, match="data_root: expected a folder, got 32"):
        build_cache(f"folder:{folder}", 32, progress=False)
    assert build_cache(f"folder:{folder}", side=np.int64(16), progress=False).is_dir()

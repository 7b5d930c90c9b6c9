import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ccpml.data import ImageTable, all_gray, check_images, load_folder, read_image
from ccpml.data.images.cache import cache_folder, pack_source, use_cache
from ccpml.data.images.cache_index import CacheError, index_key, read_index
from ccpml.data.images.packed import PackedImage
from ccpml.data.sources.source import Source
from ccpml.data_name import DataName
from tests.damage.states import bound_by_permissions
from tests.data.caches import NAME, content, fill, packed


def test_packed_pixels_are_the_resized_files(tmp_path: Path) -> None:
    source, cached = load_folder(fill(tmp_path)), packed(tmp_path)
    sizes = {}
    for original, small in zip(source.table.images, cached.table.images, strict=True):
        assert isinstance(original, Path)
        assert isinstance(small, PackedImage)
        whole, pixels = read_image(original, 3), read_image(small, 3)
        size = (small.width, small.height)
        expected = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BILINEAR))
        assert np.array_equal(pixels, expected) or (min(whole.shape[:2]) >= 64 and original.suffix == ".jpg")
        assert np.abs(pixels.astype(int) - expected).max() <= 8
        assert read_image(small, 1).shape == (small.height, small.width, 1)
        sizes[original.name] = (small.height, small.width, small.channels)
    assert sizes == {
        "1.jpg": (32, 43, 3),
        "ü 2.png": (157, 32, 1),
        "3.jpeg": (37, 32, 3),
        "thin.png": (100, 1, 3),
        "low,.png": (20, 90, 3),
        "6.BMP": (32, 32, 3),
    }


def test_tables_of_packed_images(tmp_path: Path) -> None:
    source, cached = load_folder(fill(tmp_path)), packed(tmp_path)
    table = cached.table
    names = [source.table.name_of(row) for row in range(6)]
    assert [table.name_of(row) for row in range(6)] == names
    assert table.subset([1]).name_of(0) == names[2]
    assert table.select([5, 0]).name_of(0) == names[5]
    assert check_images(table) == (table, [])
    assert not all_gray(table)
    assert all_gray(table.select([1]))
    small = pickle.dumps(table.images)
    assert pickle.loads(small) == table.images
    assert len(small) < 2000


def test_the_cache_moves_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [read_image(image, 3) for image in packed(fill(tmp_path / "here")).table.images]
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    for folder in (tmp_path / "there", Path(), Path("../there")):
        images = use_cache(load_folder(folder), NAME).table.images
        assert all(isinstance(image, PackedImage) for image in images)
        assert all(np.array_equal(read_image(image, 3), e) for image, e in zip(images, expected, strict=True))


@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
@pytest.mark.parametrize(
    ("path", "folder", "key"),
    [
        ("/d/i/1.jpg", "/d", "i/1.jpg"),
        ("/d/1.jpg", "/", "d/1.jpg"),
        ("i/1.jpg", ".", "i/1.jpg"),
        ("d/../x.jpg", "d", "../x.jpg"),
        ("/elsewhere/1.jpg", "/d", "/elsewhere/1.jpg"),
        ("/elsewhere/1.jpg", ".", "/elsewhere/1.jpg"),
        ("/data/1.jpg", "/d", "/data/1.jpg"),
    ],
)
def test_index_keys(path: str, folder: str, key: str) -> None:
    assert index_key(Path(path), Path(folder)) == key


def test_without_a_complete_cache_the_set_is_unchanged(tmp_path: Path) -> None:
    source = load_folder(fill(tmp_path))
    assert use_cache(source, NAME) is source
    cache_folder(tmp_path, NAME).with_name("folder.partial").mkdir(parents=True)
    assert use_cache(source, NAME) is source
    packed(tmp_path, side=32)
    assert use_cache(source, DataName("csv", "list.csv")) is source
    assert use_cache(source, NAME, side=33) is source
    assert use_cache(source, NAME, side=32) is not source
    memory = Source(ImageTable(np.zeros((1, 4, 4), np.uint8), np.array([0]), ("a",)))
    assert use_cache(memory, NAME) is memory
    with pytest.raises(ValueError, match="glyphs: expected a folder, a CSV file or a benchmark, got a set"):
        pack_source(memory, DataName("glyphs"))


def change(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("b/3.jpeg", change, r"3\.jpeg has changed or was removed"),
        ("b/3.jpeg", Path.unlink, r"3\.jpeg has changed or was removed"),
        (".ccpml-cache/folder/pixels-*.bin", cut_off, r"pixels-\w+\.bin: expected [\d,]+ bytes, got [\d,]+"),
        (".ccpml-cache/folder/pixels-*.bin", Path.unlink, r"pixels-\w+\.bin: not found"),
        (".ccpml-cache/folder/index.json", Path.unlink, r"index\.json: cannot be read"),
        (".ccpml-cache/folder/index.json", lambda path: path.write_bytes(b""), r"index\.json is invalid"),
        (".ccpml-cache/folder/index.json", lambda path: path.write_bytes(b"[]"), r"index\.json is invalid"),
        (".ccpml-cache/folder/index.json", cut_off, None),
    ],
)
def test_changed_files_and_damaged_caches_are_named(tmp_path: Path, file: str, harm: Any, message: str | None) -> None:
    source = load_folder(fill(tmp_path))
    first = packed(tmp_path)
    before = content(tmp_path)
    harm(next(tmp_path.glob(file)))
    if message is None:  # a missing final newline is harmless
        assert use_cache(source, NAME).table.images == first.table.images
        return
    with pytest.raises(CacheError, match=message) as caught:
        use_cache(source, NAME)
    assert str(caught.value).startswith(f"{cache_folder(tmp_path, NAME)}: cache cannot be used")
    packed(tmp_path)
    assert file.startswith("b/") or content(tmp_path) == before


def test_pixels_that_may_not_be_read_are_named_before_the_work(tmp_path: Path) -> None:
    source = load_folder(fill(tmp_path))
    packed(tmp_path)
    next(tmp_path.glob(".ccpml-cache/folder/pixels-*.bin")).chmod(0)
    with (
        bound_by_permissions(),
        pytest.raises(
            CacheError, match=r"pixels-\w+\.bin: cannot be read \(Permission denied\); change its permissions$"
        ),
    ):
        use_cache(source, NAME)


@pytest.mark.parametrize("name", [".ccpml-cache", ".ccpml-cache/folder"])
def test_what_is_in_place_of_a_cache_is_named(tmp_path: Path, name: str) -> None:
    source = load_folder(fill(tmp_path))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a file")
    with pytest.raises(CacheError, match=rf"{name}: expected the folder of a cache, got a file; remove it"):
        use_cache(source, NAME)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "nothing")
    with pytest.raises(CacheError, match=rf"{name}: expected the folder of a cache, got a broken link; remove it"):
        use_cache(source, NAME)
    with pytest.raises(CacheError, match=rf"{name}: expected the folder of a cache, got a broken link; remove it"):
        pack_source(source, NAME, progress=False)


def test_added_images_are_named(tmp_path: Path) -> None:
    packed(fill(tmp_path))
    shutil.copy(tmp_path / "b/3.jpeg", tmp_path / "b/4.jpg")
    with pytest.raises(ValueError, match=r"4\.jpg not found in it"):
        use_cache(load_folder(tmp_path), NAME)
    assert len(packed(tmp_path).table) == 7


@pytest.mark.parametrize(
    "edit",
    [
        {"version": 4},
        {"side": 31},
        {"pack": "../../b/6.BMP"},
        {"images": [["a/1.jpg", 1, 1, 0, 4, 4, 2, 0, 0]]},
        {"images": [["a/1.jpg", 1, 1, 9, 4, 4, 3, 0, 0]]},
        {"images": [["a/1.jpg", 1, 1, 0, 4, -4, 3, 0, 0]]},
        {"images": [["a/1.jpg", 1, 1, 0, 4, True, 3, 0, 0]]},
        {"images": "none"},
        {"images": [7]},
    ],
)
def test_an_edited_index_is_refused(tmp_path: Path, edit: dict[str, Any]) -> None:
    packed(fill(tmp_path))
    file = cache_folder(tmp_path, NAME) / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(ValueError, match=r"index\.json is invalid"):
        read_index(file.parent)


def test_a_pack_damaged_while_in_use_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    images = packed(fill(tmp_path)).table.images
    read_image(images[5], 3)
    home = cache_folder(tmp_path, NAME)
    os.truncate(next(home.glob("*.bin")), 10)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"thin\.png: packed file .* is truncated; build the cache again"):
            read_image(images[5], 3)
        _forget_mappings()
    next(home.glob("*.bin")).unlink()
    with pytest.raises(ValueError, match=r"thin\.png: packed file .* cannot be opened"):
        read_image(images[5], 3)


@pytest.mark.parametrize("remove", [True, False])
def test_a_damaged_pack_that_was_built_again_is_read_in_the_same_process(tmp_path: Path, remove: bool) -> None:
    images = packed(fill(tmp_path)).table.images
    whole = read_image(images[5], 3).copy()
    home = cache_folder(tmp_path, NAME)
    pack = next(home.glob("*.bin"))
    pack.write_bytes(bytes(pack.stat().st_size))
    os.utime(pack, ns=(1, 1))
    with pytest.raises(ValueError, match="wrong checksum"):
        read_image(images[5], 3)
    if remove:
        shutil.rmtree(home)
    again = packed(tmp_path).table.images
    np.testing.assert_array_equal(read_image(again[5], 3), whole)


def _forget_mappings() -> None:
    from ccpml.data.images import packed as module

    module._mapped.cache_clear()

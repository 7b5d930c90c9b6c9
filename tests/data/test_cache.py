import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ccpml.data import BadImagesError, ImageTable, all_grey, check_images, load_folder, read_image
from ccpml.data import cache_build as building
from ccpml.data.cache import cache_folder, pack_source, use_cache, verify_cache
from ccpml.data.cache_index import index_key, read_index
from ccpml.data.packed import PackedImage
from ccpml.data.sources import Source
from tests.data.pictures import encoded, smooth

NAME = "folder:pictures"


def fill(folder: Path, count: int = 6) -> Path:
    """Two classes of pictures of all kinds."""
    pictures = [
        encoded(smooth(90, 120), "JPEG", quality=95),
        encoded(smooth(300, 61, 1), "PNG"),
        encoded(Image.fromarray(smooth(80, 70)).convert("CMYK"), "JPEG", quality=95),
        encoded(smooth(100, 1), "PNG"),
        encoded(smooth(20, 90), "PNG"),
        encoded(smooth(64, 64), "BMP"),
    ]
    names = ["a/1.jpg", "a/ü 2.png", "b/3.jpeg", "b/thin.png", "b/low,.png", "b/6.BMP"]
    for number in range(count):
        path = folder / names[number % 6].replace("/", f"/{number // 6 or ''}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[number % 6])
    return folder


def packed(folder: Path, side: int = 32) -> Source:
    pack_source(load_folder(folder), folder, NAME, side, progress=False)
    return use_cache(load_folder(folder), folder, NAME)


def content(folder: Path) -> dict[str, bytes]:
    home = cache_folder(folder, NAME)
    return {path.name: path.read_bytes() for path in sorted(home.iterdir())}


def test_pixels_are_those_of_the_files_resized(tmp_path: Path) -> None:
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


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300))
def test_sizes(height: int, width: int, side: int) -> None:
    h, w = building._scaled(height, width, side)
    if min(height, width) <= side:
        assert (h, w) == (height, width)
    else:
        assert min(h, w) == side
        assert abs(h * width - w * height) <= max(height, width) / 2 + 1e-9


def test_tables_of_packed_images_are_like_those_of_files(tmp_path: Path) -> None:
    source, cached = load_folder(fill(tmp_path)), packed(tmp_path)
    table = cached.table
    names = [source.table.name_of(row) for row in range(6)]
    assert [table.name_of(row) for row in range(6)] == names
    assert table.subset([1]).name_of(0) == names[2]
    assert table.select([5, 0]).name_of(0) == names[5]
    assert check_images(table) == (table, [])
    assert not all_grey(table)
    assert all_grey(table.select([1]))
    small = pickle.dumps(table.images)
    assert pickle.loads(small) == table.images
    assert len(small) < 2000


def test_a_complete_cache_is_verified_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(fill(tmp_path))
    before = content(tmp_path)
    monkeypatch.setattr(building, "_pack", None)
    monkeypatch.setattr(building, "read_header", None)  # sizes are known
    packed(tmp_path)
    assert content(tmp_path) == before
    assert verify_cache(tmp_path, NAME, progress=False) == 6
    assert sorted(before)[0] == "index.json"
    assert len(before) == 2


def test_the_cache_moves_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [read_image(image, 3) for image in packed(fill(tmp_path / "here")).table.images]
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    for folder in (tmp_path / "there", Path(), Path("../there")):
        images = use_cache(load_folder(folder), folder, NAME).table.images
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
def test_keys(path: str, folder: str, key: str) -> None:
    assert index_key(Path(path), Path(folder)) == key


def test_without_a_complete_cache_the_set_is_unchanged(tmp_path: Path) -> None:
    source = load_folder(fill(tmp_path))
    assert use_cache(source, tmp_path, NAME) is source
    cache_folder(tmp_path, NAME).with_name("folder.partial").mkdir(parents=True)
    assert use_cache(source, tmp_path, NAME) is source
    packed(tmp_path, side=32)
    assert use_cache(source, tmp_path, "csv:list.csv") is source
    assert use_cache(source, tmp_path, NAME, side=33) is source
    assert use_cache(source, tmp_path, NAME, side=32) is not source
    memory = Source(ImageTable(np.zeros((1, 4, 4), np.uint8), np.array([0]), ("a",)))
    assert use_cache(memory, tmp_path, NAME) is memory
    with pytest.raises(ValueError, match="glyphs: its images are in memory"):
        pack_source(memory, tmp_path, "glyphs")


def change(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("b/3.jpeg", change, r"3\.jpeg: changed or gone"),
        ("b/3.jpeg", Path.unlink, r"3\.jpeg: changed or gone"),
        (".ccpml-cache/folder/pixels-*.bin", cut_off, r"pixels-\w+\.bin: has [\d,]+ bytes and not [\d,]+"),
        (".ccpml-cache/folder/pixels-*.bin", Path.unlink, r"pixels-\w+\.bin: is missing"),
        (".ccpml-cache/folder/index.json", Path.unlink, r"index\.json: cannot be read"),
        (".ccpml-cache/folder/index.json", lambda path: path.write_bytes(b""), r"index\.json: not a sound index"),
        (".ccpml-cache/folder/index.json", lambda path: path.write_bytes(b"[]"), r"index\.json: not a sound index"),
        (".ccpml-cache/folder/index.json", cut_off, None),
    ],
)
def test_what_does_not_fit_is_named_with_the_way_out(tmp_path: Path, file: str, harm: Any, message: str | None) -> None:
    source = load_folder(fill(tmp_path))
    first = packed(tmp_path)
    before = content(tmp_path)
    harm(next(tmp_path.glob(file)))
    if message is None:  # a lost line end is no loss
        assert use_cache(source, tmp_path, NAME).table.images == first.table.images
        return
    with pytest.raises(ValueError, match=message) as caught:
        use_cache(source, tmp_path, NAME)
    assert f"run `ccpml data cache {NAME}` again, or remove {cache_folder(tmp_path, NAME)}" in str(caught.value)
    packed(tmp_path)
    assert file.startswith("b/") or content(tmp_path) == before


def test_images_that_were_added_are_named(tmp_path: Path) -> None:
    packed(fill(tmp_path))
    shutil.copy(tmp_path / "b/3.jpeg", tmp_path / "b/4.jpg")
    with pytest.raises(ValueError, match=r"4\.jpg: not among the images packed"):
        use_cache(load_folder(tmp_path), tmp_path, NAME)
    assert len(packed(tmp_path).table) == 7


@pytest.mark.parametrize(
    "edit",
    [
        {"version": 2},
        {"side": 31},
        {"pack": "../../b/6.BMP"},
        {"images": [["a/1.jpg", 1, 1, 0, 4, 4, 2, 0]]},
        {"images": [["a/1.jpg", 1, 1, 9, 4, 4, 3, 0]]},
        {"images": [["a/1.jpg", 1, 1, 0, 4, -4, 3, 0]]},
        {"images": [["a/1.jpg", 1, 1, 0, 4, True, 3, 0]]},
        {"images": "none"},
        {"images": [7]},
    ],
)
def test_an_edited_index_is_refused(tmp_path: Path, edit: dict[str, Any]) -> None:
    packed(fill(tmp_path))
    file = cache_folder(tmp_path, NAME) / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(ValueError, match=r"index\.json: not a sound index"):
        read_index(file.parent)


def test_damaged_pixels_are_found_and_mended_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = packed(fill(tmp_path))
    before = content(tmp_path)
    image = cached.table.images[4]
    assert isinstance(image, PackedImage)
    pixels = bytearray(image.pack.read_bytes())
    pixels[image.offset + 5] ^= 64
    image.pack.write_bytes(pixels)
    use_cache(load_folder(tmp_path), tmp_path, NAME)  # cheap: reads no pixels
    with pytest.raises(ValueError, match=r"the pixels of 1 of 6 images are damaged \(b/low,\.png\); run"):
        verify_cache(tmp_path, NAME, progress=False)
    read = counted(monkeypatch)
    packed(tmp_path)
    assert read == [image.path]
    assert content(tmp_path) == before


def test_a_disk_that_forgets_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "damaged", lambda pack, entries, progress: entries[:1])
    with pytest.raises(ValueError, match="do not read back"):
        packed(fill(tmp_path))
    assert not cache_folder(tmp_path, NAME).exists()


def test_bad_images_are_collected_and_there_is_no_cache(tmp_path: Path) -> None:
    fill(tmp_path)
    good = (tmp_path / "a/1.jpg").read_bytes()
    (tmp_path / "a/1.jpg").write_bytes(good[: len(good) // 2])
    for number in range(11):
        (tmp_path / f"b/text{number:02}.png").write_bytes(b"text")
    with pytest.raises(BadImagesError) as caught:
        packed(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("12 of 17 images cannot be packed")
    assert "ccpml data cache folder:pictures" in lines[0]
    assert lines[1].startswith(f"  {tmp_path / 'a/1.jpg'}: ")
    assert lines[-1] == "  and 2 more"
    assert [image.row for image in caught.value.bad] == [0, *range(5, 16)]
    source = load_folder(tmp_path)
    assert use_cache(source, tmp_path, NAME) is source
    for path in (tmp_path / "b").glob("text*"):
        path.unlink()
    (tmp_path / "a/1.jpg").write_bytes(good)
    assert len(packed(tmp_path).table) == 6


def test_a_cache_survives_a_source_that_cannot_be_read_for_once(tmp_path: Path) -> None:
    source = load_folder(fill(tmp_path))
    packed(tmp_path)
    before = content(tmp_path)
    (tmp_path / "a/1.jpg").rename(tmp_path / "away")
    with pytest.raises(BadImagesError, match=r"1\.jpg: cannot be opened"):
        pack_source(source, tmp_path, NAME, 32, progress=False)
    (tmp_path / "away").rename(tmp_path / "a/1.jpg")
    assert content(tmp_path) == before


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int = -1) -> list[Path]:
    """Files that a build reads from now on; Ctrl-C comes at one of them."""
    read: list[Path] = []

    def read_and_count(path: Path, *args: Any, **options: Any) -> np.ndarray:
        read.append(path)
        if len(read) == stop_at:
            raise KeyboardInterrupt
        return read_image(path, *args, **options)

    monkeypatch.setattr(building, "read_image", read_and_count)
    return read


def test_a_build_that_was_stopped_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_folder(fill(tmp_path, 60))
    counted(monkeypatch, stop_at=30)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path)
    assert use_cache(source, tmp_path, NAME) is source
    read = counted(monkeypatch)
    packed(tmp_path)
    assert 31 <= len(read) <= 50
    resumed = content(tmp_path)
    shutil.rmtree(tmp_path / ".ccpml-cache")
    packed(tmp_path)
    assert content(tmp_path) == resumed


SCRIPT = """
    import sys
    from pathlib import Path
    from ccpml.data import cache_build, load_folder
    from ccpml.data.cache import pack_source
    cache_build._COMMIT = 2
    read, count = cache_build.read_image, []
    def read_some(path, *args, **options):
        count.append(path)
        while len(count) > 40:
            sys.stdout.write("40\\n")  # whole, for other threads say so too
            sys.stdout.flush()
            sys.stdin.read()
        return read(path, *args, **options)
    cache_build.read_image = read_some
    folder = Path(sys.argv[1])
    pack_source(load_folder(folder), folder, "folder:pictures", 32, progress=False)
"""


def test_a_build_that_was_killed_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_folder(fill(tmp_path, 60))
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "40\n"
        process.kill()
    assert use_cache(source, tmp_path, NAME) is source
    read = counted(monkeypatch)
    packed(tmp_path)
    assert 20 <= len(read) < 60
    resumed = content(tmp_path)
    shutil.rmtree(tmp_path / ".ccpml-cache")
    packed(tmp_path)
    assert content(tmp_path) == resumed


def test_a_journal_cut_off_in_a_line_is_read_up_to_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(fill(tmp_path))
    before = content(tmp_path)
    shutil.rmtree(tmp_path / ".ccpml-cache")
    monkeypatch.setattr(building, "damaged", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        packed(tmp_path)
    monkeypatch.undo()
    journal = tmp_path / ".ccpml-cache/folder.partial/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    read = counted(monkeypatch)
    packed(tmp_path)
    assert [path.name for path in read] == ["thin.png"]
    assert content(tmp_path) == before


def test_another_side_makes_another_cache(tmp_path: Path) -> None:
    packed(fill(tmp_path), side=32)
    image = packed(tmp_path, side=16).table.images[0]
    assert isinstance(image, PackedImage)
    assert (image.height, image.width) == (16, 21)
    with pytest.raises(ValueError, match="side: expected 1 or more"):
        packed(tmp_path, side=0)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"the cache of folder:pictures needs 16\.8 MB and 1\.0 MB are free"):
        packed(fill(tmp_path))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    fill(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match=r"the cache cannot be written \(Permission denied\)"):
            packed(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / ".ccpml-cache").touch()
    with pytest.raises(ValueError, match="the cache cannot be written"):
        packed(tmp_path)


def test_what_is_lost_while_in_use_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    images = packed(fill(tmp_path)).table.images
    read_image(images[5], 3)
    home = cache_folder(tmp_path, NAME)
    os.truncate(next(home.glob("*.bin")), 10)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"thin\.png: the packed file .* is cut off; pack the images again"):
            read_image(images[5], 3)
        _forget_mappings()
    next(home.glob("*.bin")).unlink()
    with pytest.raises(ValueError, match=r"thin\.png: its packed file .* cannot be opened"):
        read_image(images[5], 3)


def _forget_mappings() -> None:
    from ccpml.data import packed as module

    module._mapped.cache_clear()


@pytest.mark.skipif(os.name == "nt", reason="locks of POSIX")
def test_one_build_at_a_time(tmp_path: Path) -> None:
    packed(fill(tmp_path))
    lock = tmp_path / ".ccpml-cache/folder.lock"
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        with pytest.raises(ValueError, match=r"folder\.lock: another process is making the cache"):
            packed(tmp_path)
        process.communicate("\n")
    packed(tmp_path)

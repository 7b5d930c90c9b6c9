import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ccpml.data import BadImageError, BadImagesError, load_folder, read_image
from ccpml.data.images import cache_build as building
from ccpml.data.images.cache import cache_folder, pack_source, use_cache
from ccpml.data.images.cache_index import CacheError
from ccpml.data.images.packed import PackedImage, sum64
from tests.data.caches import NAME, content, fill, packed
from tests.locks import held_by_another_process


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=5), st.integers(1, 300))
def test_sizes(tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], side: int) -> None:
    folder = tmp_path_factory.mktemp("images")
    (folder / "class").mkdir()
    for number, size in enumerate(sizes):
        Image.new("L", size).save(folder / f"class/{number}.png")
    for (width, height), image in zip(sizes, packed(folder, side).table.images, strict=True):
        assert isinstance(image, PackedImage)
        if min(height, width) <= side:
            assert (image.height, image.width) == (height, width)
        else:
            assert min(image.height, image.width) == side
            assert abs(image.height * width - image.width * height) <= max(height, width) / 2 + 1e-9


def test_a_complete_cache_is_verified_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(fill(tmp_path))
    before = content(tmp_path)
    monkeypatch.setattr(building, "_pack", None)
    monkeypatch.setattr(building, "read_header", None)  # sizes are known
    packed(tmp_path)
    assert content(tmp_path) == before
    assert sorted(before)[0] == "index.json"
    assert len(before) == 2


def test_only_damaged_pixels_are_packed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = packed(fill(tmp_path))
    before = content(tmp_path)
    image = cached.table.images[4]
    assert isinstance(image, PackedImage)
    pixels = bytearray(image.pack.read_bytes())
    pixels[image.offset + 5] ^= 64
    image.pack.write_bytes(pixels)
    use_cache(load_folder(tmp_path), NAME)  # does not read pixels
    with pytest.raises(BadImageError, match=rf"{image.path.name}: packed file .* is damaged \(wrong checksum"):
        read_image(image, 3)
    read = counted(monkeypatch)
    packed(tmp_path)
    assert read == [image.path]
    assert content(tmp_path) == before


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(0, 10**6), st.integers(1, 255))
def test_the_checksum_of_reading_changes_with_any_byte(length: int, place: int, flip: int) -> None:
    pixels = bytearray(np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes())
    before = sum64(bytes(pixels))
    pixels[place % length] ^= flip
    assert sum64(bytes(pixels)) != before


def test_a_byte_that_flips_between_two_reads_is_noticed(tmp_path: Path) -> None:
    image = packed(fill(tmp_path)).table.images[4]
    assert isinstance(image, PackedImage)
    good = read_image(image, 3)
    for place in (0, image.size - 1):
        with image.pack.open("r+b") as file:
            file.seek(image.offset + place)
            byte = file.read(1)[0]
            file.seek(image.offset + place)
            file.write(bytes([byte ^ 1]))
        with pytest.raises(BadImageError, match=r"wrong checksum of this image.*; build the cache again, or remove"):
            read_image(image, 3)
        with image.pack.open("r+b") as file:
            file.seek(image.offset + place)
            file.write(bytes([byte]))
        assert np.array_equal(read_image(image, 3), good)


def test_pixels_that_read_back_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_damaged", lambda pack, entries, progress: entries[:1])
    with pytest.raises(ValueError, match="pixels read back differ"):
        packed(fill(tmp_path))
    assert not cache_folder(tmp_path, NAME).exists()


def test_bad_images_are_listed_and_no_cache_is_built(tmp_path: Path) -> None:
    fill(tmp_path)
    good = (tmp_path / "a/1.jpg").read_bytes()
    (tmp_path / "a/1.jpg").write_bytes(good[: len(good) // 2])
    for number in range(11):
        (tmp_path / f"b/text{number:02}.png").write_bytes(b"text")
    with pytest.raises(BadImagesError) as caught:
        packed(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("12 of 17 images cannot be read; cache not built")
    assert lines[1].startswith(f"  {tmp_path / 'a/1.jpg'}: ")
    listed_in = tmp_path / ".ccpml-cache" / "folder-unreadable.txt"
    assert lines[-1] == f"  and 2 more; all are listed in {listed_in}"
    assert len(listed_in.read_text(encoding="utf-8").splitlines()) == 12
    assert [image.row for image in caught.value.bad] == [0, *range(5, 16)]
    source = load_folder(tmp_path)
    assert use_cache(source, NAME) is source
    for path in (tmp_path / "b").glob("text*"):
        path.unlink()
    (tmp_path / "a/1.jpg").write_bytes(good)
    assert len(packed(tmp_path).table) == 6


def test_a_cache_is_kept_if_a_source_is_temporarily_unreadable(tmp_path: Path) -> None:
    source = load_folder(fill(tmp_path))
    packed(tmp_path)
    before = content(tmp_path)
    (tmp_path / "a/1.jpg").rename(tmp_path / "away")
    with pytest.raises(BadImagesError, match=r"1\.jpg: cannot be opened"):
        pack_source(source, NAME, 32, progress=False)
    (tmp_path / "away").rename(tmp_path / "a/1.jpg")
    assert content(tmp_path) == before


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int = -1) -> list[Path]:
    """Return a list that collects the files that builds read; raise KeyboardInterrupt at one of them."""
    read: list[Path] = []

    def read_and_count(path: Path, *args: Any, **options: Any) -> np.ndarray:
        read.append(path)
        if len(read) == stop_at:
            raise KeyboardInterrupt
        return read_image(path, *args, **options)

    monkeypatch.setattr(building, "read_image", read_and_count)
    return read


def test_an_interrupted_build_resumes_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_folder(fill(tmp_path, 60))
    counted(monkeypatch, stop_at=30)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path)
    assert use_cache(source, NAME) is source
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
    from ccpml.data import load_folder
    from ccpml.data.images import cache_build
    from ccpml.data.images.cache import pack_source
    from ccpml.data_name import DataName
    cache_build._COMMIT_INTERVAL = 2
    read, count = cache_build.read_image, []
    def read_some(path, *args, **options):
        count.append(path)
        while len(count) > 40:
            sys.stdout.write("40\\n")  # in one piece, since other threads write too
            sys.stdout.flush()
            sys.stdin.read()
        return read(path, *args, **options)
    cache_build.read_image = read_some
    folder = Path(sys.argv[1])
    pack_source(load_folder(folder), DataName("folder", "photos"), 32, progress=False)
"""


def test_a_killed_build_resumes_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_folder(fill(tmp_path, 60))
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "40\n"
        process.kill()
    assert use_cache(source, NAME) is source
    read = counted(monkeypatch)
    packed(tmp_path)
    assert 20 <= len(read) < 60
    resumed = content(tmp_path)
    shutil.rmtree(tmp_path / ".ccpml-cache")
    packed(tmp_path)
    assert content(tmp_path) == resumed


def test_a_truncated_journal_is_read_up_to_its_last_complete_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(fill(tmp_path))
    before = content(tmp_path)
    shutil.rmtree(tmp_path / ".ccpml-cache")
    monkeypatch.setattr(building, "_damaged", lambda *_: 1 / 0)
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


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"the cache needs 16\.8 MB, got 1\.0 MB of free space"):
        packed(fill(tmp_path))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    fill(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match=r"the cache cannot be written \(Permission denied\)"):
            packed(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / ".ccpml-cache").touch()
    with pytest.raises(CacheError, match="expected the folder of a cache, got a file; remove it"):
        packed(tmp_path)


def test_one_build_at_a_time(tmp_path: Path) -> None:
    packed(fill(tmp_path))
    lock = tmp_path / ".ccpml-cache/folder.lock"
    with held_by_another_process(lock), pytest.raises(ValueError, match=r"folder\.lock: another process is building"):
        packed(tmp_path)
    packed(tmp_path)

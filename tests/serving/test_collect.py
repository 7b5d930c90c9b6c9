import glob
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml.artifacts import plain_path
from ccpml.data.images import formats
from ccpml.serving import find_pictures
from ccpml.serving.collect import is_lost
from ccpml.serving.embedding import embed_pictures
from tests.damage.states import bound_by_permissions
from tests.serving.embedders import ColorEmbedder


@pytest.fixture
def photos(tmp_path):
    for name in ("a.png", "mugs/b.png", "mugs/blue/c.jpg", "x.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    (tmp_path / "shop.csv").write_text("path,price\na.png,3\nmugs/b.png,4\nnone.png,5\n")
    return tmp_path


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


def found(data):
    return {(str(picture.path), picture.label) for picture in find_pictures(str(data))}


def test_folders_and_patterns(photos, monkeypatch):
    everything = {
        (f"{photos}/a.png", ""),
        (f"{photos}/mugs/b.png", "mugs"),
        (f"{photos}/mugs/blue/c.jpg", "mugs/blue"),
    }
    assert found(photos) == found(f"folder:{photos}") == found(f"{photos}/**/*") == everything
    assert found(f"{photos}/*/*.png") == {(f"{photos}/mugs/b.png", "mugs")}
    assert found(photos / "a.png") == {(f"{photos}/a.png", "")}
    assert [path.path.name for path in find_pictures(f"{photos}/*").ignored] == ["shop.csv", "x.txt"]
    monkeypatch.chdir(photos)
    assert find_pictures("mugs").source == find_pictures("folder:mugs").source == f"folder:{photos}/mugs"
    assert {str(picture.path) for picture in find_pictures("*.png")} == {"a.png"}


def test_csv_files_have_metadata_and_missing_images_are_skipped(photos):
    pictures = find_pictures(str(photos / "shop.csv"))
    assert pictures.source == find_pictures(f"csv:{photos}/shop.csv").source == f"csv:{photos}/shop.csv"
    assert [picture.metadata for picture in pictures] == [{"price": 3}, {"price": 4}, {"price": 5}]
    (batch,) = embed_pictures(ColorEmbedder(), pictures)
    assert [item.path for item in batch.new] == [f"{photos}/a.png", f"{photos}/mugs/b.png"]
    assert "No such file" in batch.skipped[0][1].reason


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("none", "none: not found; expected a folder, an image, a CSV file, a pattern, groceries, glyphs"),
        ("model.onnx", "model.onnx: expected a folder, an image, .*; got an exported model, which embed, index"),
        ("notes.txt", "notes.txt: expected a folder, an image, .*; got another file"),
        ("folder:none", "none: folder not found"),
        ("csv:none.csv", "none.csv: file not found"),
        ("none/*.jpg", r"none/\*.jpg: none: folder not found; expected the folder of the pattern"),
        ("folder:", "unknown data"),
    ],
)
def test_data_that_are_not_found(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "notes.txt"):
        Path(name).write_text("text")
    with pytest.raises(ValueError, match=message):
        find_pictures(data)


@pytest.mark.parametrize("name", ["phone/*.heic", "phone/1.HEIC"])
def test_pictures_that_nothing_installed_reads_are_named_with_what_reads_them(name, tmp_path, monkeypatch):
    monkeypatch.setattr("ccpml.data.images.formats.pillow_formats", lambda: ("JPEG", "PNG"))
    formats.image_suffixes.cache_clear()
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.HEIC").write_bytes(b"")
    (tmp_path / "phone" / "2.heic").write_bytes(b"")
    try:
        with pytest.raises(ValueError, match=r"got 1 file with suffix .heic \(.*to read them, pip install pi-heif\)"):
            find_pictures(f"{tmp_path}/{name}")
    finally:
        formats.image_suffixes.cache_clear()


def test_pictures_of_an_index_are_left_out_of_its_data_by_any_way_there(tmp_path):
    write(tmp_path, "photos/a.png", "photos/p.index/pictures/b.png")
    (tmp_path / "current").symlink_to(tmp_path / "photos")
    for folder in ("photos", "current"):
        for place in (tmp_path / "photos" / "p.index", tmp_path / "current" / ".." / "photos" / "p.index"):
            found = find_pictures(f"{tmp_path}/{folder}/**/*.png")
            assert len(found) == 2
            assert [one.path.name for one in found.outside(place)] == ["a.png"]


PATTERNS = ["**/*.png", "**", "a/**/*.png", "*/**/*.png", "**/b/*.png", "**/b/**/*", "**/**/*.png"]
PATTERNS += [
    "*.png",
    "a/*",
    "[ab]/*.png",
    "?/[0-4].png",
    "[!a]/*",
    "*/[[]c]/*",
    "a/./*.png",
    "a/../b/*",
    "*/../[12].p*",
]


@pytest.mark.parametrize("pattern", [*PATTERNS, ".*/*.png", "b/../.hidden/*"])
def test_patterns_match_what_glob_matches(tmp_path, pattern):
    write(tmp_path, "1.png", "a/2.png", "a/b/3.png", "b/4.png", "b/[c]/5.png", ".hidden/6.png", "a/b/.7.png")
    whole = f"{tmp_path}/{pattern}"
    files = {Path(name) for name in glob.glob(whole, recursive=True) if Path(name).is_file()}  # noqa: PTH207
    found = [*find_pictures(whole)]
    assert sorted(one.file for one in found) == sorted({plain_path(name) for name in files})
    assert not any(".." in one.label for one in found)


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if "**" in pattern])
def test_two_stars_stand_for_any_folders_but_no_loop_of_links(tmp_path, pattern):
    write(tmp_path, "1.png", "a/2.png", "a/b/3.png", "b/4.png", "b/[c]/5.png", ".hidden/6.png", "a/b/b/7.png")
    whole = f"{tmp_path}/{pattern}"
    files = {Path(name) for name in glob.glob(whole, recursive=True) if Path(name).is_file()}  # noqa: PTH207
    expected = sorted(plain_path(name) for name in files)
    assert sorted(one.file for one in find_pictures(whole)) == expected
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "round").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "b" / "all").symlink_to(tmp_path)
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a" / "itself")
    (tmp_path / "b" / "nothing").symlink_to(tmp_path / "none")
    found = {one.file.resolve() for one in find_pictures(whole)}
    assert found >= {*expected}
    assert len(find_pictures(whole)) < 60
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "b" / "[c]")  # no loop: followed, as by the shell
    assert link / "5.png" in {one.file for one in find_pictures(f"{tmp_path}/**/*.png")}


@pytest.mark.parametrize("pattern", ["**/*.png", "*/*.png", "*/b/*.png", "*/b/2.png"])
@pytest.mark.parametrize("mode", [0, 0o400, 0o100])
def test_a_folder_that_does_not_say_what_is_in_it_is_an_error_of_a_pattern(tmp_path, pattern, mode):
    write(tmp_path, "open/b/1.png", "closed/b/2.png", "closed/2.png")
    closed, data = tmp_path / "closed", f"{tmp_path}/{pattern}"
    whole = found(data)
    closed.chmod(mode)
    try:
        with bound_by_permissions():
            if mode == 0o100 and "**" not in pattern and pattern != "*/*.png":  # nothing is listed there
                assert found(data) == whole
            else:
                with pytest.raises(ValueError, match=r"closed: cannot be read \(Permission denied\); change its perm"):
                    find_pictures(data)
    finally:
        closed.chmod(0o700)


def test_characters_of_patterns_in_the_name_of_one_file_stand_for_themselves(tmp_path):
    write(tmp_path, "[1]/p*.png", "[1]/pq.png")
    assert found(tmp_path / "[1]" / "p*.png") == {(f"{tmp_path}/[1]/p*.png", "")}
    with pytest.raises(ValueError, match=r"no images found.*; for the folder \[1\] write \[\[\]1\]$"):
        find_pictures(f"{tmp_path}/[1]/*")
    assert len(find_pictures(f"{tmp_path}/[[]1]/*")) == 2
    source = find_pictures(f"{tmp_path}/[1]/p*.png").source
    assert not is_lost(source)
    shutil.rmtree(tmp_path / "[1]")
    assert is_lost(source)


def test_groceries_are_read_from_their_archive():
    found = find_pictures("groceries")
    (batch,) = embed_pictures(ColorEmbedder(), found.pictures[:3])
    assert [item.path for item in batch.new] == [f"groceries/{picture.image.name}" for picture in found.pictures[:3]]
    assert {item.label for item in batch.new} == {"Fruit/Lemon"}

from pathlib import Path

import pytest

from ccpml.cleaning.cleaned import cleaned_csv
from ccpml.data import load_csv, load_folder, load_source
from ccpml.data.sources.source import count_ignored, name_notes
from tests.data.image_files import touch


def test_folders_are_classes(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/1.png", "a/x/1.tiff", "a/0.gif", "a-b/1.webp", "c/only.PgM")
    touch(tmp_path, ".hidden/1.png", "b/.1.png", "b/notes.txt", "readme.md", "empty/readme.md", "__MACOSX/._1.png")
    (tmp_path / "c" / "folder.png").mkdir()
    table = load_folder(tmp_path).table
    assert table.class_names == ("a", "a/x", "a-b", "b", "c")
    names = [path.relative_to(tmp_path).as_posix() for path in table.images if isinstance(path, Path)]
    assert names == ["a/0.gif", "a/x/1.tiff", "a-b/1.webp", "b/1.png", "b/2.JPG", "c/only.PgM"]
    assert table.labels.tolist() == [0, 1, 2, 3, 3, 4]
    assert load_folder(tmp_path).split_of_class is None


def test_names_that_unicode_writes_in_several_ways_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "zoo/1.png", "cafe\u0301/2.png", "caf\u00e9/1.png", "cafe\u0301/x/1.png")  # as macOS, and others
    table = load_folder(tmp_path).table
    assert table.class_names == ("caf\u00e9", "caf\u00e9/x", "zoo")
    assert table.labels.tolist() == [0, 0, 1, 2]


def test_folders_that_are_one_class_and_classes_that_look_alike_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a /1.png", "caf\u00e9/1.png", "cafe\u0301/1.png", "b/1.png")
    touch(tmp_path, "Cup/1.png", "cup/1.png", "red cup/1.png", "red_cup/1.png", "x/1.png", "x\u200b/1.png", "c/1.png")
    source = load_folder(tmp_path)
    assert source.spellings == [["a", "a "], ["cafe\u0301", "caf\u00e9"]]
    one, alike = name_notes(source)
    assert one == (
        "names that differ only in outer spaces or in forms of Unicode, and are one class: 'a' and 'a ', "
        "'cafe\\u0301' and 'caf\u00e9'"
    )
    assert alike == (
        "classes whose names differ only in case, spaces or invisible characters: 'Cup' and 'cup', 'red cup' and "
        "'red_cup', 'x' and 'x\\u200b'"
    )
    assert not name_notes(load_source("groceries"))


def test_folders_that_are_named_as_splits_but_taken_for_classes_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "val/c/1.png", "Test/d/1.png")
    (note,) = name_notes(load_folder(tmp_path))
    assert note.startswith("the folders train, val, Test are taken for parts of the names of classes, not for splits: ")
    assert "choose Test/* as test classes" in note
    touch(tmp_path, "more/e/1.png")
    assert not name_notes(load_folder(tmp_path))


def test_one_class_in_the_folders_of_several_splits_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/mug/1.png", "Val/mug/1.png", "test/mug/1.png", "test/cup/1.png", "train/1.png", "test/1.png")
    (note,) = name_notes(load_folder(tmp_path))
    assert note.startswith("classes whose names differ only in the folder of a split, so that one may be trained on")
    assert note.endswith("use one of the folders: 'Val/mug' and 'test/mug' and 'train/mug'")
    touch(tmp_path, "pen/train/1.png", "pen/test/1.png", "Greek/a/1.png", "Korean/a/1.png")
    (note,) = name_notes(load_folder(tmp_path))
    assert note.endswith("'Val/mug' and 'test/mug' and 'train/mug', 'pen/test' and 'pen/train'")


def test_names_are_those_that_a_table_of_the_same_images_gives(tmp_path: Path) -> None:
    """``clean`` writes such a table; in a row, spaces around a value do not count."""
    names = [" mug", "cup ", "a\nb", "\u00a0x", 'with "quotes", and a comma', "group/ inner"]
    touch(tmp_path, *(f"{name}/1.png" for name in names))
    folder = load_folder(tmp_path).table
    labels = [folder.class_names[label] for label in folder.labels]
    paths = [f"./{image.relative_to(tmp_path)}" for image in folder.images]
    (tmp_path / "cleaned.csv").write_text(cleaned_csv(paths, labels, {}, [""] * len(paths)), newline="")
    table = load_csv(tmp_path / "cleaned.csv").table
    assert table.class_names == folder.class_names
    assert {"mug", "cup"} < set(table.class_names)


def test_what_is_ignored_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.heic", "a/3.HEIC", "b/4.Txt", "b/c/readme", "d/e/5.jpg", "a/.6.txt", ".f/7.txt")
    (tmp_path / "g").mkdir()
    (tmp_path / "a" / "8.jpg").symlink_to(tmp_path / "none.jpg")
    source = load_folder(tmp_path)
    assert source.table.class_names == ("a", "d/e")
    found = {(path.as_posix(), kind.format(s="")) for path, kind in source.ignored}
    assert found == {
        ("a/2.heic", "file with suffix .heic"),
        ("a/3.HEIC", "file with suffix .heic"),
        ("a/8.jpg", "broken link"),
        ("b/4.Txt", "file with suffix .txt"),
        ("b/c/readme", "file without suffix"),
        ("b/c", "folder without images"),
        ("g", "folder without images"),
    }
    phrases = count_ignored(source.ignored, max_listed=1)
    assert phrases[0] == "2 files with suffix .heic (a/2.heic, …; to read them, pip install pi-heif)"
    assert "2 folders without images (b/c, …)" in phrases


def test_many_suffixes_share_a_phrase(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.png", "a/note.0", *(f"a/photo.{number}" for number in range(30)))
    (tmp_path / "b").mkdir()
    phrases = count_ignored(load_folder(tmp_path).ignored, max_listed=1)
    assert len(phrases) == 11
    assert phrases[0] == "2 files with suffix .0 (a/note.0, …)"
    assert phrases[-2] == "1 folder without images (b)"
    assert phrases[-1].startswith("21 files with 21 other suffixes (a/photo.")


def test_an_unlabeled_folder(tmp_path: Path) -> None:
    touch(tmp_path, "2.png", "1.png", "a/3.png")
    table = load_folder(tmp_path, labeled=False).table
    assert [Path(table.name_of(row)).name for row in range(3)] == ["1.png", "2.png", "3.png"]
    assert table.class_names == ("", "a")
    assert load_source(f"folder:{tmp_path}", labeled=False).table.class_names == ("", "a")
    with pytest.raises(ValueError, match="expected images in subfolders"):
        load_source(f"folder:{tmp_path}")


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root, "b/1.png", "c/1.png")
    touch(elsewhere, "1.png")
    links = {"b/up": root, "a": elsewhere, "0": root / "c", "b/self": root / "b", "dead": tmp_path / "none"}
    for name, target in links.items():
        try:
            (root / name).symlink_to(target, target_is_directory=True)
        except OSError:
            pytest.skip("the file system has no symbolic links")
    source = load_folder(root)
    assert source.table.class_names == ("a", "b", "c")
    again = [ignored.path.as_posix() for ignored in source.ignored if "already" in ignored.kind]
    assert sorted(again) == ["0", "b/self"]  # a link to the root or above it leads to nothing that could be a class


def test_invalid_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing: folder not found"):
        load_folder(tmp_path / "missing")
    touch(tmp_path, "a/readme.txt")
    with pytest.raises(
        ValueError, match=r"no images found; expected files with suffix .*\.jpg .*, got 1 file with suffix \.txt"
    ):
        load_folder(tmp_path)
    touch(tmp_path, "a/1.png", "loose.png")
    with pytest.raises(ValueError, match=r"expected images in subfolders, .* got loose\.png in the folder itself"):
        load_folder(tmp_path)


def test_a_folder_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_file(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", path)  # a folder that can be listed, but not entered

    touch(tmp_path, "a/1.png")
    monkeypatch.setattr(Path, "is_file", is_file)
    with pytest.raises(ValueError, match=r"/a: folder cannot be read \(Permission denied\); choose another folder"):
        load_folder(tmp_path)

import pickle
from pathlib import Path

import numpy as np
import pytest

from ccpml.data import BadImageError, BadImagesError, ImageTable, all_gray, check_images
from ccpml.data.sources.folder import load_folder
from ccpml.data.upkeep.check import SkippableImagesError, readable_images
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.data_name import DataName
from tests.data.image_files import encoded, smooth


def table_of(folder: Path, kinds: str) -> ImageTable:
    """Return a table of images of classes a, a, b, b, ...: g(ood), e(mpty) or t(ext)."""
    content = {"g": encoded(smooth(9, 7), "PNG"), "e": b"", "t": b"text"}
    paths = tuple(folder / f"{number:02}{kind}.png" for number, kind in enumerate(kinds))
    for path, kind in zip(paths, kinds, strict=True):
        path.write_bytes(content[kind])
    labels = np.arange(len(kinds)) // 2
    return ImageTable(paths, labels, tuple("abcdefghijklmnopqrstuvwxyz"[: labels[-1] + 1]))


def test_good_tables_are_returned_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of(tmp_path, "gggg")
    assert check_images(table) == (table, [])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "checking images" in captured.err
    memory = ImageTable(np.zeros((1, 2, 2), np.uint8), np.array([0]), ("a",))
    assert check_images(memory, progress=False) == (memory, [])
    assert capsys.readouterr().err == ""


def test_bad_images_are_counted_and_listed(tmp_path: Path) -> None:
    table = table_of(tmp_path, "ggg" + "et" * 8)
    with pytest.raises(SkippableImagesError) as caught:
        check_images(table, progress=False)
    lines = str(caught.value).splitlines()
    assert lines[0] == "16 of 19 images cannot be read; repair, remove or skip them:"
    assert lines[1] == f"  {tmp_path / '03e.png'}: the file is empty"
    assert len(lines) == 12
    assert lines[-1] == "  and 6 more"
    assert [image.row for image in caught.value.bad] == list(range(3, 19))
    assert pickle.loads(pickle.dumps(caught.value)).bad == caught.value.bad


def test_many_bad_images_are_listed_in_a_file(tmp_path: Path) -> None:
    table, log = table_of(tmp_path, "ggg" + "et" * 8), CheckLog(tmp_path, DataName("folder", str(tmp_path)))
    with pytest.raises(SkippableImagesError) as caught:
        check_images(table, progress=False, log=log)
    listed_in = tmp_path / ".ccpml-check" / "folder-unreadable.txt"
    assert str(caught.value).splitlines()[-1] == f"  and 6 more; all are listed in {listed_in}"
    names = [line.partition(": ")[0] for line in listed_in.read_text(encoding="utf-8").splitlines()]
    assert names == [table.name_of(row) for row in range(3, 19)]
    check_images(table.select([0, 1, 2]), progress=False, log=log)
    assert not listed_in.exists(), "the list of an earlier check"


def test_bad_images_and_empty_classes_are_left_out(tmp_path: Path) -> None:
    table, bad = check_images(table_of(tmp_path, "getegg"), skip_bad=True, progress=False)
    assert [(image.row, Path(image.name).name) for image in bad] == [(1, "01e.png"), (2, "02t.png"), (3, "03e.png")]
    assert table.class_names == ("a", "c")
    assert table.labels.tolist() == [0, 1, 1]


def test_no_image_left(tmp_path: Path) -> None:
    for skip_bad in (True, False):
        with pytest.raises(BadImagesError, match="2 of 2") as caught:
            check_images(table_of(tmp_path, "et"), skip_bad=skip_bad, progress=False)
        assert not isinstance(caught.value, SkippableImagesError)


def test_all_gray(tmp_path: Path) -> None:
    assert all_gray(ImageTable(np.zeros((1, 2, 2), np.uint8), np.array([0]), ("a",)))
    assert not all_gray(ImageTable(np.zeros((1, 2, 2, 3), np.uint8), np.array([0]), ("a",)))
    for name, channels in (("1.png", 1), ("2.png", 1), ("3.png", 3)):
        (tmp_path / name).write_bytes(encoded(smooth(5, 5, channels), "PNG"))
    paths = tuple(sorted(tmp_path.iterdir()))
    assert all_gray(ImageTable(paths[:2], np.array([0, 0]), ("a",)))
    assert not all_gray(ImageTable(paths, np.array([0, 0, 0]), ("a",)))
    with pytest.raises(BadImageError):
        all_gray(table_of(tmp_path, "e"))


def test_what_is_left_out_or_unusual_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each trial of a search reads the same images."""
    for name in ("Mug", "mug"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encoded(smooth(9, 7), "PNG"))
        (tmp_path / name / "b.png").write_bytes(b"no image")
    (tmp_path / "mug" / "notes.doc").touch()
    for _ in range(2):
        readable_images(load_folder(tmp_path), f"folder:{tmp_path}", skip_bad=True)
    error = capsys.readouterr().err
    for text in ("ignored 1 ", "'Mug' and 'mug'", "left out 2 unreadable images"):
        assert error.count(text) == 1

import errno
import json
from pathlib import Path

import pytest
from PIL import Image

from ccpml.data import build_cache
from ccpml.data.upkeep import check
from ccpml.data.upkeep.check_log import CheckLog
from ccpml.data.upkeep.verify import verify_source
from ccpml.data_name import DataName
from tests.data.layouts import LAYOUTS, make_cars196_devkit, make_cub, small_counts
from tests.locks import held_by_another_process
from tests.toy import toy_folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_counts(monkeypatch)
    monkeypatch.setattr("ccpml.data.upkeep.verify._MD5", {})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that have been decoded."""
    paths: list[Path] = []
    read = check.read_image

    def read_and_note(path: Path, channels: int) -> object:
        paths.append(path)
        return read(path, channels)

    monkeypatch.setattr(check, "read_image", read_and_note)
    return paths


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_complete_copy(layout: str, tmp_path: Path, decoded: list[Path]) -> None:
    name, make = LAYOUTS[layout]
    folder = make(tmp_path)
    found = verify_source(name, tmp_path, progress=False)
    assert found.problems == []
    assert found.folder == folder
    roles = " (8 queries, 12 in the gallery)" if name == "inshop" else ""
    assert found.contents == ["20 training images of 4 classes", f"20 test images of 4 classes{roles}"]
    assert all(len(digest) == 64 for digest in found.checksums.values())
    assert len(decoded) == 40
    assert verify_source(name, tmp_path, progress=False).problems == []
    assert len(decoded) == 40, "readable and unchanged images are not decoded again"


def test_all_problems_are_listed(tmp_path: Path, decoded: list[Path]) -> None:
    folder = make_cub(tmp_path)
    images = sorted((folder / "images").rglob("*.jpg"))
    images[3].unlink()
    images[9].write_bytes(images[9].read_bytes()[:300])
    images[12].write_bytes(b"no image")
    Image.new("L", (3, 3)).save(images[0].with_name("more.png"))
    problems = verify_source("cub", tmp_path, progress=False).problems
    assert len(problems) == 4
    assert problems[0].startswith(f"not found: {images[3]} (")
    assert problems[1] == f"not listed: {images[0].with_name('more.png')}"
    assert problems[2].startswith(f"cannot be read: {images[9]}: ")
    assert problems[3].startswith(f"cannot be read: {images[12]}: ")
    images[12].write_bytes(images[11].read_bytes())
    decoded.clear()
    assert len(verify_source("cub", tmp_path, progress=False).problems) == 3
    assert set(decoded) == {images[9], images[12]}, "unreadable images are tried again"


def test_brackets_in_a_path(tmp_path: Path) -> None:
    folder = make_cub(tmp_path / "data (1)")
    for file, line in (("images.txt", "\n3 097"), ("image_class_labels.txt", "\n3 97")):
        text = (folder / file).read_bytes().decode("utf-8-sig")
        (folder / file).write_text(text.replace(line, line.replace("3", "41")))
    (problem,) = verify_source("cub", tmp_path / "data (1)", progress=False).problems
    assert problem.endswith("images.txt: image id 3 not found")


def test_a_changed_index(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    assert verify_source("cub", tmp_path, progress=False).problems == []
    (folder / "classes.txt").write_text((folder / "classes.txt").read_text().replace("Bird", "Herd"))
    problems = verify_source("cub", tmp_path, progress=False).problems
    assert len(problems) == 1
    assert "classes.txt: changed since the last verification" in problems[0]
    assert verify_source("cub", tmp_path, progress=False).problems == problems


def test_a_published_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cars196_devkit(tmp_path)
    monkeypatch.undo()
    problems = verify_source("cars196", tmp_path, progress=False).problems
    assert any("MD5: expected b0a2b23655a3edd16d84508592a98d10, got " in p for p in problems)


def test_an_interrupted_verification_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[Path]
) -> None:
    make_cub(tmp_path)
    read = check.read_image

    def read_some(path: Path, channels: int) -> object:
        if len(decoded) == 15:
            raise KeyboardInterrupt
        return read(path, channels)

    with monkeypatch.context() as patch:
        patch.setattr(check, "read_image", read_some)
        with pytest.raises(KeyboardInterrupt):
            verify_source("cub", tmp_path, progress=False)
    decoded.clear()
    assert verify_source("cub", tmp_path, progress=False).problems == []
    assert 0 < len(decoded) <= 26


def test_a_truncated_line_after_a_killed_verification(tmp_path: Path, decoded: list[Path]) -> None:
    folder = make_cub(tmp_path)
    verify_source("cub", tmp_path, progress=False)
    log = CheckLog(folder, DataName("cub"))
    lines = log.file.read_bytes().splitlines(keepends=True)
    log.file.write_bytes(b"".join(lines[:10]) + lines[10][:15])
    decoded.clear()
    assert verify_source("cub", tmp_path, progress=False).problems == []
    assert len(decoded) == 30
    decoded.clear()
    assert verify_source("cub", tmp_path, progress=False).problems == []
    assert decoded == []


def test_a_run_does_not_decode_readable_images_again(tmp_path: Path, decoded: list[Path]) -> None:
    from ccpml.runs.images import load_images
    from ccpml.runs.settings import Settings

    folder = make_cub(tmp_path)
    verify_source("cub", tmp_path, progress=False)
    changed = next((folder / "images").rglob("*.jpg"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    decoded.clear()
    settings = Settings(data="cub", data_root=str(tmp_path), backbone="small_conv", folds=2).resolved()
    assert len(load_images(settings, progress=False).splits.test) == 20
    assert decoded == [changed]


def test_folders_and_csv_files(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy", classes=4, per_class=2)
    (folder / "group0" / "class00" / "0.png").write_bytes(b"")
    found = verify_source(f"folder:{folder}", progress=False)
    assert found.contents == ["8 images of 4 classes"]
    assert len(found.problems) == 1
    file = tmp_path / "list.csv"
    file.write_text("path,label\ntoy/group0/class00/1.png,a\n")
    assert verify_source(f"csv:{file}", progress=False).problems == []
    assert verify_source("glyphs").problems == []


def test_a_folder_that_is_not_writable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_cub(tmp_path)
    (folder / ".ccpml-check").write_bytes(b"a file in the way")
    assert verify_source("cub", tmp_path, progress=False).problems == []
    assert "results are not kept" in capsys.readouterr().err


def test_a_disk_that_becomes_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy_folder(tmp_path / "toy", classes=4, per_class=2)

    def full(value: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ccpml.data.upkeep.check_log.json.dumps", full)
    assert verify_source(f"folder:{folder}", progress=False).problems == []
    assert capsys.readouterr().err.count("cannot be written (No space left on device); results are not kept") == 1


def test_two_verifications_at_once(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    log = CheckLog(folder, DataName("cub"))
    verify_source("cub", tmp_path, progress=False)
    lock = log.file.with_suffix(".lock")
    with held_by_another_process(lock), pytest.raises(ValueError, match="another process is checking these images"):
        verify_source("cub", tmp_path, progress=False)


def test_the_log_has_name_size_and_time(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    verify_source("cub", tmp_path, progress=False)
    name, size, changed = json.loads(CheckLog(folder, DataName("cub")).file.read_text().splitlines()[0])
    status = (folder / name).stat()
    assert (size, changed) == (status.st_size, status.st_mtime_ns)


def test_a_cache_that_training_would_refuse_is_a_problem(tmp_path: Path) -> None:
    for name, folder in ((f"folder:{tmp_path / 'toy'}", toy_folder(tmp_path / "toy")), ("cub", make_cub(tmp_path))):
        build_cache(name, tmp_path, side=8, progress=False)
        assert verify_source(name, tmp_path, progress=False).problems == []
        image = min(path for path in folder.rglob("*") if path.suffix in {".png", ".jpg"})
        Image.new("L", (9, 9)).save(image)
        (problem,) = verify_source(name, tmp_path, progress=False).problems
        assert "cache cannot be used" in problem
        assert f"{image} has changed" in problem


def test_a_flipped_bit_in_the_cache_is_a_problem(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy")
    build_cache(f"folder:{folder}", tmp_path, side=8, progress=False)
    (pack,) = folder.parent.rglob("pixels-*.bin")
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)
    (problem,) = verify_source(f"folder:{folder}", progress=False).problems
    assert problem.startswith(f"cannot be read from the cache: {folder}")
    assert "is damaged (wrong checksum of this image); build the cache again, or remove" in problem

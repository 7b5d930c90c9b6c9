import os
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ccpml.cli import main
from ccpml.cli.common.hints import hint_for
from ccpml.data import build_cache
from ccpml.data.images.cache_index import CacheError
from ccpml.runs.images import RunImages, cached_side, load_images, read_facts
from ccpml.runs.settings import Settings
from ccpml.runs.train import resume
from tests.toy import quick_settings, toy_folder


def images_of(folder: Path) -> RunImages:
    return load_images(quick_settings(data=f"folder:{folder}").resolved(), progress=False)


def test_a_run_resumes_with_the_images_it_started_with(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy")
    run = tmp_path / "run"
    plain = images_of(folder).fingerprint()
    images_of(folder).check_fingerprint(plain, run)
    build_cache(f"folder:{folder}", progress=False)
    cached = images_of(folder).fingerprint()
    images_of(folder).check_fingerprint(cached, run)
    assert not images_of(folder).cache_note(cached)
    assert "a cache that was built after the run started" in images_of(folder).cache_note(plain)
    with pytest.raises(ValueError, match="run: a cache was built after the run started; move the folder"):
        images_of(folder).check_fingerprint(plain, run)
    shutil.rmtree(folder / ".ccpml-cache")
    with pytest.raises(CacheError, match="run: the run started with cached images, and the cache is missing") as caught:
        images_of(folder).check_fingerprint(cached, run)
    assert "ccpml data" not in str(caught.value)
    assert "`ccpml data cache`" in hint_for(caught.value)
    assert "the cache is missing or too small" in images_of(folder).cache_note(cached)
    next(folder.rglob("*.png")).unlink()
    with pytest.raises(ValueError, match="run: the images, or those that cannot be read, differ"):
        images_of(folder).check_fingerprint(plain, run)
    assert not images_of(folder).cache_note(plain)


def test_a_run_that_meets_a_damaged_cache_before_its_first_validation_resumes_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = toy_folder(tmp_path / "toy"), tmp_path / "run"
    pack = next(build_cache(f"folder:{folder}", progress=False).glob("*.bin"))
    time, content = pack.stat().st_mtime_ns, bytearray(pack.read_bytes())
    content[::50] = bytes(byte ^ 1 for byte in content[::50])
    pack.write_bytes(content)
    os.utime(pack, ns=(time, time))
    (tmp_path / "settings.yaml").write_text(
        yaml.safe_dump(quick_settings(data=f"folder:{folder}", max_steps=1).as_dict())
    )
    assert main(["train", "--config", str(tmp_path / "settings.yaml"), "--run", str(run)]) == 1
    assert capsys.readouterr().err.endswith(f"or remove {pack.parent}; then resume with: ccpml train --resume {run}\n")
    shutil.rmtree(pack.parent)
    assert resume(run, progress=False).finished
    assert main(["evaluate", str(run)]) == 0
    assert "built after" not in capsys.readouterr().err
    build_cache(f"folder:{folder}", progress=False)
    assert main(["evaluate", str(run)]) == 0
    assert f"note: {run}: images are read from a cache that was built after the run started" in capsys.readouterr().err


def test_a_cache_that_is_too_small_for_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = toy_folder(tmp_path / "toy")
    settings = quick_settings(data=f"folder:{folder}").resolved()
    side = cached_side(settings)
    for cached, message in ((side - 1, f"cached with a shorter side of {side - 1}, not the {side} of"), (side, "")):
        build_cache(f"folder:{folder}", side=cached, progress=False)
        load_images(settings)
        err = capsys.readouterr().err
        assert message in err
        assert ("cached" in err) == bool(message)


def write_photos(root: Path, classes: int, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    for label in range(classes):
        folder = root / f"class{label:02d}"
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new(mode, size, 50 * number if mode == "L" else (200, 50 * number, 9 * label)).save(
                folder / f"{number}.jpg"
            )
    return root


def test_facts_are_read_from_headers_and_splits(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", classes=13)
    Image.new("L", (90, 100)).save(folder / "class00" / "gray.png")
    Image.new("RGB", (5000, 4001)).save(folder / "class01" / "large.jpg", quality=1)
    (folder / "class02" / "damaged.jpg").write_bytes(b"nothing")
    facts = read_facts(Settings(data=f"folder:{folder}", device="cpu"))
    assert (facts.color, facts.side, facts.looked_at) == (True, 30, 41)
    assert (facts.gray, facts.small, facts.large) == (1, 39, 1)
    assert (facts.classes, facts.validation_classes, facts.train_classes) == (7, 3, 4)  # 7 classes in 3 folds: 3, 2, 2
    assert (facts.validation_images, facts.train_images, facts.smallest_class) == (12, 12, 3)
    assert not facts.gpu
    assert read_facts(Settings(data=f"folder:{folder}", device="cuda")).gpu
    assert not read_facts(Settings(data="glyphs")).color


def test_too_few_classes_are_an_error_that_names_the_minimum(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", classes=6)
    with pytest.raises(ValueError, match="expected at least 4 classes, got 3, as 3 of the 6 are for testing; add"):
        read_facts(Settings(data=f"folder:{folder}"))
    two = Settings(data=f"folder:{folder}", test_classes="class04,class05")
    assert read_facts(two).train_classes == 2
    with pytest.raises(
        ValueError, match=r"ranks: expected at most 2, .* training classes, got 3; choose fewer, or add"
    ):
        read_facts(two.changed({"ranks": 3}))


def test_own_validation_classes_need_no_folds(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", classes=6)
    lines = [
        f"photos/class{label:02d}/{number}.jpg,{label},{('train', 'val', 'test')[label // 2]}"
        for label in range(6)
        for number in range(3)
    ]
    (folder.parent / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    facts = read_facts(Settings(data=f"csv:{folder.parent / 'list.csv'}"))
    assert facts.own_validation
    assert (facts.train_classes, facts.validation_classes) == (2, 2)

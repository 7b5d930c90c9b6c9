import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml.data import check_images, load_benchmark, load_source, make_splits
from ccpml.data.sources.benchmarks import (
    BenchmarkNotFoundError,
    IncompleteBenchmarkError,
    find_benchmark,
)
from ccpml.data_name import BENCHMARKS
from tests.data.layouts import LAYOUTS, PER_CLASS, make_cars196_devkit, make_cub, make_inshop, make_sop, small_counts


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_counts(monkeypatch)


@pytest.fixture(params=LAYOUTS)
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    name, make = LAYOUTS[request.param]
    return name, make(tmp_path)


def test_published_splits(copy: tuple[str, Path], tmp_path: Path) -> None:
    """The first half of the classes, ordered by number, is for training, and every image can be read."""
    name, folder = copy
    source = load_benchmark(name, tmp_path)
    table = source.table
    assert (len(table), table.num_classes, source.folder) == (40, 8, folder)
    assert table.labels.tolist() == sorted(table.labels)
    assert source.split_of_class is not None
    assert [source.split_of_class[c] for c in table.class_names] == ["train"] * 4 + ["test"] * 4
    assert check_images(table, progress=False)[1] == []
    splits = make_splits(source, folds=2)
    assert (splits.train.num_classes, splits.validation.num_classes, splits.test.num_classes) == (2, 2, 4)
    assert splits.train.roles is None
    if name == "inshop":
        assert splits.test.roles is not None
        assert splits.test.roles.tolist() == (["query"] * 2 + ["gallery"] * 3) * 4
    else:
        assert splits.test.roles is None


def test_labels_are_those_of_the_files(tmp_path: Path) -> None:
    make_cub(tmp_path)
    table = load_benchmark("cub", tmp_path).table
    for row, label in enumerate(table.labels):
        assert Path(table.name_of(row)).parent.name == table.class_names[label]
    make_inshop(tmp_path)
    table = load_benchmark("inshop", tmp_path).table
    for row, label in enumerate(table.labels):
        assert Path(table.name_of(row)).parent.name == table.class_names[label]


def test_usual_folders(copy: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, folder = copy
    assert find_benchmark(name, folder).folder == folder
    assert find_benchmark(name, str(tmp_path)).folder == folder
    folder.rename(tmp_path / name)
    assert find_benchmark(name, tmp_path).folder == tmp_path / name
    monkeypatch.setenv("CCPML_DATA", str(tmp_path))
    assert len(load_source(name).table) == 40
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(BenchmarkNotFoundError, match=f"{name}: not found in .*: expected "):
        load_benchmark(name)
    with pytest.raises(BenchmarkNotFoundError, match=r"none: folder not found \(data root\)"):
        load_benchmark(name, tmp_path / "none")
    monkeypatch.delenv("CCPML_DATA")
    with pytest.raises(BenchmarkNotFoundError, match="data root unknown; set CCPML_DATA"):
        load_benchmark(name)


@pytest.mark.parametrize("images", ["Img/img", "img", "Img", "img/img"])
def test_usual_image_folders_of_inshop(tmp_path: Path, images: str) -> None:
    make_inshop(tmp_path, images)
    assert len(load_benchmark("inshop", tmp_path).table) == 40
    assert find_benchmark("inshop", tmp_path).extra == []


def test_nested_folders_of_cars196(tmp_path: Path) -> None:
    folder = make_cars196_devkit(tmp_path)
    for part in ("cars_train", "cars_test"):
        (folder / part).rename(folder / "x")
        (folder / part).mkdir()
        (folder / "x").rename(folder / part / part)
    (folder / "cars_test_annos_withlabels.mat").rename(folder / "devkit" / "cars_test_annos_withlabels.mat")
    assert len(load_benchmark("cars196", tmp_path).table) == 40


def test_missing_and_extra_files_are_named(copy: tuple[str, Path], tmp_path: Path) -> None:
    name, _ = copy
    images = load_benchmark(name, tmp_path).table.images
    gone, kept = Path(images[7]), Path(images[8])
    gone.unlink()
    extra = kept.with_name("one more.PNG")
    Image.new("L", (4, 4)).save(extra)
    kept.with_name(".hidden.jpg").write_bytes(b"")
    kept.with_name("notes.txt").write_bytes(b"")
    message = f"^{name}: not as published: .*1 of 40 listed images not found"
    with pytest.raises(IncompleteBenchmarkError, match=message) as caught:
        load_benchmark(name, tmp_path)
    assert str(gone) in str(caught.value)
    assert "1 image files not listed" in str(caught.value)
    assert str(extra) in str(caught.value)
    partial = load_benchmark(name, tmp_path, allow_partial=True).table
    assert len(partial) == 39
    assert gone not in partial.images
    assert extra not in partial.images


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # restore the published counts
    dict(LAYOUTS.values())[name](tmp_path)
    published = {
        "cub": [(100, 5_864), (100, 5_924)],
        "cars196": [(98, 8_054), (98, 8_131)],
        "sop": [(11_318, 59_551), (11_316, 60_502)],
        "inshop": [(3_997, 25_882), (3_985, 14_218 + 12_612)],
    }[name]
    with pytest.raises(ValueError, match="not as published") as caught:
        load_benchmark(name, tmp_path)
    for part, (classes, images) in zip(("training", "test"), published, strict=True):
        assert f"index: expected {classes:,} {part} classes, got 4" in str(caught.value)
        assert f"index: expected {images:,} {part} images, got 20" in str(caught.value)
    if name == "inshop":
        assert "index: expected 14,218 query images, got 8" in str(caught.value)
        assert "index: expected 12,612 gallery images, got 12" in str(caught.value)
    assert len(load_benchmark(name, tmp_path, allow_partial=True).table) == 40


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_bytes().decode("utf-8-sig")
    assert old in text
    file.write_bytes(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("images.txt", "3 097.Bird's_No 0/Bird #2 – é%20.jpg", "3", "line 3: expected image id and path, got '3'"),
        ("images.txt", "3 097.", "x 097.", r"images.txt, line 3: image id: expected a positive integer, got 'x'"),
        ("images.txt", "3 097.", "2 097.", r"images.txt, line 3: number 2 appears before \(.*line 2\)"),
        ("images.txt", "2 097.", "2 ../097.", "line 2: expected a path inside the benchmark"),
        ("images.txt", "2 097.", "2 /097.", "line 2: expected a path inside the benchmark"),
        (
            "image_class_labels.txt",
            "2 97\r\n",
            "",
            r"images.txt, line 2: image 2 not found in .*image_class_labels.txt",
        ),
        ("image_class_labels.txt", "2 97\r\n", "2 bird\r\n", "line 2: class id: expected a positive integer"),
        ("image_class_labels.txt", "2 97\r\n", "2 97\r\n77 97\r\n", "line 3: image 77 not found in .*images.txt"),
        (
            "image_class_labels.txt",
            "2 97\r\n",
            "2 98\r\n",
            r"line 2: .* class 97 by its folder but class 98 by .*labels.txt",
        ),
    ],
)
def test_errors_in_an_index_name_the_line(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    edit(make_cub(tmp_path) / file, old, new)
    with pytest.raises(ValueError, match=message):
        load_benchmark("cub", tmp_path, allow_partial=True)


def test_an_image_listed_twice(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    edit(folder / "images.txt", "Bird #1", "Bird #0")
    with pytest.raises(ValueError, match=r"line 2: .* is listed before \(.*line 1\)"):
        load_benchmark("cub", tmp_path, allow_partial=True)


def test_a_gap_in_the_numbers_is_reported(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    edit(folder / "images.txt", "3 097", "41 097")
    edit(folder / "image_class_labels.txt", "\n3 97", "\n41 97")
    with pytest.raises(ValueError, match=r"images.txt: image id 3 not found;"):
        load_benchmark("cub", tmp_path)


def test_a_huge_number_is_reported_quickly(tmp_path: Path) -> None:
    folder = make_cub(tmp_path)
    edit(folder / "images.txt", "3 097", "11788000000000 097")
    edit(folder / "image_class_labels.txt", "\n3 97", "\n11788000000000 97")
    with pytest.raises(ValueError, match=r"images.txt: image id 3, 41, 42, 43, 44, … not found"):
        load_benchmark("cub", tmp_path)


def test_images_of_sop_in_an_unlisted_folder(tmp_path: Path) -> None:
    folder = make_sop(tmp_path)
    (folder / "zebra_final").mkdir()
    Image.new("L", (4, 4)).save(folder / "zebra_final" / "1_0.JPG")
    with pytest.raises(ValueError, match=r"1 image files not listed \(.*1_0.JPG\)"):
        load_benchmark("sop", tmp_path)


def test_an_archive_within_inshop_that_is_not_unpacked(tmp_path: Path) -> None:
    folder = make_inshop(tmp_path)
    (folder / "Img" / "img").rename(tmp_path / "elsewhere")
    (folder / "Img" / "img.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Img/img.zip is not unpacked"):
        load_benchmark("inshop", tmp_path)


def test_a_class_in_both_splits(tmp_path: Path) -> None:
    folder = make_sop(tmp_path)
    edit(folder / "Ebay_test.txt", "22 5 ", "22 1 ")
    with pytest.raises(ValueError, match=r"Ebay_test.txt, line 3: class bicycle/1 is in test, but in train before"):
        load_benchmark("sop", tmp_path, allow_partial=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("40\r\n", "41\r\n", "expected 41 images, as its first line states, got 40"),
        ("id_00000001 train", "id_00000001 both", "line 3: expected image_name item_id evaluation_status"),
        ("id_00000001 train", "", "line 3: expected image_name item_id evaluation_status"),
        (
            "id_00000001 train",
            "id_00000005 train",
            "line 3: .*id_00000001/.*: expected item id_00000001, got id_00000005",
        ),
        ("img/WOMEN", "img/../../WOMEN", "expected a path inside"),
    ],
)
def test_errors_in_the_list_of_inshop(tmp_path: Path, old: str, new: str, message: str) -> None:
    edit(make_inshop(tmp_path) / "Eval" / "list_eval_partition.txt", old, new)
    with pytest.raises(ValueError, match=message):
        load_benchmark("inshop", tmp_path)


def test_index_files_that_are_missing_or_damaged(copy: tuple[str, Path], tmp_path: Path) -> None:
    name, _ = copy
    for file in find_benchmark(name, tmp_path).index.index_files:
        content = file.read_bytes()
        if file.name not in {"classes.txt", "cars_meta.mat", "cars_annos.mat", "list_eval_partition.txt"}:
            file.unlink()
            with pytest.raises(ValueError, match=rf"{file.name}: index file not found"):
                load_benchmark(name, tmp_path)
        file.write_bytes(b"\xff\xfe damaged")
        with pytest.raises(ValueError, match=rf"{re.escape(str(file))}.* (expected UTF-8|not a MATLAB file)"):
            load_benchmark(name, tmp_path)
        file.write_bytes(content)
    assert len(load_benchmark(name, tmp_path).table) == 40


def test_a_copy_with_one_half_of_the_classes_is_halved(tmp_path: Path) -> None:
    make_cub(tmp_path, first=1)
    source = load_benchmark("cub", tmp_path)
    assert source.split_of_class is not None
    assert list(source.split_of_class.values()) == ["train"] * 4 + ["test"] * 4


def test_links_to_folders_are_followed(copy: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = copy
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / folder.name).symlink_to(folder, target_is_directory=True)
    place = next(path for path in sorted(folder.iterdir()) if path.is_dir())
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved", target_is_directory=True)
    (tmp_path / "moved" / "loop").symlink_to(tmp_path / "moved", target_is_directory=True)
    source = load_benchmark(name, tmp_path / "root", allow_partial=name == "sop")
    assert len(source.table) == 40


def test_images_of_a_class_stay_together(copy: tuple[str, Path], tmp_path: Path) -> None:
    name, _ = copy
    table = load_benchmark(name, tmp_path).table
    assert np.array_equal(table.class_sizes(), [PER_CLASS] * 8)

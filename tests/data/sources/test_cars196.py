from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from ccpml.data.sources.cars196 import read_cars196
from tests.data.layouts import make_cars196, make_cars196_devkit


def annotations(*entries: dict[str, Any]) -> np.ndarray:
    array = np.empty((1, len(entries)), dtype=[(name, object) for name in entries[0]])
    for number, entry in enumerate(entries):
        array[0, number] = tuple(entry.values())
    return array


def write(folder: Path, *entries: dict[str, Any], **others: Any) -> None:
    savemat(folder / "cars_annos.mat", {"annotations": annotations(*entries), **others})


def test_both_layouts_have_the_same_contents(tmp_path: Path) -> None:
    one, two = read_cars196(make_cars196(tmp_path)), read_cars196(make_cars196_devkit(tmp_path))
    for index in (one, two):
        classes = [(image.class_id, image.class_name, image.split) for image in index.images]
        expected = [(c, f"Maker Model {c} Coupé", "train" if c <= 98 else "test") for c in range(95, 103)]
        assert classes == [known for known in expected for _ in range(5)]
        assert index.gaps == []


def test_the_two_parts_of_the_devkit_do_not_matter(tmp_path: Path) -> None:
    """Cars196's own split cuts every class in two; the split of the paper does not."""
    index = read_cars196(make_cars196_devkit(tmp_path))
    parts = {image.path.parts[0] for image in index.images if image.split == "train"}
    assert parts == {"cars_train", "cars_test"}


def test_both_indexes_and_the_images_of_one(tmp_path: Path) -> None:
    folder = make_cars196_devkit(tmp_path)
    write(folder, {"relative_im_path": "car_ims/000001.jpg", "class": 7.0})
    assert len(read_cars196(folder).images) == 40
    (folder / "car_ims").mkdir()
    assert len(read_cars196(folder).images) == 1


def test_file_names_that_are_not_numbers(tmp_path: Path) -> None:
    write(tmp_path, {"relative_im_path": "car_ims/0²1.jpg", "class": 7.0})
    assert read_cars196(tmp_path).gaps == []


def test_one_annotation_and_no_names(tmp_path: Path) -> None:
    write(tmp_path, {"relative_im_path": "car_ims/000001.jpg", "class": 7.0})
    (image,) = read_cars196(tmp_path).images
    assert (str(image.path), image.class_id, image.class_name) == ("car_ims/000001.jpg", 7, "class 7")


def test_a_missing_number(tmp_path: Path) -> None:
    entries = [{"relative_im_path": f"car_ims/{n:06d}.jpg", "class": 1.0} for n in (1, 2, 4)]
    write(tmp_path, *entries)
    assert read_cars196(tmp_path).gaps == [f"{tmp_path / 'cars_annos.mat'}: image number 3 not found"]


def test_duplicate_names(tmp_path: Path) -> None:
    names = np.array([["same", "same", "other"]], dtype=object)
    entries = [{"relative_im_path": f"car_ims/{n}.jpg", "class": float(n)} for n in (1, 2, 3)]
    write(tmp_path, *entries, class_names=names)
    assert [image.class_name for image in read_cars196(tmp_path).images] == ["same (1)", "same (2)", "other"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"relative_im_path": "../1.jpg", "class": 1.0},
            "annotation 1: expected a path inside the benchmark, got '../1.jpg'",
        ),
        ({"relative_im_path": "car_ims/1.jpg", "class": 0.0}, "annotation 1: class not found"),
        ({"relative_im_path": "car_ims/1.jpg", "class": "x"}, "annotation 1: class not found"),
        ({"relative_im_path": "car_ims/1.jpg", "test": 0.0}, "annotation 1: class not found"),
        ({"class": 1.0, "test": 0.0}, "annotation 1: field relative_im_path or fname not found"),
    ],
)
def test_invalid_annotations(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    write(tmp_path, entry)
    with pytest.raises(ValueError, match=message):
        read_cars196(tmp_path)


def test_files_without_annotations(tmp_path: Path) -> None:
    savemat(tmp_path / "cars_annos.mat", {"annotations": np.zeros(3)})
    with pytest.raises(ValueError, match=r"cars_annos\.mat: no annotations found"):
        read_cars196(tmp_path)


def test_without_the_labels_of_the_test_images(tmp_path: Path) -> None:
    folder = make_cars196_devkit(tmp_path)
    (folder / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(ValueError, match=r"cars_test_annos_withlabels\.mat: index file not found; expected"):
        read_cars196(folder)

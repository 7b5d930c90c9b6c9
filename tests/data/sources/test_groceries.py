"""The data set of photographs: contents, splits, and how it behaves where images are read."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ccpml.data import EvalTransform, all_gray, check_images, eval_loader, load_source, make_splits, read_image
from ccpml.data.images.archived import ArchivedImage
from ccpml.data.sources import groceries
from ccpml.data.upkeep.verify import verify_source


def test_classes_and_images() -> None:
    table = load_source("groceries").table
    assert table.class_sizes().tolist() == [24] * 81
    assert len({table.name_of(row) for row in range(len(table))}) == 1944
    assert not all_gray(table)
    size = sum(image.size for image in table.images if isinstance(image, ArchivedImage))
    assert size < Path(groceries.__file__).with_name("groceries.zip").stat().st_size < 9_000_000


def test_test_classes_are_of_other_kinds() -> None:
    splits = make_splits(load_source("groceries"))
    kinds = [{name.partition("/")[0] for name in t.class_names} for t in (splits.train, splits.validation, splits.test)]
    assert kinds == [{"Fruit", "Juice"}, {"Fruit", "Juice"}, {"Dairy", "Vegetables"}]
    assert (splits.train.num_classes, splits.validation.num_classes, splits.test.num_classes) == (28, 10, 43)


def test_folds_hold_other_brands_of_juice() -> None:
    folds = [make_splits(load_source("groceries"), fold=fold).validation.class_names for fold in range(4)]
    assert [len(names) for names in folds] == [10, 10, 9, 9]
    juices = [{name.split()[0] for name in names if name.startswith("Juice")} for names in folds]
    assert juices == [{"Juice/Tropicana"}, {"Juice/Bravo"}, {"Juice/God"}, set()]


def test_no_image_is_there_twice() -> None:
    """Not even nearly: near duplicates would make the nearest neighbor easy to find."""
    table = load_source("groceries").table
    some = [row for row in range(len(table)) if row % 24 in {0, 5, 11, 12}]
    small = np.stack([read_image(table.images[row], 3)[:144:9, :144:9].ravel() for row in some]).astype(np.float32)
    distances = torch.cdist(torch.from_numpy(small), torch.from_numpy(small)).fill_diagonal_(torch.inf)
    assert distances.min() / small.shape[1] ** 0.5 > 10  # gray levels per pixel


def test_every_image_can_be_read() -> None:
    found = verify_source("groceries", progress=False)
    assert (found.folder, found.contents, found.problems) == (None, ["1,944 images of 81 classes"], [])


def test_a_run_does_not_decode_all_images_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.data.upkeep.check.read_image", None)
    assert check_images(load_source("groceries").table)[1] == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_this_process_reads(method: str) -> None:
    table = load_source("groceries").table.select(np.arange(0, 1944, 97))
    loader = eval_loader(table, EvalTransform(32), 3, batch_size=7, workers=1)
    loader.multiprocessing_context = method
    alone = eval_loader(table, EvalTransform(32), 3, batch_size=7)
    for (images, labels), (expected, expected_labels) in zip(loader, alone, strict=True):
        assert (images == expected).all()
        assert (labels == expected_labels).all()


def test_the_license_comes_with_the_images() -> None:
    license_text = Path(groceries.__file__).with_name("groceries.LICENSE.txt").read_text(encoding="utf-8")
    assert "Klasson" in license_text
    assert "MIT License" in license_text


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_a_damaged_package(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if content is not None:
        (tmp_path / "groceries.zip").write_bytes(content)
    monkeypatch.setattr(groceries, "_ARCHIVE", tmp_path / "groceries.zip")
    with pytest.raises(ValueError, match=r"groceries: .*groceries\.zip: (cannot be opened|damaged).*; reinstall ccpml"):
        load_source("groceries")


def test_the_archive_is_an_ordinary_one() -> None:
    with zipfile.ZipFile(Path(groceries.__file__).with_name("groceries.zip")) as archive:
        assert archive.testzip() is None

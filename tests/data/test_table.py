from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ccpml.data import ImageTable


@pytest.fixture
def table() -> ImageTable:
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    roles = np.array(["query", "gallery", "gallery", "query", "gallery", "gallery"])
    return ImageTable(images, np.array([2, 0, 0, 1, 1, 1]), ("a", "b", "c"), roles, name="set")


def test_counts(table: ImageTable) -> None:
    assert len(table) == 6
    assert table.num_classes == 3
    assert table.class_sizes().tolist() == [2, 3, 1]
    assert table.class_sizes().dtype == table.labels.dtype == np.int64


def test_subset_follows_the_ids_and_keeps_names_roles_and_numbers(table: ImageTable) -> None:
    part = table.subset([2, 1])
    assert part.class_names == ("c", "b")
    assert part.labels.tolist() == [0, 1, 1, 1]
    assert isinstance(part.images, np.ndarray)
    assert part.images[:, 0, 0].tolist() == [0, 3, 4, 5]
    assert part.roles is not None
    assert part.roles.tolist() == ["query", "query", "gallery", "gallery"]
    assert part.select([3]).name_of(0) == "set[5]"


def test_select_drops_empty_classes_and_keeps_the_order(table: ImageTable) -> None:
    part = table.select([5, 0])
    assert part.class_names == ("b", "c")
    assert part.labels.tolist() == [0, 1]
    assert [part.name_of(row) for row in range(2)] == ["set[5]", "set[0]"]
    mask = table.select(np.array([False, True, True, False, False, False]))
    assert mask.class_names == ("a",)
    assert len(mask) == 2


def test_paths() -> None:
    table = ImageTable((Path("x/1.png"), Path("y/2.png")), np.array([0, 1]), ("x", "y"))
    assert table.name_of(1) == str(Path("y/2.png"))
    assert table.subset([1]).images == (Path("y/2.png"),)
    assert table.numbers is None
    texts = ImageTable(["x/1.png", "y/2.png"], np.array([0, 1]), ("x", "y"))
    assert texts.images == (Path("x/1.png"), Path("y/2.png"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1])}, "labels: expected 3 integers"),
        ({"labels": np.array([0.0, 1.0, 1.0])}, "labels: expected 3 integers"),
        ({"labels": np.array([0, 1, 2])}, r"expected 0\.\.1 \(2 class names\), got 0\.\.2"),
        ({"labels": np.array([0, -1, 1])}, r"got -1\.\.1"),
        ({"labels": np.array([1, 1, 1])}, "got none of 'a'"),
        ({"class_names": ("a", "a")}, "got duplicates"),
        ({"roles": np.array(["query", "gallery"])}, "roles: expected 3, one for each image"),
        ({"roles": np.array(["query", "gallery", "Query"])}, "got 'Query'"),
        ({"images": np.zeros((3, 4, 4), np.float32)}, "expected uint8"),
        ({"images": np.zeros((3, 4, 4, 2), np.uint8)}, "expected uint8"),
        ({"images": np.zeros((3, 0, 4), np.uint8)}, "at least one pixel"),
        ({"images": ()}, "images: expected at least one, got 0"),
        (
            {"images": [np.zeros((4, 4), np.uint8)] * 3},
            "expected paths, or one array of all images.*; got ndarray at 0",
        ),
        ({"images": [Path("a"), Path("b"), Image.new("L", (4, 4))]}, "got Image at 2"),
        ({"images": torch.zeros(3, 4, 4, dtype=torch.uint8)}, "got Tensor at 0"),
        ({"numbers": np.array([1])}, "numbers: expected 3 integers"),
    ],
)
def test_inconsistent_arguments(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "images": np.zeros((3, 4, 4), np.uint8),
        "labels": np.array([0, 1, 1]),
        "class_names": ("a", "b"),
    }
    ImageTable(**good)
    with pytest.raises(ValueError, match=message):
        ImageTable(**good | change)


@pytest.mark.parametrize("ids", [[], [0, 0], [3], [-1]])
def test_subset_of_invalid_classes(table: ImageTable, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="class_ids"):
        table.subset(ids)


@pytest.mark.parametrize("rows", [[], [6], [-1], np.ones(5, bool), np.zeros(6, bool)])
def test_select_of_invalid_rows(table: ImageTable, rows: Any) -> None:
    with pytest.raises(ValueError, match="rows"):
        table.select(rows)


def test_classes_are_ordered_by_first_appearance() -> None:
    paths = [Path(f"{number}.png") for number in range(4)]
    table = ImageTable.from_classes(paths, ["b", "a", "b", "c"], ["query", "", "", "gallery"], "set")
    assert table.class_names == ("b", "a", "c")
    assert table.labels.tolist() == [0, 1, 0, 2]
    assert table.roles is not None
    assert table.roles.tolist() == ["query", "", "", "gallery"]
    assert ImageTable.from_classes(paths, ["a"] * 4, [""] * 4).roles is None


def test_a_mask_of_classes_is_refused(table: ImageTable) -> None:
    with pytest.raises(ValueError, match="class_ids: expected integers, got bool"):
        table.subset(np.array([True, False, True]))

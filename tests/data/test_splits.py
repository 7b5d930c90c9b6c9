from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccpml.data import ImageTable, Source, SplitName, Splits, make_splits


def table_of(classes: int, per_class: int = 2, roles: Sequence[str] | None = None) -> ImageTable:
    labels = np.repeat(np.arange(classes), per_class)
    names = tuple(f"{'ab'[label % 2]}/{label:03}" for label in range(classes))
    images = np.zeros((len(labels), 2, 2), np.uint8)
    return ImageTable(images, labels, names, None if roles is None else np.tile(roles, classes))


def numbers(table: ImageTable) -> list[int]:
    return [int(name[2:]) for name in table.class_names]


def own(*splits: SplitName) -> Source:
    table = table_of(len(splits))
    return Source(table, dict(zip(table.class_names, splits, strict=True)))


def split_classes(
    table: ImageTable, test_classes: list[str] | None = None, folds: int = 4, fold: int | None = None
) -> Splits:
    return make_splits(Source(table), test_classes, folds, fold)


@given(st.integers(2, 120), st.integers(2, 12))
def test_folds_are_contiguous_even_and_complete(classes: int, folds: int) -> None:
    source = own(*["train"] * classes, "test", "test")
    if classes < 2 * folds:
        few = rf"{folds} classes for {folds} folds, got {classes}\b|(train|validation): expected at least two classes"
        with pytest.raises(ValueError, match=few):
            make_splits(source, folds=folds, fold=folds - 1)
        return
    parts = [numbers(make_splits(source, folds=folds, fold=fold).validation) for fold in range(folds)]
    assert [label for part in parts for label in part] == list(range(classes))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_second_half_is_for_testing_and_a_quarter_of_the_first_for_validation() -> None:
    table = table_of(200)
    validated = []
    for fold in range(4):
        splits = split_classes(table, fold=fold)
        assert numbers(splits.test) == list(range(100, 200))
        assert sorted(numbers(splits.train) + numbers(splits.validation)) == list(range(100))
        assert len(numbers(splits.validation)) == 25
        validated += numbers(splits.validation)
    assert validated == list(range(100))
    assert numbers(split_classes(table_of(9), folds=2).test) == [5, 6, 7, 8]


def test_patterns_choose_the_test_classes() -> None:
    splits = split_classes(table_of(16), ["a/*"])
    assert numbers(splits.test) == list(range(0, 16, 2))
    assert numbers(split_classes(table_of(16), ["b/00[13]", "a/002"]).test) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"'c/\*' matches none of a/000, .* and 8 more"):
        split_classes(table_of(16), ["a/*", "c/*"])
    table = table_of(6)
    table = ImageTable(table.images, table.labels, ("Doe, Jane", "Smith, John", *"wxyz"))
    with pytest.raises(ValueError, match=r"; commas separate patterns: write 'Smith\? John' for 'Smith, John'$"):
        split_classes(table, ["Smith", "John"])
    assert split_classes(table, ["Smith? John", "Doe? Jane"], folds=2).test.class_names == ("Doe, Jane", "Smith, John")
    with pytest.raises(ValueError, match="test: expected at least two classes, got 0 of 16"):
        split_classes(table_of(16), [])


@pytest.mark.parametrize("name", ["e\u0301t\u00e9", "\u00e9t\u00e9"])
@pytest.mark.parametrize("pattern", ["e\u0301t*", "\u00e9t?", "\u00e9t\u00e9", "e\u0301te\u0301"])
def test_patterns_match_in_any_form_of_unicode(name: str, pattern: str) -> None:
    table = table_of(6)
    table = ImageTable(table.images, table.labels, (name, "b", "c", "d", "e", "f"))
    assert split_classes(table, [pattern, "f"], folds=2).test.class_names == (name, "f")


def test_names_with_brackets_match_literally() -> None:
    table = table_of(6)
    table = ImageTable(table.images, table.labels, ("x[1]", "b", "c", "d", "e", "f[2]"))
    assert split_classes(table, ["x[1]", "f[2]"], folds=2).test.class_names == ("x[1]", "f[2]")


@pytest.mark.parametrize(
    ("classes", "patterns", "folds", "fold", "message"),
    [
        (1, None, 4, 0, "test: expected at least two classes, got 0 of 1"),
        (6, None, 4, 0, "training and validation: expected at least 4 classes for 4 folds, got 3"),
        (8, None, 4, 0, "validation: expected at least two classes, got 1"),
        (16, ["*"], 4, 0, "train: expected at least two classes, got 0 of 16"),
        (16, ["a/000"], 4, 0, "test: expected at least two classes, got 1 \\(.a/000.\\); add classes$"),
        (16, None, 1, 0, "folds: expected 2 or more"),
        (16, None, 4, 4, r"fold: expected 0\.\.3, got 4"),
        (16, None, 4, -1, "fold: expected"),
    ],
)
def test_too_few_classes(classes: int, patterns: list[str] | None, folds: int, fold: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_classes(table_of(classes), patterns, folds, fold)


def test_own_split_is_kept() -> None:
    source = own("test", "train", "validation", "train", "validation", "test")
    splits = make_splits(source)
    assert [numbers(part) for part in (splits.train, splits.validation, splits.test)] == [[1, 3], [2, 4], [0, 5]]
    splits = make_splits(source, folds=2, fold=1)
    assert [numbers(part) for part in (splits.train, splits.validation, splits.test)] == [[1, 2], [3, 4], [0, 5]]
    with pytest.raises(ValueError, match="not supported for data with their own split"):
        make_splits(source, ["a/*"])


def test_a_split_without_validation_classes_uses_a_fold() -> None:
    splits = make_splits(own(*["train"] * 8, "test", "test"))
    assert numbers(splits.validation) == [0, 1]
    assert numbers(splits.train) == [2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match=r"test: expected .* got 0 of 4; mark some as test in the split"):
        make_splits(own("train", "train", "validation", "validation"))
    with pytest.raises(ValueError, match=r"validation: expected at least two classes or none, got 1 .*; mark more as"):
        make_splits(own("train", "train", "validation", "test", "test"))
    with pytest.raises(ValueError, match="train: expected at least two classes, got 0"):
        make_splits(own("test", "test", "validation", "validation"))


def test_without_own_split() -> None:
    source = Source(table_of(16))
    assert numbers(make_splits(source).validation) == [0, 1]
    assert numbers(make_splits(source, ["a/*"], folds=2, fold=1).validation) == [9, 11, 13, 15]


def test_a_query_requires_a_positive() -> None:
    with pytest.raises(ValueError, match="validation: expected a class with at least two images"):
        split_classes(table_of(16, per_class=1))
    good = split_classes(table_of(16))
    with pytest.raises(ValueError, match="expected in one split, got train and validation"):
        Splits(good.train, good.train, good.test)


def test_roles_are_kept_in_test_and_dropped_in_train() -> None:
    splits = split_classes(table_of(16, 2, ["query", "gallery"]))
    assert splits.train.roles is None
    assert splits.test.roles is not None
    assert set(splits.test.roles) == {"query", "gallery"}
    assert split_classes(table_of(16, 2, ["", ""])).test.roles is None
    with pytest.raises(ValueError, match=r"validation: images\[1\] has no role"):
        split_classes(table_of(16, 2, ["query", ""]))
    with pytest.raises(ValueError, match="expected a class with both query and gallery images"):
        split_classes(table_of(16, 2, ["query", "query"]))


def test_patterns_are_several() -> None:
    """The letters of one would be patterns, too."""
    with pytest.raises(ValueError, match=r"test_classes: expected several patterns, got a/\* alone; pass a list"):
        split_classes(table_of(8), "a/*")


def test_images_without_a_label_are_no_class() -> None:
    table = ImageTable.from_classes([Path(f"{number}.png") for number in range(6)], ["a", "b", "", "c", "", "d"])
    for split_of_class in (None, {"a": "train", "b": "train", "c": "test", "d": "test"}):
        with pytest.raises(
            ValueError, match=r"^labels: expected one for each image, got none for 2\.png; leave it out"
        ):
            make_splits(Source(table, split_of_class))

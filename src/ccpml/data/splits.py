"""Split of the classes into disjoint sets for training, validation and testing.

The protocol is that of Musgrave et al. (ECCV 2020): the second half of the classes is for testing; the first half is
cut into contiguous folds, one for validation and the others for training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ccpml.data.sources.source import Source, SplitName, listed_names, read_label
from ccpml.data.table import ImageTable, check_table
from ccpml.numbers import as_int, as_tuple

__all__ = ["Splits", "check_scorable", "development_classes", "make_splits", "split_by_name"]


@dataclass(frozen=True, eq=False)
class Splits:
    """Three tables without a class in common.

    Attributes:
        train: Training classes; ``roles`` is None.
        validation: Validation classes; ``roles`` is None, or query or gallery for each image.
        test: Test classes; ``roles`` as in validation.

    Raises:
        ValueError: If a class is in two tables, a table has fewer than two classes, or no query of validation or test
            has a match.
    """

    train: ImageTable
    validation: ImageTable
    test: ImageTable

    def __post_init__(self) -> None:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        seen: dict[str, str] = {}
        for split, table in parts.items():
            check_table(split, table)
            for name in table.class_names:
                if name in seen:
                    raise ValueError(f"class {name!r}: expected in one split, got {seen[name]} and {split}")
                seen[name] = split
            if table.num_classes < 2:
                more = ", or use fewer folds" if split == "validation" else ""
                raise ValueError(
                    f"{split}: expected at least two classes, got 1 ({table.class_names[0]!r}); add classes{more}"
                )
        object.__setattr__(self, "train", replace(self.train, roles=None))
        object.__setattr__(self, "validation", check_scorable("validation", self.validation))
        object.__setattr__(self, "test", check_scorable("test", self.test))


def make_splits(
    source: Source, test_classes: Sequence[str] | None = None, folds: int = 4, fold: int | None = None
) -> Splits:
    """Split a source by its own split, or else into test classes and folds of the others.

    Args:
        source: Images. If their own split has no validation classes, or ``fold`` is given, the classes that are not
            for testing are cut into folds.
        test_classes: Names or shell patterns (``Greek/*``) of the test classes, for a source without a split; by
            default the second half of the classes in the order of their labels.
        folds: Number of contiguous folds, at least two.
        fold: Number of the validation fold, 0..folds-1; the other folds are for training. None: the source's own
            validation classes, or else fold 0.

    Raises:
        ValueError: If ``test_classes`` is given for a source with a split, a pattern matches no class, the fold does
            not exist, or there are too few classes.
    """
    if not isinstance(source, Source):
        raise ValueError(f"source: expected what load_source returns, got {source!r}")
    folds, fold = as_int("folds", folds), None if fold is None else as_int("fold", fold)
    if test_classes is not None:
        test_classes = as_tuple("test_classes", test_classes, "several patterns")
        if others := [each for each in test_classes if not isinstance(each, str)]:
            raise ValueError(f"test_classes: expected texts, got {others[0]!r}")
    if "" in source.table.class_names:
        row = int(np.flatnonzero(source.table.labels == source.table.class_names.index(""))[0])
        raise ValueError(f"labels: expected one for each image, got none for {source.table.name_of(row)}; leave it out")
    table, splits = source.table, _splits(source, test_classes)
    train, validation, test = (np.flatnonzero(splits == s) for s in ("train", "validation", "test"))
    has_split = source.split_of_class is not None
    for split, classes in (("train", train), ("test", test)):
        if not classes.size:
            way_out = f"mark some as {split} in the split of the data" if has_split else "add classes"
            raise ValueError(f"{split}: expected at least two classes, got 0 of {table.num_classes}; {way_out}")
    if fold is not None or not validation.size:
        train, validation = _cut_fold(np.flatnonzero(splits != "test"), folds, fold or 0)
    elif validation.size == 1:
        (name,) = table.subset(validation).class_names
        way_out = "mark more as validation, or none to validate on a part of the others"
        raise ValueError(f"validation: expected at least two classes or none, got 1 ({name!r}); {way_out}")
    return Splits(table.subset(train), table.subset(validation), table.subset(test))


def split_by_name(table: ImageTable, split_of_class: Mapping[str, SplitName]) -> Splits:
    """Split a table by the names of its classes, all of which have a split.

    Raises:
        ValueError: If a split has no classes, or as for `Splits`.
    """
    splits = np.array([split_of_class[name] for name in table.class_names])
    found = {split: np.flatnonzero(splits == split) for split in get_args(SplitName)}
    for split, classes in found.items():
        if not classes.size:
            raise ValueError(f"{split}: expected at least two classes, got 0 of {table.num_classes}; add classes")
    return Splits(**{split: table.subset(classes) for split, classes in found.items()})


def development_classes(source: Source, test_classes: Sequence[str] | None = None) -> int:
    """Return the number of classes that are not for testing; arguments are those of `make_splits`."""
    return int((_splits(source, test_classes) != "test").sum())


def _splits(source: Source, test_classes: Sequence[str] | None) -> NDArray[np.str_]:
    """Return the split of each class, (C,), before validation classes are cut off."""
    if source.split_of_class is None:
        return np.where(_is_test(source.table.class_names, test_classes), "test", "train")
    if test_classes is not None:
        raise ValueError("test_classes: not supported for data with their own split; leave out one of them")
    return np.array([source.split_of_class[name] for name in source.table.class_names])


def _cut_fold(classes: NDArray[np.intp], folds: int, fold: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Cut classes into contiguous folds whose sizes differ by at most one, larger ones first.

    Returns:
        The training and the validation classes.
    """
    if folds < 2:
        raise ValueError(f"folds: expected 2 or more, got {folds}")
    if len(classes) < folds:
        raise ValueError(
            f"training and validation: expected at least {folds} classes for {folds} folds, got {len(classes)}; add "
            "classes, or use fewer folds"
        )
    if not 0 <= fold < folds:
        raise ValueError(f"fold: expected 0..{folds - 1}, got {fold}")
    parts = np.array_split(classes, folds)
    return np.concatenate(parts[:fold] + parts[fold + 1 :]), parts[fold]


def _is_test(names: Sequence[str], patterns: Sequence[str] | None) -> NDArray[np.bool_]:
    if patterns is None:
        return np.arange(len(names)) >= len(names) - len(names) // 2
    matches = np.zeros(len(names), dtype=bool)
    for pattern in patterns:
        form = read_label(pattern)
        hits = np.array([name in {pattern, form} or fnmatchcase(read_label(name), form) for name in names])
        if not hits.any():
            commas = next((name for name in names if "," in name and name.startswith(form)), "")
            written = commas.replace(",", "?")
            way_out = f"; commas separate patterns: write {written!r} for {commas!r}" if commas else ""
            raise ValueError(f"test classes: {pattern!r} matches none of {listed_names(names, most=8)}{way_out}")
        matches |= hits
    return matches


def check_scorable(what: str, table: ImageTable) -> ImageTable:
    """Return a table of classes to score on, without its roles if no image has one.

    Args:
        what: Name of the split or the data, for messages.
        table: The table.

    Raises:
        ValueError: If no query has a match, or some images have a role and others have none.
    """
    roles = table.roles
    if roles is None or not (roles != "").any():
        if table.class_sizes().max() < 2:
            raise ValueError(
                f"{what}: expected a class with at least two images, got none; add images to its classes, or split "
                "the classes otherwise"
            )
        return replace(table, roles=None)
    if (roles == "").any():
        row = int(np.flatnonzero(roles == "")[0])
        raise ValueError(f"{what}: {table.name_of(row)} has no role; set it for all images of a split or for none")
    in_both = np.intersect1d(table.labels[roles == "query"], table.labels[roles == "gallery"])
    if not in_both.size:
        raise ValueError(f"{what}: expected a class with both query and gallery images, got none; change some roles")
    return table

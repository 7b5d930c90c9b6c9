"""Images of classes that a run has not seen: its test classes, or those of other data."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self, get_args

from ccpml.artifacts import read_file
from ccpml.data import ImageTable, PackedImage
from ccpml.data.class_records import listed_classes
from ccpml.data.loading import read_source
from ccpml.data.sources.source import Source, SplitName
from ccpml.data.splits import check_scorable
from ccpml.data.upkeep.check import readable_images
from ccpml.data_name import DataName
from ccpml.numbers import counted
from ccpml.progress import PATIENCE, print_note, progress_bar
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.images import cached_side, load_images
from ccpml.runs.inference.run import Run

__all__ = ["SeenClassesError", "leave_out_seen", "note_changes", "splits_by_files", "unseen_images"]


class SeenClassesError(ValueError):
    """A run was trained on all classes of the data that it would be scored on."""


def unseen_images(
    run: Run,
    data: str | None = None,
    *,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad_images: bool = False,
    all_classes: bool = False,
) -> ImageTable:
    """Return the images of classes that a run was not trained on or chosen by; arguments as in `evaluate_run`.

    Raises:
        SeenClassesError: If the run was trained on all classes of the data.
        ValueError: If the data cannot be used, or no query has a match.
    """
    settings, record = run.settings, RunDirectory(run.path).record()
    if data is None and all_classes:
        raise ValueError("all_classes: expected other data too; of its own, a run is scored on the test classes")
    if data is None:
        partial, skip = settings.allow_partial or allow_partial, settings.skip_bad_images or skip_bad_images
        root = data_root or settings.data_root
        own = replace(settings, data_root=root, allow_partial=partial, skip_bad_images=skip)
        images = load_images(own, record=record, run=run.path)
        with suppress(ValueError):  # of a lost or damaged digest, without which nothing can be compared
            if note := images.cache_note(RunDirectory(run.path).fingerprint()):
                print_note(f"{run.path}: {note}; scores may differ a little from its own")
        _note_left_out(run, len(images.bad))
        return images.splits.test
    source = read_source(data, data_root or settings.data_root or None, allow_partial, cached_side(settings))
    note_changes(run, record, source, data)
    table, _ = readable_images(source, data, skip_bad_images)
    split = source.split_of_class or {}
    tests = [label for label, name in enumerate(table.class_names) if split.get(name) == "test"]
    if tests and all_classes and table.roles is not None:
        print_note(f"{data}: scored on the test classes alone, whose images are queries or gallery")
    if tests and (table.roles is not None or not all_classes):
        table = table.subset(tests)
    table = check_scorable(data, leave_out_seen(table, run, data, all_classes))
    if table.num_classes == 1:
        print_note(f"{data}: 1 class, of which every answer is right: scores need at least two")
    return table


def _note_left_out(run: Run, count: int) -> None:
    """Note that other images are read than when the run was scored, if their number differs."""
    with suppress(FileNotFoundError, ValueError):  # of scores that are not there, or damaged
        before = len(RunDirectory(run.path).scores()["images_left_out"])
        if before != count:
            text = f"{counted(before, 'image')} left out as unreadable when it was scored, and {count:,} now"
            print_note(f"{run.path}: {text}, so the scores are of other images")


def note_changes(run: Run, record: RunRecord, source: Source, data: str) -> None:
    """Name on standard error in which classes data differ from those of the run, if they are the same by name."""
    if str(DataName.parse(data).resolved()) == run.settings.data:
        changes = record.changes(source)
        if changes:
            print_note(f"{data}: not as {run.path} was started with: {changes}")


def leave_out_seen(table: ImageTable, run: Run, data: str, all_classes: bool) -> ImageTable:
    """Return a table without the classes of a run's training and validation, or all; name them on standard error.

    A class is one of these if it has the name of one; or, as data may be named by another folder or file, a file that
    the run was trained on or chosen by; or if most of its files are copies of such.
    """
    record = RunDirectory(run.path).record()
    names = {name for name, entry in record.classes.items() if entry.split != "test"}
    seen = [label for label, name in enumerate(table.class_names) if name in names]
    seen = sorted({*seen, *_known_by_files(table, {*seen}, _SeenFiles.of(run, record, names))})
    if not seen:
        return table
    unseen = sorted({*range(table.num_classes)} - {*seen})
    known = listed_classes([table.class_names[label] for label in seen])
    if not unseen and not all_classes:
        raise SeenClassesError(f"{data}: expected classes that the run was not trained on, got {known} that it was")
    what = "scored too" if all_classes else "left out"
    print_note(f"{data}: the run was trained on or chosen by {known}; {what}")
    return table if all_classes else table.subset(unseen)


def splits_by_files(table: ImageTable, run: Run, record: RunRecord) -> dict[str, str]:
    """Return the split of classes of a run that have other names in a table, by these names; their files tell."""
    known, found = {y for y, name in enumerate(table.class_names) if name in record.classes}, dict[str, str]()
    for split in get_args(SplitName):
        names = {name for name, entry in record.classes.items() if entry.split == split}
        for label in _known_by_files(table, known, _SeenFiles.of(run, record, names)):
            found.setdefault(table.class_names[label], split)
    return found


def _known_by_files(table: ImageTable, known: set[int], seen: "_SeenFiles") -> list[int]:
    """Return the classes, of those that are not known by name, that have a seen file or mostly copies of such."""
    if not seen:
        return []
    rows = [row for row, label in enumerate(table.labels.tolist()) if label not in known]
    found, copies = set[int](), Counter[int]()
    for row in progress_bar(None, "image", "comparing with the run's images", over=rows, delay=PATIENCE):
        label, file = int(table.labels[row]), _file_of(table.images[row])
        if file is not None and label not in found:
            if seen.has(file):
                found.add(label)
            copies[label] += seen.has_copy(file)
    sizes = table.class_sizes()
    return [label for label in range(table.num_classes) if label in found or 2 * copies[label] > sizes[label]]


class _SeenFiles:
    """Files that a run was trained on or chosen by, to be known under other names and in copies."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._ids, self._by_size = set[tuple[int, int]](), defaultdict[int, list[Path]](list)
        for file in files:
            with suppress(OSError):
                found = file.stat()
                self._ids.add((found.st_dev, found.st_ino))
                self._by_size[found.st_size].append(file)
        self._digests: dict[Path, bytes] = {}

    @classmethod
    def of(cls, run: Run, record: RunRecord, names: set[str]) -> Self:
        """Return the files of some classes of a run's data; none if the data are no longer there."""
        try:
            table = read_source(run.settings.data, run.settings.data_root or None, allow_partial=True).table
        except (OSError, ValueError):
            return cls([])
        labels = [label for label, name in enumerate(table.class_names) if name in names and name in record.classes]
        return cls(filter(None, map(_file_of, table.subset(labels).images)) if labels else [])

    def __bool__(self) -> bool:
        return bool(self._ids)

    def has(self, file: Path) -> bool:
        """Whether a file is one of these, perhaps by another name or link."""
        try:
            found = file.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) in self._ids

    def has_copy(self, file: Path) -> bool:
        """Whether a file has the content of one of these. Only files of the same size are read."""
        with suppress(OSError):
            return any(
                self._digest(file) == self._digest(other) for other in self._by_size.get(file.stat().st_size, ())
            )
        return False

    def _digest(self, file: Path) -> bytes:
        if file not in self._digests:
            self._digests[file] = hashlib.sha256(read_file(file)).digest()
        return self._digests[file]


def _file_of(image: object) -> Path | None:
    """Return the file of an image; None if it has none of its own, as in an archive or an array."""
    path = image.path if isinstance(image, PackedImage) else image
    return path if isinstance(path, Path) else None

"""Images of classes that a run has not seen: its test classes, or those of other data."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ccpml.data import ImageTable, PackedImage, load_source
from ccpml.data.class_records import listed_classes
from ccpml.data.sources.source import Source
from ccpml.data.splits import check_scorable
from ccpml.data.upkeep.check import readable_images
from ccpml.data_name import DataName
from ccpml.progress import print_note
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.images import cached_side, load_images
from ccpml.runs.inference.run import Run

__all__ = ["SeenClassesError", "leave_out_seen", "note_changes", "unseen_images"]


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
    if data is None:
        partial, skip = settings.allow_partial or allow_partial, settings.skip_bad_images or skip_bad_images
        root = data_root or settings.data_root
        own = replace(settings, data_root=root, allow_partial=partial, skip_bad_images=skip)
        images = load_images(own, record=record, run=run.path)
        with suppress(ValueError):  # of a lost or damaged digest, without which nothing can be compared
            if note := images.cache_note(RunDirectory(run.path).fingerprint()):
                print_note(f"{run.path}: {note}; scores may differ a little from its own")
        return images.splits.test
    source = load_source(data, data_root or settings.data_root or None, allow_partial, cached_side(settings))
    note_changes(run, record, source, data)
    table, _ = readable_images(source, data, skip_bad_images)
    split = source.split_of_class or {}
    tests = [label for label, name in enumerate(table.class_names) if split.get(name) == "test"]
    table = table.subset(tests) if tests else table
    table = check_scorable(data, leave_out_seen(table, run, data, all_classes))
    if table.num_classes == 1:
        print_note(f"{data}: 1 class, of which every answer is right: scores need at least two")
    return table


def note_changes(run: Run, record: RunRecord, source: Source, data: str) -> None:
    """Name on standard error in which classes data differ from those of the run, if they are the same by name."""
    if str(DataName.parse(data).resolved()) == run.settings.data:
        changes = record.changes(source)
        if changes:
            print_note(f"{data}: not as {run.path} was started with: {changes}")


def leave_out_seen(table: ImageTable, run: Run, data: str, all_classes: bool) -> ImageTable:
    """Return a table without the classes of a run's training and validation, or all; name them on standard error.

    A class is one of these if it has the name of one, or, as data may be named by another folder or file, an image that
    the run was trained on or chosen by.
    """
    record = RunDirectory(run.path).record()
    names = {name for name, entry in record.classes.items() if entry.split != "test"}
    files, own = _seen_files(run, record, names), _file_ids(table)
    labels = {int(label) for label, file in zip(table.labels, own, strict=True) if file in files} if files else set()
    seen = [label for label, name in enumerate(table.class_names) if name in names or label in labels]
    if not seen:
        return table
    unseen = sorted({*range(table.num_classes)} - {*seen})
    known = listed_classes([table.class_names[label] for label in seen])
    if not unseen and not all_classes:
        raise SeenClassesError(f"{data}: expected classes that the run was not trained on, got {known} that it was")
    what = "scored too" if all_classes else "left out"
    print_note(f"{data}: the run was trained on or chosen by {known}; {what}")
    return table if all_classes else table.subset(unseen)


def _seen_files(run: Run, record: RunRecord, names: set[str]) -> set[tuple[int, int]]:
    """Return the files of the images of some classes of a run's data; none if the data are no longer there."""
    try:
        table = load_source(run.settings.data, run.settings.data_root or None, allow_partial=True).table
    except (OSError, ValueError):
        return set()
    seen = [label for label, name in enumerate(table.class_names) if name in names and name in record.classes]
    return {file for file in _file_ids(table.subset(seen)) if file} if seen else set()


def _file_ids(table: ImageTable) -> list[tuple[int, int] | None]:
    """Return what is the same for all names and links of the file of each image; None without a file of its own."""
    return [_file_id(image.path if isinstance(image, PackedImage) else image) for image in table.images]


def _file_id(image: object) -> tuple[int, int] | None:
    try:
        found = image.stat() if isinstance(image, Path) else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None

"""Images of classes that a run has not seen: its test classes, or those of other data."""

import sys
from dataclasses import replace

from ccpml.data import ImageTable, load_source
from ccpml.data.class_records import listed_classes
from ccpml.data.sources.source import Source
from ccpml.data.upkeep.check import readable_images
from ccpml.data_name import DataName
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
    """Return the images of classes that a run was not trained on or chosen by; arguments as in `evaluate_run`."""
    settings, record = run.settings, RunDirectory(run.path).record()
    if data is None:
        partial, skip = settings.allow_partial or allow_partial, settings.skip_bad_images or skip_bad_images
        root = data_root or settings.data_root
        own = replace(settings, data_root=root, allow_partial=partial, skip_bad_images=skip)
        return load_images(own, record=record, run=run.path).splits.test
    source = load_source(data, data_root or settings.data_root or None, allow_partial, cached_side(settings))
    note_changes(run, record, source, data)
    table, _ = readable_images(source, data, skip_bad_images)
    split = source.split_of_class or {}
    tests = [label for label, name in enumerate(table.class_names) if split.get(name) == "test"]
    table = table.subset(tests) if tests else table
    return leave_out_seen(table, record, data, all_classes)


def note_changes(run: Run, record: RunRecord, source: Source, data: str) -> None:
    """Name on standard error in which classes data differ from those of the run, if they are the same by name."""
    if str(DataName.parse(data).resolved()) == run.settings.data:
        changes = record.changes(source)
        if changes:
            print(f"note: {data}: not as {run.path} was started with: {changes}", file=sys.stderr)


def leave_out_seen(table: ImageTable, record: RunRecord, data: str, all_classes: bool) -> ImageTable:
    """Return a table without the classes of a run's training and validation, or all; name them on standard error."""
    seen = {name for name, entry in record.classes.items() if entry.split != "test"}
    unseen = [label for label, name in enumerate(table.class_names) if name not in seen]
    if len(unseen) == table.num_classes:
        return table
    known = listed_classes([name for name in table.class_names if name in seen])
    if not unseen and not all_classes:
        raise SeenClassesError(f"{data}: expected classes that the run was not trained on, got {known} that it was")
    what = "scored too" if all_classes else "left out"
    print(f"note: {data}: the run was trained on or chosen by {known}; {what}", file=sys.stderr)
    return table if all_classes else table.subset(unseen)

"""The record of a run: the settings and the data that it was started with."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from ccpml.data import Source, SplitName
from ccpml.data.class_records import (
    ClassRecord,
    DataChangedError,
    DataChanges,
    class_records,
    find_changes,
    listed_classes,
)
from ccpml.data.images.formats import unread_suffixes
from ccpml.data.sources.source import read_label
from ccpml.files import NewerVersionError, check_readable, check_version, digest_of, load_json, write_text
from ccpml.numbers import counted
from ccpml.runs.values import INCIDENTAL, differences

__all__ = ["RunRecord", "read_fingerprint", "seen_by_weights", "write_fingerprint"]

VERSION: Final = 1
"""Version of the files of a run; increase it when an older ccpml would misread one of them."""


@dataclass(frozen=True)
class RunRecord:
    """The content of ``record.json``.

    Attributes:
        settings: Settings by their flat names.
        classes: The classes of the data by name, in the order of the data.
        choices: Digest of the content of ``choices.json``; empty if it is not known.
    """

    settings: Mapping[str, Any]
    classes: Mapping[str, ClassRecord]
    choices: str = ""

    @property
    def split_of_class(self) -> dict[str, SplitName]:
        """The split of each class by name."""
        return {name: entry.split for name, entry in self._labels.items()}

    @property
    def _labels(self) -> dict[str, ClassRecord]:
        """The classes by the names that sources give them; a folder's were once as its file system spells them."""
        return {read_label(name): entry for name, entry in self.classes.items()}

    @property
    def digest(self) -> str:
        """A digest of the settings and of the data, wherever these are."""
        elsewhere = {*INCIDENTAL, "data"}
        lasting = {name: value for name, value in self.settings.items() if name not in elsewhere}
        return digest_of([lasting, self.classes])

    def write(self, file: Path) -> None:
        """Write the record, a class on each line."""
        lines = ",\n".join(
            f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(entry)}" for name, entry in self.classes.items()
        )
        digest = digest_of([self.digest, self.choices])
        head = f'{{"version": {VERSION},\n"digest": "{digest}",\n"choices": "{self.choices}"'
        head += f',\n"settings": {json.dumps(self.settings)}'
        write_text(file, f'{head},\n"classes": {{\n{lines}\n}}}}\n')

    @classmethod
    def read(cls, file: Path) -> "RunRecord":
        """Read a record.

        Raises:
            ValueError: If the file is missing, damaged, or of a newer version of ccpml.
        """
        way_out = "restore it from a copy, or start a new run"
        check_readable(file, way_out)
        try:
            content = load_json(file)
            check_version(file, content.get("version"), VERSION)
            classes = {name: ClassRecord(*entry) for name, entry in content["classes"].items()}
            valid = isinstance(content["settings"], dict) and all(
                entry.split in get_args(SplitName) and isinstance(entry.images, int) and isinstance(entry.digest, str)
                for entry in classes.values()
            )
        except NewerVersionError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file}: damaged ({error}); {way_out}") from error
        if not valid or not classes:
            raise ValueError(f"{file}: not the record of a run; {way_out}")
        record = cls(content["settings"], classes, str(content.get("choices", "")))
        digest = digest_of([record.digest, record.choices])
        # Records of an older ccpml have neither a version nor a digest.
        if content.get("digest", "none" if "version" in content else digest) != digest:
            raise ValueError(f"{file}: damaged (wrong digest); {way_out}")
        return record

    def check_settings(self, settings: Mapping[str, Any], file: Path) -> None:
        """Check that settings, by their flat names, are those of the run, except for incidental ones.

        Raises:
            ValueError: If they are not; it names the file that was edited.
        """
        now = json.loads(json.dumps(settings))  # lists and numbers as those of the record
        known = {name: value for name, value in self.settings.items() if name in now}
        edited = differences(known, {name: now[name] for name in known})
        if edited:
            raise ValueError(
                f"{file}: edited after the run was started, by its record.json ({'; '.join(edited)}); undo it, or "
                "start a new run"
            )

    def check_started_with(self, settings: Mapping[str, Any], file: Path) -> None:
        """Check that the run was started with some settings, by their flat names: that it is no other run.

        Raises:
            ValueError: If it was not; the message names the file of the record.
        """
        expected = json.loads(json.dumps(settings))
        others = differences(expected, {name: self.settings.get(name) for name in expected})
        if others:
            raise ValueError(
                f"{file}: of another run, which was started with other settings ({' and '.join(others)}); restore it "
                "from a copy"
            )

    def changes(self, source: Source) -> DataChanges:
        """Return in which classes data differ from those of the run."""
        return find_changes(self._labels, class_records(source, self.split_of_class))

    def check_data(self, source: Source, data: str, run: Path) -> None:
        """Check that data are those of the run; their own splits, if any, do not count.

        Raises:
            DataChangedError: If they are not; it names the classes.
        """
        changes = self.changes(source)
        if changes:
            way_out, commands = "restore them, or start a new run", unread_suffixes()
            changed = {*changes.missing, *changes.other_images}
            ignored = [each.path for each in source.ignored if read_label(each.path.parent.as_posix()) in changed]
            unread = [suffix for path in ignored if (suffix := path.suffix.lower()) in commands]
            if unread:
                way_out = f"{counted(len(unread), 'file')} cannot be read here: {commands[unread[0]]}, or {way_out}"
            raise DataChangedError(f"{data}: expected the data that {run} was started with, got {changes}; {way_out}")


def seen_by_weights(weights: str, classes: Mapping[str, ClassRecord]) -> str:
    """Return a note about classes that initial weights, if they are of a run, were trained on; empty if there are none.

    Args:
        weights: Setting of a run.
        classes: Those of the new run, by name.
    """
    run = Path(weights).parent.parent  # of checkpoints/best.safetensors
    file = run / "record.json"
    if weights in {"none", "imagenet"} or not file.is_file():
        return ""
    try:
        before = RunRecord.read(file).classes
    except ValueError:  # damaged
        return ""
    found, same = list[str](), list[bool]()
    for split, splits_before in (("test", {"train", "validation"}), ("validation", {"train"})):
        names = [name for name, entry in classes.items() if entry.split == split and name in before]
        names = [name for name in names if before[name].split in splits_before]
        found += [f"{listed_classes(names)} for {split}"] if names else []
        same += [before[name][1:] == classes[name][1:] for name in names]
    what = "was trained on or chosen by classes of the same names as"
    if not found:
        return ""
    unseen = "these are not unseen" if all(same) else "if they are the same, these are not unseen"
    return f"{run}, whose weights it starts from, {what} {' and '.join(found)}: {unseen}"


def write_fingerprint(file: Path, fingerprint: str, record: RunRecord) -> None:
    """Write the digest of the images that a run is started with, and below it one of both it and the record."""
    write_text(file, f"{fingerprint}\n{digest_of([fingerprint, record.digest])}\n")


def read_fingerprint(file: Path, record: RunRecord) -> str:
    """Read the digest of the images that a run was started with.

    Raises:
        ValueError: If the file is missing, damaged, or of another run.
    """
    way_out = "restore it from a copy, or start a new run"
    check_readable(file, way_out)
    lines = file.read_text("ascii", "replace").split()
    if not lines or not all(re.fullmatch("[0-9a-f]{64}", line) for line in lines):
        raise ValueError(f"{file}: damaged (expected lines of 64 hexadecimal digits); {way_out}")
    if lines[1:] not in ([], [digest_of([lines[0], record.digest])]):  # an older ccpml wrote one line
        raise ValueError(f"{file}: damaged, or of another run (wrong digest); {way_out}")
    return lines[0]

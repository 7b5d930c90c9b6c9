"""The cleaned data: which pictures are left out, by conservative rules, and why."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.copies import members_of
from ccpml.cleaning.problems import Problems
from ccpml.numbers import check_flags

__all__ = [
    "NOT_UTF8",
    "RULES",
    "Cleaned",
    "Drop",
    "check_drop",
    "clean",
    "cleaned_csv",
    "find_excluded",
    "relative_path",
]

Drop = Literal["exact", "same"]

RULES: Final = (
    "Of copies in more than one split, those in test stay, then those in validation: a score on the test classes stays "
    "comparable, and nothing of them is trained on. Where the label of a copy in an earlier split is twice as "
    "probable, none stays.",
    "Of copies with different labels in one split, those with the label that the neighbors support stay; where no "
    "label is twice as probable as the others, none stays.",
    "Of files with the same bytes in one split, one stays. The same picture in another encoding or size stays, unless "
    "--drop same was given.",
    "Probable label errors, similar pictures, outliers and pictures of badly covered classes stay as they are: look at "
    "them. With --relabel, probable label errors get the suggested label, if it is of the same split.",
)
"""What is left out, in words."""

_RANK: Final = {"train": 0, "validation": 1, "test": 2}
NOT_UTF8: Final = "name is not UTF-8"
_NO_LABEL: Final = "no label"
_CLEARLY: Final = 2.0
"""How many times as probable as others a label must be."""


@dataclass(frozen=True, eq=False)
class Cleaned:
    """Which of N pictures stay, and with which labels.

    Attributes:
        labels: Labels, −1 for none: int64, (N,); those that were given, unless they were corrected.
        reasons: Why each picture is left out, (N,); empty for those that stay.
    """

    labels: NDArray[np.int64]
    reasons: Sequence[str]


def clean(
    problems: Problems,
    labels: NDArray[np.int64],
    splits: Sequence[str],
    roles: Sequence[str],
    drop: Drop = "exact",
    relabel: bool = False,
    excluded: Sequence[str] = (),
) -> Cleaned:
    """Apply the rules.

    Args:
        problems: The problems of N pictures or more, of which the first N are the data.
        labels: Labels, −1 for none: int64, (N,).
        splits: Split of each picture, empty for none, (N,).
        roles: Role of each picture, empty for none, (N,); a query and a picture of the gallery may be copies.
        drop: Which copies in one split and role are left out: those with the same bytes, or of the same picture.
        relabel: Whether probable label errors get the suggested label.
        excluded: Why each picture cannot stay in any case, empty for those that can, (N,): no copy is left out in favor
            of one that is not there itself. Empty: all can.
    """
    check_drop(drop)
    check_flags(relabel=relabel)
    count = len(labels)
    reasons, names = list(excluded or [""] * count), problems.same[:count]
    for rows in members_of(names).values():
        of_label = [row for row in rows if labels[row] >= 0 and not reasons[row]]
        kept = _in_last_split(of_label, splits, reasons)
        if len({int(labels[row]) for row in kept}) > 1:
            _keep_supported(kept, labels, problems, reasons)
        _leave_out_contradicted(kept, [row for row in of_label if row not in kept], labels, problems, reasons)
    _leave_out_copies(problems.exact[:count] if drop == "exact" else names, splits, roles, reasons)
    return Cleaned(_corrected(problems, labels, splits, reasons) if relabel else labels.copy(), reasons)


def check_drop(drop: object) -> None:
    """Raise ValueError unless this says which copies are left out."""
    if drop not in get_args(Drop):
        raise ValueError(f"drop: expected {' or '.join(get_args(Drop))}, got {drop!r}")


def find_excluded(paths: Sequence[Path | None], labels: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """Return why a CSV file cannot hold a picture, (N,), empty if it can.

    Args:
        paths: Paths, None for a picture in no file of its own.
        labels: Labels, −1 for none: int64, (N,); a picture without one is excluded if others have some.
        class_names: Names of the labels.

    Example:
        >>> find_excluded([Path("a.png"), Path("b.png")], np.array([-1, 0]), ["mug"])
        ['no label', '']
    """
    reasons = []
    for path, label in zip(paths, labels.tolist(), strict=True):
        name = class_names[label] if label >= 0 else ""
        lacks_label = label < 0 <= labels.max()
        reasons.append(_NO_LABEL if lacks_label else "" if _is_utf8(f"{path or ''}{name}") else NOT_UTF8)
    return reasons


def _is_utf8(text: str) -> bool:
    """Whether a text has no bytes of the file system that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_last_split(rows: Sequence[int], splits: Sequence[str], reasons: list[str]) -> list[int]:
    """Leave out copies that are also in a later split; return the others."""
    last = max((_RANK.get(splits[row], -1) for row in rows), default=-1)
    for row in rows:
        if 0 <= _RANK.get(splits[row], -1) < last:
            reasons[row] = "leak"
    return [row for row in rows if not reasons[row]]


def _keep_supported(rows: Sequence[int], labels: NDArray[np.int64], problems: Problems, reasons: list[str]) -> None:
    """Leave out copies with different labels, but for those whose label their neighbors clearly support."""
    votes = problems.votes
    support = dict[int, float]()
    for row in rows:
        own = 0.0 if votes is None else float(votes.own[row])
        support[int(labels[row])] = max(support.get(int(labels[row]), 0.0), own)
    best, second = sorted(support.items(), key=lambda item: -item[1])[:2]
    winner = best[0] if best[1] >= _CLEARLY * second[1] and best[1] > 0 else None
    for row in rows:
        if int(labels[row]) != winner:
            reasons[row] = "copy with another label"


def _leave_out_contradicted(
    kept: Sequence[int], leaked: Sequence[int], labels: NDArray[np.int64], problems: Problems, reasons: list[str]
) -> None:
    """Leave out copies whose neighbors clearly support the label of a copy that was left out as a leak."""
    if problems.votes is None:
        return
    own = problems.votes.own
    for row in kept:
        rival = max((float(own[one]) for one in leaked if labels[one] != labels[row]), default=0.0)
        if not reasons[row] and rival > 0 and rival >= _CLEARLY * float(own[row]):
            reasons[row] = "copy with another label"


def _leave_out_copies(
    leaders: NDArray[np.int64], splits: Sequence[str], roles: Sequence[str], reasons: list[str]
) -> None:
    """Leave out copies but one in each split and role: the leader of the group, if it stays."""
    for leader, rows in members_of(leaders).items():
        first = dict[tuple[str, str], int]()
        for row in sorted(rows, key=lambda one: (one != leader, one)):
            if not reasons[row] and first.setdefault((splits[row], roles[row]), row) != row:
                reasons[row] = "copy"


def _corrected(
    problems: Problems, labels: NDArray[np.int64], splits: Sequence[str], reasons: Sequence[str]
) -> NDArray[np.int64]:
    """Return the labels, (N,), with those that are suggested for probable errors, if they are of the same split."""
    changed = labels.copy()
    split_of = {int(label): split for label, split in zip(labels, splits, strict=True)}
    for finding in problems.of_kind("label error"):
        row = finding.row
        if row < len(labels) and not reasons[row] and split_of.get(finding.suggested) == splits[row]:
            changed[row] = finding.suggested
    return changed


def cleaned_csv(
    paths: Sequence[str],
    labels: Sequence[str],
    split_of_label: Mapping[str, str],
    roles: Sequence[str],
    others: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the CSV file that ``ccpml train`` reads: ``path``, and ``label``, ``split`` and ``role`` if there are any.

    Args:
        paths: Paths relative to the folder of the file.
        labels: Names of the labels; all or none are empty.
        split_of_label: Split of each label; the column is left out unless all have one.
        roles: Roles.
        others: Further columns, by name.

    Example:
        >>> print(cleaned_csv(["a/1.jpg"], ["mug, blue"], {}, [""]), end="")
        path,label
        a/1.jpg,"mug, blue"
    """
    columns = {"path": list(paths)}
    if any(labels):
        columns["label"] = list(labels)
        splits = [split_of_label.get(label, "") for label in labels]
        if all(splits):
            columns["split"] = splits
            columns["role"] = ["" if split == "train" else role for split, role in zip(splits, roles, strict=True)]
    columns |= {name: list(cells) for name, cells in (others or {}).items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def relative_path(path: Path, folder: Path) -> str:
    """Return the path of a file from a folder; links to folders are resolved, a link to the file itself is not."""
    return os.path.relpath(path.absolute().parent.resolve() / path.name, folder.absolute().resolve())

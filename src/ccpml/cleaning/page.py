"""The page of the findings: pictures of each group, the most certain first, and what to do about them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ccpml.cleaning.cleaned import NOT_UTF8, RULES
from ccpml.cleaning.found import CleanedData
from ccpml.cleaning.labels import MIN_CLASS
from ccpml.cleaning.problems import Finding
from ccpml.data.images.read import BadImageError
from ccpml.data.sources.source import listed_names
from ccpml.report import page
from ccpml.report.tiles import Row, Tile

__all__ = ["TITLES", "notes_of", "page_of", "size_of", "summary_rows"]

_SHOWN: Final = 30  # groups of a kind
_TILES: Final = 10  # of a group
_NEIGHBORS: Final = 7
_SIDE: Final = 160
_NAMED: Final = 8

TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "leak": (
        "Copies in more than one split",
        "The same picture is in training and in testing, or in validation: scores are too high. ✓ stays in "
        "cleaned.csv, ✗ does not: the copy in test is kept, unless its label is improbable beside those of the others.",
    ),
    "exact copy": (
        "Files with the same bytes",
        "Keep one of each group. If labels differ, at most one is right. ✓ stays in cleaned.csv, ✗ does not.",
    ),
    "same picture": (
        "The same picture in another encoding or size",
        "Found by perceptual hash and embedding, verified by pixels. Keep one of each group, the first has the most "
        "pixels; if labels differ, at most one is right. ✓ stays in cleaned.csv, ✗ does not; with --drop same, only "
        "one of a group stays.",
    ),
    "similar": (
        "Similar pictures",
        "Much nearer to each other than pictures of these data usually are to the nearest one, but not the same by "
        "their pixels: another take of one thing, or things that the run hardly tells apart. Nothing to do, unless a "
        "split should not have both.",
    ),
    "label error": (
        "Probable label errors",
        "The first picture is in question; the others are its nearest ones, ✓ with its label, ✗ with another. The "
        "score is the probability of the suggested label, if that or the given one is right. Look at each: a rare view "
        "of the right class can look like another class.",
    ),
    "outlier": (
        "Outliers",
        "Pictures that are far from all others, compared with their class. Not necessarily wrong: a rare view, or "
        "something that does not belong to the data. The others are the nearest ones.",
    ),
    "cover": (
        "Badly covered classes",
        "Classes whose pictures are farthest from the nearest of the centers that stand for the class, as proxies do "
        "in training. Shown are the pictures that are farthest: more pictures like these would improve the cover, and "
        "so would more centers (--proxies-per-class of ccpml train).",
    ),
    "addition": (
        "Pictures that would improve covers",
        "Pictures without a label that are probably of the class, and that its pictures cover worst. Label these "
        "first; after each, the distance is that of the next.",
    ),
}
"""Title of each section, and what to do."""


def page_of(found: CleanedData) -> str:
    """Return the whole page as HTML, which loads nothing from elsewhere."""
    total = size_of(found)
    title = f"{found.data}: what to clean"
    body = [f"<h1>{page.text(title)}</h1>\n", page.paragraph(f"{total}; embedded by {found.run.path}", lead=True)]
    body.append(page.table(("", "found", "pictures"), summary_rows(found)))
    notes = list(notes_of(found))
    if notes:
        body.append(page.section("Read this first", page.listing(notes)))
    for kind in TITLES:
        if groups := _groups(found.problems.of_kind(kind)):
            body.append(page.section(TITLES[kind][0], *_section(found, kind, groups)))
    if found.unreadable:
        lines = [f"{image.name}: {image.reason}" for image in found.unreadable]
        rest = [f"and {len(lines) - 100:,} more, in findings.csv"] if len(lines) > 100 else []
        body.append(page.section("Pictures that cannot be read", page.listing([*lines[:100], *rest])))
    body.append(page.section("What cleaned.csv leaves out", *_rules(found)))
    return page.document(title, body)


def size_of(found: CleanedData) -> str:
    """Return the number of pictures and classes in words."""
    classes = _count(len(found.class_names), "class", "classes")
    return f"{_count(found.count, 'picture', 'pictures')}, {classes}"


def summary_rows(found: CleanedData) -> list[tuple[str, str, str]]:
    """Return name, number of groups or pictures, and number of pictures, of each kind that was found."""
    groups, rows = found.groups(), list[tuple[str, str, str]]()
    for kind, (title, _) in TITLES.items():
        pictures = len({finding.row for finding in found.problems.of_kind(kind)})
        rows.append((title, f"{groups[kind]:,}", f"{pictures:,}"))
    if found.unreadable:
        rows.append(("Pictures that cannot be read", f"{len(found.unreadable):,}", f"{len(found.unreadable):,}"))
    return rows


def notes_of(found: CleanedData) -> Iterator[str]:
    """Yield what is to be known about how far the findings can be trusted."""
    if found.seen and found.run.settings.max_steps == 0:
        yield (
            f"The run took no training steps, but its embedding layer was computed from {len(found.seen):,} of the "
            f"{len(found.class_names):,} classes ({listed_names(found.seen, _NAMED)}): label errors of these classes "
            "can be harder to see."
        )
    elif found.seen:
        yield (
            f"The run was trained on {len(found.seen):,} of the {len(found.class_names):,} classes "
            f"({listed_names(found.seen, _NAMED)}). It has learned their labels, wrong ones too: label errors and "
            "outliers of these classes can be hidden. A run of no steps (ccpml train <data> --max-steps 0), or one "
            "trained on other classes, finds them."
        )
    labels = found.labels[: found.count]
    unjudged = int((~found.problems.judged[: found.count] & (labels >= 0)).sum())
    if unjudged:
        needed = f"at least two classes, and {MIN_CLASS} different pictures of a class"
        yield f"{_count(unjudged, 'label was', 'labels were')} not judged: that takes {needed}."
    unlabeled = int((labels < 0).sum())
    if unlabeled:
        rest = "" if unlabeled == found.count else "; cleaned.csv has only pictures with a label"
        known = "only copies, outliers and additions can be found there"
        yield f"{_count(unlabeled, 'picture has', 'pictures have')} no label: {known}{rest}."
    unnamed = found.cleaned.reasons.count(NOT_UTF8)
    if unnamed:
        have = _count(unnamed, "picture has a name", "pictures have names")
        yield f"{have} not in UTF-8, which cleaned.csv cannot hold: left out; rename the files, and clean again."
    if not any(found.splits):
        yield "The data have no splits, and the run knows none of their classes: leaks between splits cannot be found."


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _groups(findings: Sequence[Finding]) -> list[list[Finding]]:
    groups = dict[int, list[Finding]]()
    for finding in findings:
        groups.setdefault(finding.group, []).append(finding)
    return list(groups.values())


def _section(found: CleanedData, kind: str, groups: Sequence[Sequence[Finding]]) -> Iterator[str]:
    yield page.paragraph(TITLES[kind][1])
    draw: Mapping[str, Callable[[CleanedData, Sequence[Finding]], Row]] = {
        "label error": _questioned,
        "outlier": _isolated,
        "cover": _covered,
        "addition": _added,
    }
    shown = [draw.get(kind, _copies)(found, group) for group in groups[:_SHOWN]]
    left = len(groups) - len(shown)
    yield page.rows(shown, f"and {left:,} more, in findings.csv" if left else "")


def _copies(found: CleanedData, group: Sequence[Finding]) -> Row:
    """Return copies of each other: ✓ stays in the cleaned data, ✗ does not."""
    differ = len({found.label_of(one.row) for one in group}) > 1
    apart = group[0].kind == "similar"
    fates = ["" if apart else found.fate(one.row) for one in group[:_TILES]]
    rows = [one.row for one in group[:_TILES]]
    tiles = [_tile(found, row, _where(found, row, differ), fate) for row, fate in zip(rows, fates, strict=True)]
    more = f"; {len(group):,} in all" if len(group) > _TILES else ""
    name = group[0].note or found.label_of(group[0].row) or Path(found.pictures.name(group[0].row)).name
    how = f"distance {2 * (1 - group[-1].score):.3f}" if apart else _count(len(group), "picture", "pictures")
    return Row(name, f"{how}{more}", tiles)


def _where(found: CleanedData, row: int, with_label: bool) -> str:
    """Return the label of a picture, or else its file, and its split."""
    split = found.splits[row] if row < found.count else "pool"
    name = found.label_of(row) or "no label" if with_label else Path(found.pictures.name(row)).name
    return f"{split}: {name}" if split else name


def _questioned(found: CleanedData, group: Sequence[Finding]) -> Row:
    one = group[0]
    given, suggested = found.label_of(one.row), found.name_of(one.suggested)
    tiles = [_tile(found, one.row, Path(found.pictures.name(one.row)).name)]
    tiles += [
        Tile(_pixels(found, row), found.label_of(row), bool(found.labels[row] == found.labels[one.row]))
        for row in _neighbors(found, one.row)
    ]
    is_start = found.run.settings.max_steps == 0
    seen = "the embedding layer was computed from this class" if is_start else "the run was trained on this class"
    facts = [f"score {one.score:.3f}", seen if given in set(found.seen) else ""]
    fate = found.fate(one.row)
    numbers = "; ".join(filter(None, [*facts, "" if fate == "kept" else fate]))
    return Row(given, numbers, tiles, lead=1, suggested=suggested)


def _isolated(found: CleanedData, group: Sequence[Finding]) -> Row:
    one = group[0]
    tiles = [_tile(found, one.row, Path(found.pictures.name(one.row)).name)]
    tiles += [_tile(found, row, found.label_of(row) or "no label") for row in _neighbors(found, one.row)]
    name = found.label_of(one.row) or "no label"
    return Row(name, f"{one.score:.1f} times as far from its nearest as is usual", tiles, lead=1)


def _covered(found: CleanedData, group: Sequence[Finding]) -> Row:
    cover = found.problems.covers[group[0].group - 1]
    tiles = [_tile(found, one.row, f"{one.score:.3f}") for one in group]
    usual = f"; {cover.needed:,} centers would reach the median of all classes" if cover.needed else ""
    numbers = f"radius {cover.radius:.3f} with {cover.centers} of {cover.pictures:,} pictures as centers{usual}"
    return Row(found.name_of(cover.label), numbers, tiles)


def _added(found: CleanedData, group: Sequence[Finding]) -> Row:
    one = found.problems.additions[group[0].group - 1]
    tiles = [_tile(found, row, f"then {after:.3f}") for row, after in one.chosen]
    return Row(found.name_of(one.label), f"distance to the pictures of the class {one.radius:.3f}", tiles)


def _neighbors(found: CleanedData, row: int) -> list[int]:
    near: NDArray[np.int64] = found.problems.neighbors.rows[row]
    return [other for other in near.tolist() if other >= 0][:_NEIGHBORS]


def _tile(found: CleanedData, row: int, caption: str, fate: str = "") -> Tile:
    return Tile(_pixels(found, row), caption, None if not fate else not fate.startswith("left out"))


def _pixels(found: CleanedData, row: int) -> NDArray[np.uint8] | None:
    try:
        return np.asarray(found.pictures.small(row, _SIDE))
    except BadImageError:
        return None


def _rules(found: CleanedData) -> Iterator[str]:
    count = found.count
    fates = [found.fate(row) for row in range(count)]
    left = sum(fate.startswith("left out") for fate in fates)
    changed = sum(fate.startswith("label changed") for fate in fates)
    relabeled = f", {changed:,} with another label" if changed else ""
    yield page.paragraph(f"{count - left:,} of {count:,} pictures stay{relabeled}. No file of the data was changed.")
    yield page.listing(RULES)
    findings = "findings.csv has all findings, with the file of each picture."
    splits = [split for split, fate in zip(found.splits, fates, strict=True) if not fate.startswith("left out")]
    if all(splits) and "train" not in splits:
        yield page.paragraph(f"{findings} cleaned.csv has no class to train on, as none here is for training.")
        return
    yield page.paragraph(f"{findings} To train on what stays:")
    yield page.code("ccpml train csv:cleaned.csv")

"""A set of images with the split that it came with."""

import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from ccpml.data.images.formats import unread_suffixes
from ccpml.data.table import ImageTable, check_table
from ccpml.progress import printable

__all__ = [
    "Ignored",
    "Source",
    "SplitName",
    "check_distinct",
    "check_one_split",
    "count_ignored",
    "listed_names",
    "name_notes",
    "read_label",
    "spellings",
]

SplitName = Literal["train", "validation", "test"]

_MAX_SUFFIXES: Final = 10
_LONG: Final = 60  # characters of a name
_SPLIT_FOLDERS: Final = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_SPLIT_ORDER: Final = "tr va te"


def read_label(text: str) -> str:
    r"""Return the name of a class, without outer spaces; those that Unicode writes in several ways are one, in NFC.

    Example:
        >>> read_label(" cafe\u0301 "), read_label(" ")
        ('café', ' ')
    """
    return unicodedata.normalize("NFC", text.strip() or text)


class SourceNotFoundError(ValueError):
    """There is no folder or file where a set of images is looked for.

    Attributes:
        found: What was found, without the way out.
    """

    def __init__(self, found: str, way_out: str = "") -> None:
        super().__init__(f"{found}; {way_out}" if way_out else found)
        self.found = found


class Ignored(NamedTuple):
    """A file or folder that is not used.

    ``path`` is relative to the folder of the set; ``kind`` is a noun with ``{s}`` for the plural, ``broken link{s}``.
    """

    path: Path
    kind: str


@dataclass(frozen=True, eq=False)
class Source:
    """A set of images, and its own split if it has one.

    Attributes:
        table: All images.
        split_of_class: Split of each class by name, or None if the set has no split. Names that are not in ``table``
            are ignored, so that ``table`` can be replaced by a smaller one; images without a label, whose class has an
            empty name, have none.
        folder: Folder of the image files; None if they come with ccpml.
        ignored: Files and folders in it that are not used.
        spellings: What names of classes were read from, where that is more than one text; see `spellings`.
        notes: What else is unusual about it, one phrase each.

    Raises:
        ValueError: If a class of the table has no split.
    """

    table: ImageTable
    split_of_class: Mapping[str, SplitName] | None = None
    folder: Path | None = None
    ignored: Sequence[Ignored] = ()
    spellings: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_table("table", self.table)
        if self.split_of_class is not None:
            if not isinstance(self.split_of_class, Mapping):
                raise ValueError(f"split_of_class: expected splits by class name, got {self.split_of_class!r}")
            for name in self.table.class_names:
                split = self.split_of_class.get(name)
                if name and split not in get_args(SplitName):
                    got = "none" if split is None else repr(split)
                    raise ValueError(f"class {name!r}: expected a split (train, validation or test), got {got}")


def count_ignored(ignored: Iterable[Ignored], max_listed: int = 3) -> list[str]:
    """Return one phrase for each kind of what is ignored, with number and names; folders are last.

    Of more than ten suffixes, such as the numbers in ``photo.1`` and ``photo.2``, the rarest share a phrase.

    Example:
        >>> count_ignored([Ignored(Path("a/1.txt"), "file{s} with suffix .txt"), Ignored(Path("b"), "broken link{s}")])
        ['1 file with suffix .txt (a/1.txt)', '1 broken link (b)']
    """
    paths: dict[str, list[Path]] = {}
    for path, kind in sorted(ignored, key=lambda x: (x.kind.startswith("folder"), x)):
        paths.setdefault(kind, []).append(path)
    unread = unread_suffixes()
    suffixes = [kind for kind in paths if kind.startswith("file") and not kind.endswith(tuple(unread))]
    if len(suffixes) > _MAX_SUFFIXES:
        rare = sorted(suffixes, key=lambda kind: -len(paths[kind]))[_MAX_SUFFIXES - 1 :]
        merged = [path for kind in rare for path in paths.pop(kind)]
        paths[f"file{{s}} with {len(rare):,} other suffixes"] = merged
    phrases = []
    for kind, found in paths.items():
        names = ", ".join(map(str, found[:max_listed])) + (", …" if len(found) > max_listed else "")
        command = next((unread[suffix] for suffix in unread if kind.endswith(suffix)), "")
        advice = f"; to read them, {command}" if command else ""
        phrases.append(f"{len(found):,} {kind.format(s='s' if len(found) > 1 else '')} ({names}{advice})")
    return phrases


def spellings(texts: Iterable[str]) -> list[list[str]]:
    r"""Return the texts that `read_label` makes one name of, a list for each name with more than one.

    Example:
        >>> spellings(["mug", "cup", "mug ", "cup"])
        [['mug', 'mug ']]
    """
    return _groups(dict.fromkeys(texts), read_label)


def name_notes(source: Source, max_listed: int = 3) -> list[str]:
    r"""Return phrases about names that are one class, or look alike, about folders named as splits, and the notes.

    Example:
        >>> name_notes(Source(ImageTable.from_classes([Path("a.jpg"), Path("b.jpg")], ["Mug", "mug"])))
        ["classes whose names differ only in case, spaces or invisible characters: 'Mug' and 'mug'"]
    """
    names = source.table.class_names
    kinds = {
        "names that differ only in outer spaces or in forms of Unicode, and are one class": source.spellings,
        "classes whose names differ only in case, spaces or invisible characters": _groups(names, _skeleton),
        "classes whose names differ only in the folder of a split, so that one may be trained on and the other scored "
        "as unseen; if they are the same, use one of the folders": _groups(names, _without_split),
    }
    phrases = []
    for kind, groups in kinds.items():
        shown = [" and ".join(map(_visible, group[:max_listed])) for group in groups[:max_listed]]
        more = f" and {len(groups) - max_listed:,} more" if len(groups) > max_listed else ""
        phrases += [f"{kind}: {', '.join(shown)}{more}"] if groups else []
    if source.split_of_class is None and (folders := _split_folders(names)):
        phrases.append(
            f"the folders {', '.join(folders)} are taken for parts of the names of classes, not for splits: to score "
            f"on the classes of one, choose {folders[-1]}/* as test classes, or name the splits in a CSV file"
        )
    return [*phrases, *source.notes]


def _split_folders(names: Sequence[str]) -> list[str]:
    """Return the first folders of classes if all are named as splits, and have no class in common.

    Example:
        >>> _split_folders(["test/pot", "train/mug", "train/cup"]), _split_folders(["test/mug", "train/mug"])
        (['train', 'test'], [])
    """
    folders = sorted({name.partition("/")[0] for name in names}, key=lambda name: _SPLIT_ORDER.find(name[:2].lower()))
    are_splits = len(folders) > 1 and all(folder.lower() in _SPLIT_FOLDERS for folder in folders)
    own = {_without_split(name) for name in names}
    return folders if are_splits and len(own) == len(names) else []


def _groups(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """Return the names that have one key, a list for each key with more than one."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return [group for group in found.values() if len(group) > 1]


def _without_split(name: str) -> str:
    """Return a name without folders such as ``train`` and ``test``."""
    parts = name.split("/")
    return "/".join(part for part in parts if part.lower() not in _SPLIT_FOLDERS) or name


def _skeleton(name: str) -> str:
    """Return a name without what a reader does not see: case, spaces, underscores, invisible characters."""
    letters = unicodedata.normalize("NFKC", name).casefold()
    return "".join(x for x in letters if not (x.isspace() or x == "_" or unicodedata.category(x) in {"Cf", "Cc"}))


def _visible(name: str) -> str:
    """Return a name in quotes, with escapes for what cannot be seen; a long one is cut off."""
    name = name if len(name) <= _LONG else f"{name[: _LONG - 1]}…"
    return repr(name) if name == unicodedata.normalize("NFC", name) else ascii(name)


def listed_names(names: Sequence[str], most: int) -> str:
    """Return the first names of classes, and how many there are more; long names are cut off.

    Example:
        >>> listed_names(["mug", "m" * 70, "cup"], most=2)
        'mug, mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm… and 1 more'
    """
    shown = [printable(name if len(name) <= _LONG else f"{name[: _LONG - 1]}…") for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def check_distinct(images: Iterable[tuple[Hashable, object, str]], advice: str) -> None:
    """Check that no image is listed twice, as it would be its own nearest neighbor.

    Args:
        images: Key, name, and file and line of each image.
        advice: What to do about duplicates.
    """
    first: dict[Hashable, str] = {}
    for key, name, where in images:
        other = first.setdefault(key, where)
        if other != where:
            raise ValueError(f"{where}: {name} is listed before ({other}); {advice}")


def check_one_split(images: Iterable[tuple[Hashable, object, SplitName | None, str]], advice: str) -> None:
    """Check that no class is in two splits, as test classes must not be seen in training.

    Args:
        images: Class, its name, its split, and file and line of each image.
        advice: What to do about classes in two splits.
    """
    first: dict[Hashable, tuple[SplitName | None, str]] = {}
    for class_id, name, split, where in images:
        other, place = first.setdefault(class_id, (split, where))
        if other != split:
            raise ValueError(f"{where}: class {name} is in {split}, but in {other} before ({place}); {advice}")

"""The pictures of some data, found by a folder, a CSV file, a pattern or the name of a set of images."""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ccpml.artifacts import artifact_kind, dead_link, expand_home, not_found, path_kind, plain_path
from ccpml.data.images.formats import image_suffixes, unread_suffixes
from ccpml.data.images.packed import PackedImage
from ccpml.data.loading import read_source
from ccpml.data.sources.folder import load_folder
from ccpml.data.sources.source import Ignored, Source, count_ignored, read_label
from ccpml.data_name import DATA_KINDS, DataName, known_names
from ccpml.numbers import counted
from ccpml.serving.csv_pictures import read_csv_pictures
from ccpml.serving.items import Picture
from ccpml.system_errors import unreadable

__all__ = ["Pictures", "PicturesNotFoundError", "find_pictures", "is_lost", "is_pattern", "source_name"]

_MAGIC: Final = re.compile(r"[*?\[]")

_ESCAPED: Final = re.compile(r"\[([*?\[])\]")
"""A character of patterns that stands for itself, as `glob.escape` writes it."""


class PicturesNotFoundError(ValueError):
    """There is nothing where pictures were looked for."""


@dataclass(frozen=True)
class Pictures:
    """Pictures that were found together.

    Attributes:
        source: Where they were found: the name of the data with an absolute path, such as ``folder:/data/photos``.
        pictures: The pictures; none has been read.
        ignored: Files that are not used.
        notes: Sentences about what is unusual.
    """

    source: str
    pictures: Sequence[Picture]
    ignored: Sequence[Ignored] = ()
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.pictures)

    def outside(self, folder: Path) -> "Pictures":
        """Return the same without what is in a folder, such as the files of an index in the folder it is made of."""
        own, places = folder.resolve(), dict[Path, Path]()
        kind, _, root = self.source.partition(":")
        base = Path(root) if kind == "folder" else Path.cwd()  # of the ignored files

        def is_outside(path: Path) -> bool:
            if path.parent not in places:
                places[path.parent] = Path(os.path.realpath(path.parent))
            place = places[path.parent]
            return not (place == own or own in place.parents or (path.name == own.name and place == own.parent))

        return replace(
            self,
            pictures=[one for one in self if is_outside(one.file)],
            ignored=[one for one in self.ignored if is_outside(base / one.path)],
        )


def find_pictures(data: str, data_root: Path | str | None = None) -> Pictures:
    """Find the pictures of some data; none is read.

    Args:
        data: A folder or ``folder:<path>``, whose subfolders name the labels; a CSV file or ``csv:<file>`` with a
            column ``path``, perhaps ``label``, and metadata in all others; an image file; a pattern such as
            ``photos/**/*.jpg``; or the name of a set of images, such as ``groceries``.
        data_root: Folder of the benchmarks; see `load_source`.

    Raises:
        PicturesNotFoundError: If there is nothing of that name.
        ValueError: If there are no pictures in it.

    Example:
        >>> found = find_pictures("groceries")
        >>> found.source, len(found), found.pictures[0].label
        ('groceries', 1944, 'Fruit/Lemon')
    """
    path = expand_home(data, "data")
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path, data)
    if DataName.is_valid(data):
        name = DataName.parse(data)
        if name.kind == "folder":
            return _folder(expand_home(name.path))
        if name.kind == "csv":
            return _csv(expand_home(name.path))
        source = read_source(data, data_root)
        return Pictures(str(name.resolved()), _pictures(source), source.ignored)
    if _MAGIC.search(data):
        return _pattern(str(path), data)
    if data.partition(":")[0] in DATA_KINDS:
        DataName.parse(data)  # raises what is wrong
    raise _no_pictures(path, data)


def _no_pictures(path: Path, data: str) -> PicturesNotFoundError:
    found, expected = artifact_kind(path), f"expected a folder, an image, a CSV file, a pattern, {known_names()}"
    return PicturesNotFoundError(f"{data}: {expected}; got {found}" if found else f"{data}: not found; {expected}")


def source_name(kind: str, path: Path) -> str:
    """Return the name of a folder or CSV file as a source: where it was given, as its pictures are named.

    A link is not resolved: one that is switched to the next release stays the same source.
    """
    return f"{kind}:{plain_path(path)}"


def is_pattern(data: str) -> bool:
    """Whether data are the images that a pattern matches, one image among them, whether or not they are there.

    Example:
        >>> is_pattern("photos/*.jpg"), is_pattern("mug.jpg"), is_pattern("photos"), is_pattern("groceries")
        (True, True, False, False)
    """
    named = DataName.is_valid(data) or data.partition(":")[0] in DATA_KINDS
    return not named and bool(_MAGIC.search(data) or Path(data).suffix.lower() in image_suffixes())


def is_lost(source: str) -> bool:
    """Whether the folder, CSV file or folder of a pattern of a `Pictures.source` is no longer there.

    Example:
        >>> is_lost("folder:/no/such"), is_lost("glob:/no/such/*.jpg"), is_lost("folder:/"), is_lost("groceries")
        (True, True, False, False)
    """
    kind, _, path = source.partition(":")
    if kind not in {"folder", "csv", "glob"}:
        return False
    place = _split(path)[0] if kind == "glob" else Path(path)
    try:
        return not path_kind(place)
    except OSError:  # a folder above it is closed
        return False


def _folder(path: Path) -> Pictures:
    source = load_folder(path, labeled=False)
    return Pictures(source_name("folder", path), _pictures(source), source.ignored)


def _file(path: Path, data: str) -> Pictures:
    if path.suffix.lower() == ".csv":
        return _csv(path)
    if path.suffix.lower() in {*image_suffixes(), *unread_suffixes()}:
        return _pattern(glob.escape(str(path)), data)
    raise _no_pictures(path, data)


def _csv(path: Path) -> Pictures:
    pictures, notes = read_csv_pictures(path)
    return Pictures(source_name("csv", path), pictures, notes=notes)


def _pictures(source: Source) -> list[Picture]:
    table = source.table
    labels = [table.class_names[label] for label in table.labels.tolist()]
    found = []
    for row, label in enumerate(labels):
        image = table.images[row]
        if isinstance(image, PackedImage):
            image = image.path
        if isinstance(image, Path):
            found.append(Picture(image, label))
        else:
            found.append(Picture(Path(table.name_of(row)), label, image=image))
    return found


def _is_magic(part: str) -> bool:
    """Whether a part of a pattern stands for more than one name."""
    return bool(_MAGIC.search(_ESCAPED.sub("", part)))


def _split(pattern: str) -> tuple[Path, Sequence[str]]:
    """Return the folder above all that is a pattern, or above the name of a file, and the parts below it."""
    parts = Path(pattern).parts
    fixed = next((number for number, part in enumerate(parts[:-1]) if _is_magic(part)), len(parts) - 1)
    return Path(*(_ESCAPED.sub(r"\1", part) for part in parts[:fixed])), parts[fixed:]


def _matches(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield what the parts of a pattern match below a folder, some perhaps twice; hidden names only if asked for.

    ``**`` stands for any folders, but does not go round a loop of links. Unlike those of `glob`, folders that cannot be
    listed are errors: what is in them would seem to be gone.

    Raises:
        OSError: If the system does not say what is in a folder.
    """
    if not parts:
        yield folder
    elif parts[0] == "**":
        for each in _folders(folder, ()):
            yield from _matches(each, parts[1:] or ("*",))
    elif _is_magic(parts[0]):
        for name in fnmatch.filter((entry.name for entry in _entries(folder)), parts[0]):
            if parts[0].startswith(".") or not name.startswith("."):
                yield from _matches(folder / name, parts[1:])
    elif path_kind(place := folder / _ESCAPED.sub(r"\1", parts[0])):
        yield from _matches(place, parts[1:])


def _folders(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """Yield a folder and those below it; ``above`` are the real paths of those through which it was reached."""
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():
        return
    yield folder
    others = (entry for entry in _entries(folder) if not entry.is_file(follow_symlinks=False))  # folders and links
    for name in sorted(entry.name for entry in others if not entry.name.startswith(".")):
        yield from _folders(folder / name, (*above, real))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, in any order; nothing if it is none."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return list(entries)


def _brackets(pattern: str) -> str:
    """Return how to write the name of a folder that looks like a part of a pattern, as the end of a sentence."""
    parts = Path(pattern).parts
    for number, part in enumerate(parts):
        if _is_magic(part) and path_kind(Path(*parts[: number + 1])) == "a folder":
            return f"; for the folder {part} write {glob.escape(part)}"
    return ""


def _pattern(pattern: str, data: str) -> Pictures:
    """Return the images that a pattern matches; labels are folders below the last one that is not a pattern."""
    (root, parts), suffixes = _split(pattern), image_suffixes()
    if not path_kind(root):
        raise PicturesNotFoundError(f"{data}: {root}: {not_found(root, 'folder')}; expected the folder of the pattern")
    try:
        matches = {*_matches(root, parts)}
        if ".." in parts:  # by which a file has several names
            root, matches = plain_path(root), {plain_path(each) for each in matches}
        files = sorted(file for file in matches if file.is_file())
    except OSError as error:
        place = Path(error.filename)
        closed = place if os.path.lexists(place) else place.parent  # a folder that does not say what is in it
        raise ValueError(f"{data}: {unreadable(closed, error, 'check the disk')}") from error
    images = [file for file in files if file.suffix.lower() in suffixes]
    ignored = [
        Ignored(file, f"file{{s}} with suffix {file.suffix.lower()}" if file.suffix else "file{s} without suffix")
        for file in files
        if file.suffix.lower() not in suffixes
    ]
    others = sorted(matches - {*files})
    ignored += [Ignored(place, "broken link{s}") for place in others if dead_link(place) == place]
    if not images:
        got = "; ".join([*count_ignored(ignored), counted(sum(place.is_dir() for place in others), "folder")])
        raise PicturesNotFoundError(
            f"{data}: no images found; expected files with suffix {' '.join(sorted(suffixes))}, got {got}"
            f"{'; a pattern for the files in folders ends in /*' if _MAGIC.search(pattern) else ''}{_brackets(pattern)}"
        )
    folders = [file.parent if file.is_relative_to(root) else root for file in images]
    labels = [read_label(folder.relative_to(root).as_posix()) for folder in folders]
    pictures = [Picture(file, "" if label == "." else label) for file, label in zip(images, labels, strict=True)]
    return Pictures(f"glob:{plain_path(Path(pattern))}", pictures, ignored)

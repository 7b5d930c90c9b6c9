"""A folder of images in which each subfolder is a class."""

from dataclasses import dataclass, field
from pathlib import Path

from ccpml.artifacts import artifact_kind, expand_home, not_found, output_kind
from ccpml.data.images.formats import image_suffixes
from ccpml.data.sources.source import Ignored, Source, SourceNotFoundError, count_ignored, read_label, spellings
from ccpml.data.table import ImageTable
from ccpml.numbers import check_flags
from ccpml.progress import PATIENCE, printable, progress_bar
from ccpml.system_errors import advice

__all__ = ["load_folder"]


@dataclass
class _Contents:
    """The files below a folder: images by the folder that holds them, and what is ignored."""

    images: dict[Path, list[Path]] = field(default_factory=dict)
    ignored: list[Ignored] = field(default_factory=list)


def load_folder(path: Path | str, labeled: bool = True) -> Source:
    """Load a folder: each subfolder that holds images is a class, named by its path relative to the root.

    Classes are ordered by path and images by name. Names that Unicode writes in several ways are one class, and listed
    in the result. Hidden files and folders are skipped. Files without an image suffix, broken links, folders without
    images, and runs, indexes, benchmarks and studies with all that is in them are ignored, and listed too. Symbolic
    links to folders are followed, and each real folder is read once.

    Args:
        path: Root folder.
        labeled: Whether images in the root itself are an error; if not, the name of their class is empty.

    Raises:
        ValueError: If the folder does not exist, cannot be read, holds no images, has images in the root itself, or is
            a run, index, benchmark or study.
    """
    check_flags(labeled=labeled)
    root = expand_home(path)
    if not root.is_dir():
        raise SourceNotFoundError(f"{root}: {not_found(root, 'folder')}", "restore it, or choose another path")
    found = _read(root)
    if not found.images:
        suffixes = " ".join(sorted(image_suffixes()))
        got = "; ".join(count_ignored(found.ignored)) or "an empty folder"
        raise SourceNotFoundError(f"{root}: no images found; expected files with suffix {suffixes}, got {got}")
    if labeled and root in found.images:
        raise ValueError(
            f"{root}: expected images in subfolders, one for each class, got {found.images[root][0].name} in the "
            "folder itself; move it into a subfolder named after its class"
        )
    paths = {each: each.relative_to(root).as_posix() for each in found.images if each != root}
    names = {root: ""} | {each: read_label(path) for each, path in paths.items()}
    folders = sorted(found.images, key=lambda folder: (names[folder].split("/"), folder))
    images = [image for folder in folders for image in found.images[folder]]
    classes = [names[folder] for folder in folders for _ in found.images[folder]]
    table = ImageTable.from_classes(images, classes, name=root.name)
    return Source(table, folder=root, ignored=found.ignored, spellings=spellings(sorted(paths.values())))


def _read(root: Path) -> _Contents:
    """Read all folders below a root; real folders come first, so that a link never names one."""
    found, suffixes = _Contents(), image_suffixes()
    folders, links, seen, visited = [root], list[Path](), set[Path](), list[Path]()
    bar = progress_bar(None, "file", f"listing {printable(root.name)}", delay=PATIENCE)
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        if real in seen:
            if folder.is_symlink() and real not in (top := root.resolve(), *top.parents):
                found.ignored.append(Ignored(folder.relative_to(root), "link{s} to a folder that is read already"))
            continue
        seen.add(real)
        images = []
        try:
            entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
            if kind := output_kind([entry.name for entry in entries]):
                if folder == root:
                    raise ValueError(f"{root}: expected a folder of images, got {artifact_kind(root)}")
                found.ignored.append(Ignored(folder.relative_to(root), f"folder{{s}} of {kind}"))
                continue
            visited.append(folder)
            for entry in entries:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry)
                elif entry.suffix.lower() in suffixes and entry.is_file():
                    images.append(entry)
                else:
                    found.ignored.append(Ignored(entry.relative_to(root), _reason(entry)))
        except OSError as error:  # the folder, or what is in it, is closed
            raise ValueError(f"{folder}: folder cannot be read ({error.strerror or error}){advice(error)}") from error
        bar.update(len(images))
        if images:
            found.images[folder] = images
    bar.close()
    parents = {parent for folder in found.images for parent in (folder, *folder.parents)}
    parents |= {folder.parent for folder in visited}
    empty = [folder.relative_to(root) for folder in visited if folder not in {root, *parents}]
    found.ignored += [Ignored(folder, "folder{s} without images") for folder in empty]
    return found


def _reason(entry: Path) -> str:
    """Return why a file is ignored; see `Ignored`."""
    if not entry.exists():
        return "broken link{s}"
    if not entry.is_file():
        return "special file{s}"
    return f"file{{s}} with suffix {entry.suffix.lower()}" if entry.suffix else "file{s} without suffix"

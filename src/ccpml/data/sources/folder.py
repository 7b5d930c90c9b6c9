"""A folder of images in which each subfolder is a class."""

from collections.abc import Iterator
from pathlib import Path

from ccpml.data.sources.source import IMAGE_SUFFIXES, Source
from ccpml.data.table import ImageTable

__all__ = ["load_folder"]


def load_folder(path: Path | str) -> Source:
    """Load a folder: each subfolder that holds images is a class, named by its path relative to the root.

    Classes are ordered by path and images by name. Hidden files, hidden folders and files without an image suffix are
    ignored. Symbolic links to folders are followed, and each real folder is read once.

    Args:
        path: Root folder.

    Raises:
        ValueError: If the folder does not exist, holds no images, or has images in the root itself.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root}: folder not found")
    found = dict(_folders_with_images(root))
    if not found:
        raise ValueError(f"{root}: no images found; expected files with suffix {' '.join(sorted(IMAGE_SUFFIXES))}")
    if root in found:
        raise ValueError(
            f"{root}: expected images in subfolders, one for each class, got {found[root][0].name} in the folder "
            "itself; move it into a subfolder named after its class"
        )
    folders = sorted(found, key=lambda folder: folder.relative_to(root).parts)
    images = [image for folder in folders for image in found[folder]]
    classes = [folder.relative_to(root).as_posix() for folder in folders for _ in found[folder]]
    return Source(ImageTable.from_classes(images, classes, name=root.name), folder=root)


def _folders_with_images(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder that holds images, and the images. Real folders come first, so that a link never names one."""
    folders, links, seen = [root], list[Path](), set[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        for entry in entries:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
        images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
        if images:
            yield folder, images

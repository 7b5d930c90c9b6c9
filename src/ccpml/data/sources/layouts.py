"""Index files of CUB-200-2011, Stanford Online Products and In-Shop, as their archives unpack.

Each reader raises a ``ValueError`` that names the line if an index file is invalid.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from ccpml.data.sources.image_index import ImageIndex, IndexedImage, Line, positive_int, read_lines, relative_path
from ccpml.data.sources.source import SplitName

__all__ = ["missing_numbers", "read_cub", "read_inshop", "read_sop", "split_by_number"]

MAX_LISTED: Final = 5

_INSHOP_PARTS: Final[dict[str, tuple[SplitName, str]]] = {
    "train": ("train", ""),
    "query": ("test", "query"),
    "gallery": ("test", "gallery"),
}


def read_cub(folder: Path) -> ImageIndex:
    """Read CUB-200-2011: ``images.txt``, ``image_class_labels.txt``, ``images/``, and ``classes.txt`` if it exists.

    Classes 1 to 100 are for training, 101 to 200 for testing.
    """
    paths = _numbered(folder / "images.txt", "image id", "path")
    class_of = _numbered(folder / "image_class_labels.txt", "image id", "class id")
    for image, line in {**class_of, **paths}.items():
        if image not in paths or image not in class_of:
            other = "image_class_labels.txt" if image in paths else "images.txt"
            raise ValueError(f"{line.where}: image {image} not found in {folder / other}; unpack the archive again")
    ids = {image: positive_int(line.text, "class id", line.where) for image, line in class_of.items()}
    index_files = [folder / "images.txt", folder / "image_class_labels.txt"]
    names: dict[int, str] = {}
    if (folder / "classes.txt").is_file():
        index_files.append(folder / "classes.txt")
        names = {number: line.text for number, line in _numbered(index_files[-1], "class id", "name").items()}
    split = split_by_number(names.keys() | ids.values(), 100)
    images = []
    for image, line in paths.items():
        path, class_id = relative_path(line.text, line.where), ids[image]
        name = names.get(class_id) or (path.parent.name or str(class_id))
        number, dot, _ = path.parent.name.partition(".")
        if dot and number.isascii() and number.isdigit() and int(number) != class_id:
            raise ValueError(
                f"{line.where}: {path} has class {int(number)} by its folder but class {class_id} by "
                f"{class_of[image].where}; unpack the archive again"
            )
        images.append(IndexedImage("images" / path, class_id, name, split(class_id), "", line.where))
    gaps = missing_numbers(paths, "image id", index_files[0])
    return ImageIndex(images, folder, [folder / "images"], index_files, gaps)


def read_sop(folder: Path) -> ImageIndex:
    """Read Stanford Online Products: ``Ebay_train.txt`` and ``Ebay_test.txt``, and a folder for each super-class."""
    images: list[IndexedImage] = []
    numbers: dict[int, str] = {}
    names: dict[int, str] = {}
    index_files: dict[SplitName, Path] = {"train": folder / "Ebay_train.txt", "test": folder / "Ebay_test.txt"}
    for split, file in index_files.items():
        for number, line in enumerate(read_lines(file)):
            fields = line.text.split(maxsplit=3)
            if number == 0 and fields[:1] == ["image_id"]:
                continue
            if len(fields) != 4:
                raise ValueError(f"{line.where}: expected image_id class_id super_class_id path, got {line.text!r}")
            image = positive_int(fields[0], "image id", line.where)
            _check_new(numbers, image, line.where)
            class_id = positive_int(fields[1], "class id", line.where)
            path = relative_path(fields[3], line.where)
            name = names.setdefault(class_id, f"{path.parent.name.removesuffix('_final') or 'product'}/{class_id}")
            images.append(IndexedImage(path, class_id, name, split, "", line.where))
    kinds = {folder / image.path.parts[0] for image in images if len(image.path.parts) > 1}
    kinds |= {place for place in folder.glob("*_final") if place.is_dir()}
    files = list(index_files.values())
    return ImageIndex(images, folder, sorted(kinds), files, missing_numbers(numbers, "image id", *files))


def read_inshop(folder: Path) -> ImageIndex:
    """Read In-Shop Clothes Retrieval: ``Eval/list_eval_partition.txt``, and images below ``Img/`` or ``img/``."""
    file = folder / "Eval" / "list_eval_partition.txt"
    images: list[IndexedImage] = []
    count: int | None = None
    for number, line in enumerate(read_lines(file)):
        fields = line.text.rsplit(maxsplit=2)
        if number == 0 and len(fields) == 1:
            count = positive_int(line.text, "number of images", line.where)
        elif number <= 1 and fields[0] == "image_name":
            continue
        elif len(fields) != 3 or fields[2] not in _INSHOP_PARTS:
            raise ValueError(
                f"{line.where}: expected image_name item_id evaluation_status (train, query or gallery), "
                f"got {line.text!r}"
            )
        else:
            split, role = _INSHOP_PARTS[fields[2]]
            path, item = relative_path(fields[0], line.where), fields[1]
            if path.parent.name.startswith("id_") and path.parent.name != item:
                raise ValueError(f"{line.where}: {path}: expected item {path.parent.name}, got {item}")
            images.append(IndexedImage(path, item, item, split, role, line.where))
    gaps = (
        []
        if count in {None, len(images)}
        else [f"{file}: expected {count:,} images, as its first line states, got {len(images):,}"]
    )
    base, images = _inshop_base(folder, images)
    archives = [place / "img.zip" for place in (folder, folder / "Img") if (place / "img.zip").is_file()]
    if archives and not any((base / image.path).is_file() for image in images):
        gaps.append(f"{archives[0]} is not unpacked")
    folders = [base / part for part in sorted({image.path.parts[0] for image in images})]
    return ImageIndex(images, base, folders, [file], gaps)


def _inshop_base(folder: Path, images: list[IndexedImage]) -> tuple[Path, list[IndexedImage]]:
    """Return the folder to which paths are relative: ``img.zip`` may be unpacked in ``Img/``, beside it, or as it."""
    without = []
    for image in images:
        top, *rest = image.path.parts
        without.append(image._replace(path=PurePosixPath(*rest)) if top == "img" and len(rest) > 1 else image)
    bases = [(folder / "Img", images), (folder, images)]
    bases += [(folder / place, without) for place in ("Img", "Img/img", "img/img")]
    for base, named in bases:
        if base.is_dir() and any((base / image.path).is_file() for image in named):
            return base, named
    return bases[0] if (folder / "Img").is_dir() else bases[1]


def split_by_number(class_ids: Iterable[int], last: int) -> Callable[[int], SplitName]:
    """Return the published split as a function of the class number: train up to ``last``, test above.

    If all classes lie on one side of ``last``, the first half of them is for training.
    """
    ids = sorted(class_ids)
    if not ids or not ids[0] <= last < ids[-1]:
        last = ids[(len(ids) - 1) // 2] if ids else last
    return lambda class_id: "train" if class_id <= last else "test"


def missing_numbers(numbers: Iterable[int], what: str, *files: Path) -> list[str]:
    """Return a description of the positive numbers that are missing below the largest; empty if there are none."""
    present = set(numbers)
    count = max(present, default=0) - len(present)
    if not count:
        return []
    missing = islice((number for number in range(1, max(present)) if number not in present), MAX_LISTED)
    shown = ", ".join(map(str, missing)) + (", …" if count > MAX_LISTED else "")
    return [f"{' and '.join(map(str, files))}: {what} {shown} not found"]


def _numbered(file: Path, what: str, value: str) -> dict[int, Line]:
    """Read lines that hold a number and a value."""
    found: dict[int, Line] = {}
    seen: dict[int, str] = {}
    for line in read_lines(file):
        fields = line.text.split(maxsplit=1)
        if len(fields) != 2:
            raise ValueError(f"{line.where}: expected {what} and {value}, got {line.text!r}")
        number = positive_int(fields[0], what, line.where)
        _check_new(seen, number, line.where)
        found[number] = Line(line.where, fields[1])
    return found


def _check_new(seen: dict[int, str], number: int, where: str) -> None:
    if number in seen:
        raise ValueError(f"{where}: number {number} appears before ({seen[number]}); unpack the archive again")
    seen[number] = where

"""The layouts of CUB-200-2011, Stanford Online Products and In-Shop, as their archives unpack."""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from ccpml.data.sources.listing import Line, Listed, Listing, read_lines, relative_path, whole_number
from ccpml.data.sources.own import SplitName

__all__ = ["first_half", "missing_numbers", "read_cub", "read_inshop", "read_sop"]

_SHOWN: Final = 5


def read_cub(folder: Path) -> Listing:
    """Read CUB-200-2011: ``images.txt``, ``image_class_labels.txt``, ``images/``, and ``classes.txt`` if there.

    The classes 1 to 100 train, 101 to 200 test.

    Raises:
        ValueError: If an index file cannot be used; the message names its line.
    """
    paths = _numbered(folder / "images.txt", "image id", "path")
    class_of = _numbered(folder / "image_class_labels.txt", "image id", "class id")
    for image, line in {**class_of, **paths}.items():
        if image not in paths or image not in class_of:
            other = "image_class_labels.txt" if image in paths else "images.txt"
            raise ValueError(f"{line.where}: image {image} is not in {folder / other}; unpack the archive anew")
    ids = {image: whole_number(line.text, "a class id", line.where) for image, line in class_of.items()}
    index = [folder / "images.txt", folder / "image_class_labels.txt"]
    names: dict[int, str] = {}
    if (folder / "classes.txt").is_file():
        index.append(folder / "classes.txt")
        names = {number: line.text for number, line in _numbered(index[-1], "class id", "name").items()}
    split = first_half(names.keys() | ids.values(), 100)
    images = []
    for image, line in paths.items():
        path, class_id = relative_path(line.text, line.where), ids[image]
        name = names.get(class_id) or (path.parent.name or str(class_id))
        number, dot, _ = path.parent.name.partition(".")
        if dot and number.isascii() and number.isdigit() and int(number) != class_id:
            raise ValueError(
                f"{line.where}: {path} is of class {int(number)} by its folder and of class {class_id} by "
                f"{class_of[image].where}; unpack the archive anew"
            )
        images.append(Listed("images" / path, class_id, name, split(class_id), "", line.where))
    return Listing(images, folder, [folder / "images"], index, missing_numbers(paths, "image id", index[0]))


def read_sop(folder: Path) -> Listing:
    """Read Stanford Online Products: ``Ebay_train.txt`` and ``Ebay_test.txt``, and a folder for each super-class.

    Raises:
        ValueError: If an index file cannot be used; the message names its line.
    """
    images: list[Listed] = []
    numbers: dict[int, str] = {}
    index: dict[SplitName, Path] = {"train": folder / "Ebay_train.txt", "test": folder / "Ebay_test.txt"}
    names: dict[int, str] = {}
    for split, file in index.items():
        for number, line in enumerate(read_lines(file)):
            fields = line.text.split(maxsplit=3)
            if number == 0 and fields[:1] == ["image_id"]:
                continue
            if len(fields) != 4:
                raise ValueError(f"{line.where}: expected image_id class_id super_class_id path, got {line.text!r}")
            image = whole_number(fields[0], "an image id", line.where)
            _require_new(numbers, image, line.where)
            class_id = whole_number(fields[1], "a class id", line.where)
            path = relative_path(fields[3], line.where)
            name = names.setdefault(class_id, f"{path.parent.name.removesuffix('_final') or 'product'}/{class_id}")
            images.append(Listed(path, class_id, name, split, "", line.where))
    kinds = {folder / image.path.parts[0] for image in images if len(image.path.parts) > 1}
    kinds |= {place for place in folder.glob("*_final") if place.is_dir()}
    files = list(index.values())
    return Listing(images, folder, sorted(kinds), files, missing_numbers(numbers, "image id", *files))


_PARTS: Final[dict[str, tuple[SplitName, str]]] = {
    "train": ("train", ""),
    "query": ("test", "query"),
    "gallery": ("test", "gallery"),
}


def read_inshop(folder: Path) -> Listing:
    """Read In-Shop Clothes Retrieval: ``Eval/list_eval_partition.txt``, and the images below ``Img/`` or ``img/``.

    Raises:
        ValueError: If the index file cannot be used; the message names its line.
    """
    file = folder / "Eval" / "list_eval_partition.txt"
    images: list[Listed] = []
    count: int | None = None
    for number, line in enumerate(read_lines(file)):
        fields = line.text.rsplit(maxsplit=2)
        if number == 0 and len(fields) == 1:
            count = whole_number(line.text, "the number of images", line.where)
        elif number <= 1 and fields[0] == "image_name":
            continue
        elif len(fields) != 3 or fields[2] not in _PARTS:
            raise ValueError(
                f"{line.where}: expected image_name item_id evaluation_status (train, query or gallery), "
                f"got {line.text!r}"
            )
        else:
            split, role = _PARTS[fields[2]]
            path, item = relative_path(fields[0], line.where), fields[1]
            if path.parent.name.startswith("id_") and path.parent.name != item:
                raise ValueError(f"{line.where}: {path} is listed as an image of {item}; unpack the archive anew")
            images.append(Listed(path, item, item, split, role, line.where))
    gaps = [] if count in {None, len(images)} else [f"{file} says that it lists {count:,} images"]
    base, images = _inshop_base(folder, images)
    archives = [place / "img.zip" for place in (folder, folder / "Img") if (place / "img.zip").is_file()]
    if archives and not any((base / image.path).is_file() for image in images):
        gaps.append(f"{archives[0]} is not unpacked")
    folders = [base / part for part in sorted({image.path.parts[0] for image in images})]
    return Listing(images, base, folders, [file], gaps)


def _inshop_base(folder: Path, images: list[Listed]) -> tuple[Path, list[Listed]]:
    """Find what the paths are relative to: ``img.zip`` may have been unpacked in ``Img/``, beside it, or as it."""
    without = [
        image._replace(path=PurePosixPath(*image.path.parts[1:]))
        if image.path.parts[0] == "img" and len(image.path.parts) > 2
        else image
        for image in images
    ]
    bases = [(folder / "Img", images), (folder, images), (folder / "Img", without), (folder / "Img" / "img", without)]
    bases += [(folder / "img" / "img", without)]
    for base, named in bases:
        if base.is_dir() and any((base / image.path).is_file() for image in named):
            return base, named
    return bases[0] if (folder / "Img").is_dir() else bases[1]


def first_half(class_ids: Iterable[int], last: int) -> Callable[[int], SplitName]:
    """Give the published split by class number: up to ``last`` train, the others test.

    Of a copy that has classes from one half alone, the first half of those that it has train.
    """
    ids = sorted(class_ids)
    if not ids or not ids[0] <= last < ids[-1]:
        last = ids[(len(ids) - 1) // 2] if ids else last
    return lambda class_id: "train" if class_id <= last else "test"


def missing_numbers(numbers: Iterable[int], what: str, *files: Path) -> list[str]:
    """Say which numbers of 1 or more are left out below the largest."""
    present = set(numbers)
    count = max(present, default=0) - len(present)
    if not count:
        return []
    missing = list(islice((number for number in range(1, max(present)) if number not in present), _SHOWN))
    shown = ", ".join(map(str, missing)) + (", …" if count > _SHOWN else "")
    return [f"{' and '.join(map(str, files))} lack {what} {shown}"]


def _numbered(file: Path, what: str, value: str) -> dict[int, Line]:
    """Read lines of a number and a value."""
    found: dict[int, Line] = {}
    wheres: dict[int, str] = {}
    for line in read_lines(file):
        fields = line.text.split(maxsplit=1)
        if len(fields) != 2:
            raise ValueError(f"{line.where}: expected {what} and {value}, got {line.text!r}")
        number = whole_number(fields[0], f"the {what}", line.where)
        _require_new(wheres, number, line.where)
        found[number] = Line(line.where, fields[1])
    return found


def _require_new(seen: dict[int, str], number: int, where: str) -> None:
    if number in seen:
        raise ValueError(f"{where}: {number} is there before ({seen[number]}); unpack the archive anew")
    seen[number] = where

"""The layouts of Cars196: one ``cars_annos.mat`` with ``car_ims/``, or the devkit with two folders of images."""

import warnings
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from ccpml.data.sources.layouts import first_half, missing_numbers
from ccpml.data.sources.listing import Listed, Listing, relative_path

__all__ = ["read_cars196"]

_LABELLED: Final = "cars_test_annos_withlabels.mat"


def read_cars196(folder: Path) -> Listing:
    """Read Cars196; the classes 1 to 98 train, 99 to 196 test, whichever of its own two parts an image is in.

    Raises:
        ValueError: If an index file cannot be used; the message names it, and the entry.
    """
    single, devkit = (folder / "cars_annos.mat").is_file(), (folder / "devkit" / "cars_train_annos.mat").is_file()
    if single and devkit:  # both indexes: that of the images which are there
        single = (folder / "car_ims").is_dir()
    return _single(folder) if single else _devkit(folder)


def _single(folder: Path) -> Listing:
    file = folder / "cars_annos.mat"
    content = _load(file)
    found = []
    for number, entry in enumerate(_entries(content, file), 1):
        where = f"{file}, annotation {number}"
        name = _text(entry, ("relative_im_path", "fname"), where)
        path = relative_path(name, where)
        found.append((path if len(path.parts) > 1 else "car_ims" / path, _class_id(entry, where), where))
    numbers = [int(path.stem) for path, _, _ in found if _numbered(path)]
    names = _names(content.get("class_names"))
    gaps = missing_numbers(numbers, "image number", file)
    return _listing(found, names, folder, [folder / "car_ims"], [file], gaps)


def _devkit(folder: Path) -> Listing:
    devkit = folder / "devkit"
    train = devkit / "cars_train_annos.mat"
    places = [devkit / _LABELLED, folder / _LABELLED]
    test = next((place for place in places if place.is_file()), None)
    for file in (train, *([] if test else places[:1])):
        if not file.is_file():
            raise ValueError(
                f"{file}: this file of the benchmark is missing; there should be cars_annos.mat and car_ims/, or "
                f"cars_train/, cars_test/, devkit/ and {_LABELLED}"
            )
    assert test is not None
    found, folders, gaps = [], [], list[str]()
    for file, part in ((train, "cars_train"), (test, "cars_test")):
        nested = PurePosixPath(part, part) if (folder / part / part).is_dir() else PurePosixPath(part)
        folders.append(folder / nested)
        numbers = []
        for number, entry in enumerate(_entries(_load(file), file), 1):
            where = f"{file}, annotation {number}"
            path = nested / relative_path(_text(entry, ("fname", "relative_im_path"), where), where)
            found.append((path, _class_id(entry, where), where))
            numbers += [int(path.stem)] if _numbered(path) else []
        gaps += missing_numbers(numbers, "image number", file)
    meta = devkit / "cars_meta.mat"
    names = _names(_load(meta).get("class_names")) if meta.is_file() else []
    return _listing(found, names, folder, folders, [train, test, *([meta] if names else [])], gaps)


def _numbered(path: PurePosixPath) -> bool:
    return path.stem.isascii() and path.stem.isdigit()


def _listing(
    found: list[tuple[PurePosixPath, int, str]],
    names: list[str],
    folder: Path,
    folders: list[Path],
    index: list[Path],
    gaps: list[str],
) -> Listing:
    split = first_half({class_id for _, class_id, _ in found} | set(range(1, len(names) + 1)), 98)
    images = []
    for path, class_id, where in sorted(found, key=lambda image: image[1]):
        name = names[class_id - 1] if class_id <= len(names) else f"class {class_id}"
        images.append(Listed(path, class_id, name, split(class_id), "", where))
    return Listing(images, folder, folders, index, gaps)


def _load(file: Path) -> dict[str, Any]:
    """Read a MATLAB file; it holds arrays and structs of arrays, and nothing that runs."""
    from scipy.io import loadmat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there twice
            content: dict[str, Any] = loadmat(file, squeeze_me=True)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever damaged bytes make of it
        raise ValueError(f"{file}: not a MATLAB file of version 5, or damaged; unpack the archive anew") from error
    return content


def _entries(content: dict[str, Any], file: Path) -> list[Any]:
    annotations = content.get("annotations")
    entries = [] if annotations is None else list(np.atleast_1d(annotations))
    if not entries or any(not getattr(entry.dtype, "names", None) for entry in entries):
        raise ValueError(f"{file}: holds no annotations; unpack the archive anew")
    return entries


def _text(entry: Any, fields: tuple[str, ...], where: str) -> str:
    for field in fields:
        if field in entry.dtype.names:
            return str(np.squeeze(entry[field])).strip()
    raise ValueError(f"{where}: no {fields[0]}; unpack the archive anew")


def _class_id(entry: Any, where: str) -> int:
    value = np.squeeze(entry["class"]) if "class" in entry.dtype.names else np.array([])
    if value.size != 1 or not np.issubdtype(np.asarray(value.item()).dtype, np.number) or value.item() < 1:
        raise ValueError(f"{where}: no class; the test images need {_LABELLED}")
    return int(value.item())


def _names(values: Any) -> list[str]:
    """Give the names of the classes, each once: two that are the same are told apart by their number."""
    names = [] if values is None else [str(np.squeeze(value)).strip() for value in np.atleast_1d(values)]
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]

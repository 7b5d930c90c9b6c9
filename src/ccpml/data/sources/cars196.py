"""Index files of Cars196: ``cars_annos.mat`` with ``car_ims/``, or the devkit with two image folders."""

import warnings
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from ccpml.data.sources.image_index import ImageIndex, IndexedImage, relative_path
from ccpml.data.sources.layouts import missing_numbers, split_by_number
from ccpml.system_errors import advice, raise_shortage

__all__ = ["read_cars196"]

_TEST_LABELS: Final = "cars_test_annos_withlabels.mat"
_PATH_FIELDS: Final = ("relative_im_path", "fname")
_Annotation = tuple[PurePosixPath, int, str]


def read_cars196(folder: Path) -> ImageIndex:
    """Read Cars196: classes 1 to 98 are for training, 99 to 196 for testing, in either layout.

    Cars196's own two parts do not matter: they cut each class in two. An invalid index file raises a ``ValueError``
    that names the file and the entry.
    """
    single, devkit = (folder / "cars_annos.mat").is_file(), (folder / "devkit" / "cars_train_annos.mat").is_file()
    if single and devkit:  # use the index whose images exist
        single = (folder / "car_ims").is_dir()
    return _read_single(folder) if single else _read_devkit(folder)


def _read_single(folder: Path) -> ImageIndex:
    file = folder / "cars_annos.mat"
    content = _load(file)
    found = [
        (path if len(path.parts) > 1 else "car_ims" / path, class_id, where)
        for path, class_id, where in _annotations(file, content)
    ]
    return _index(found, _names(content.get("class_names")), folder, [folder / "car_ims"], [file], _gaps(found, file))


def _read_devkit(folder: Path) -> ImageIndex:
    devkit = folder / "devkit"
    train, meta = devkit / "cars_train_annos.mat", devkit / "cars_meta.mat"
    places = (devkit / _TEST_LABELS, folder / _TEST_LABELS)
    test = next((place for place in places if place.is_file()), places[0])
    for file in (train, test):
        if not file.is_file():
            raise ValueError(
                f"{file}: index file not found; expected cars_annos.mat and car_ims/, or cars_train/, cars_test/, "
                f"devkit/ and {_TEST_LABELS}"
            )
    found, folders, gaps = list[_Annotation](), list[Path](), list[str]()
    for file, part in ((train, "cars_train"), (test, "cars_test")):
        nested = PurePosixPath(part, part) if (folder / part / part).is_dir() else PurePosixPath(part)
        annotations = _annotations(file, _load(file))
        found += [(nested / path, class_id, where) for path, class_id, where in annotations]
        folders.append(folder / nested)
        gaps += _gaps(annotations, file)
    names = _names(_load(meta).get("class_names")) if meta.is_file() else []
    return _index(found, names, folder, folders, [train, test, *([meta] if names else [])], gaps)


def _gaps(annotations: list[_Annotation], file: Path) -> list[str]:
    """Describe the missing numbers of image files that are named by a number."""
    stems = [path.stem for path, _, _ in annotations]
    return missing_numbers([int(stem) for stem in stems if stem.isascii() and stem.isdigit()], "image number", file)


def _index(
    found: list[_Annotation], names: list[str], folder: Path, folders: list[Path], files: list[Path], gaps: list[str]
) -> ImageIndex:
    split = split_by_number({class_id for _, class_id, _ in found} | set(range(1, len(names) + 1)), 98)
    images = []
    for path, class_id, where in sorted(found, key=lambda image: image[1]):
        name = names[class_id - 1] if class_id <= len(names) else f"class {class_id}"
        images.append(IndexedImage(path, class_id, name, split(class_id), "", where))
    return ImageIndex(images, folder, folders, files, gaps)


def _load(file: Path) -> dict[str, Any]:
    """Read a MATLAB file: arrays and structs of arrays, no code."""
    from scipy.io import loadmat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about duplicate variable names
            content: dict[str, Any] = loadmat(file, squeeze_me=True)
    except OSError as error:
        raise_shortage(error)
        raise ValueError(f"{file}: cannot be read ({error.strerror or error}){advice(error)}") from error
    except Exception as error:  # damaged files raise almost anything
        raise_shortage(error)
        raise ValueError(f"{file}: not a MATLAB file of version 5, or damaged; unpack the archive again") from error
    return content


def _annotations(file: Path, content: dict[str, Any]) -> list[_Annotation]:
    """Return path, class, and file and entry of each annotation."""
    annotations = content.get("annotations")
    entries = [] if annotations is None else list(np.atleast_1d(annotations))
    if not entries or any(not getattr(entry.dtype, "names", None) for entry in entries):
        raise ValueError(f"{file}: no annotations found; unpack the archive again")
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{file}, annotation {number}"
        field = next((name for name in _PATH_FIELDS if name in entry.dtype.names), None)
        if field is None:
            raise ValueError(f"{where}: field {' or '.join(_PATH_FIELDS)} not found; unpack the archive again")
        path = relative_path(str(np.squeeze(entry[field])).strip(), where)
        found.append((path, _class_id(entry, where), where))
    return found


def _class_id(entry: Any, where: str) -> int:
    value = np.squeeze(entry["class"]) if "class" in entry.dtype.names else np.array([])
    if value.size != 1 or not np.issubdtype(np.asarray(value.item()).dtype, np.number) or value.item() < 1:
        raise ValueError(f"{where}: class not found; the labels of the test images are in {_TEST_LABELS}")
    return int(value.item())


def _names(values: Any) -> list[str]:
    """Return distinct names of the classes: duplicates get their number appended."""
    names = [] if values is None else [str(np.squeeze(value)).strip() for value in np.atleast_1d(values)]
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]

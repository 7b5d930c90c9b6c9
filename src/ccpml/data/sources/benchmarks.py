"""The paper's four benchmarks, read from their unpacked archives and compared with the published counts."""

# ruff: noqa: PTH113, PTH118, PTH122 -- strings are faster than paths for hundreds of thousands of files

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from ccpml.artifacts import expand_home, not_found
from ccpml.data.images.formats import image_suffixes
from ccpml.data.sources.cars196 import read_cars196
from ccpml.data.sources.image_index import ImageIndex, IndexedImage
from ccpml.data.sources.layouts import read_cub, read_inshop, read_sop
from ccpml.data.sources.source import Source, SourceNotFoundError, check_distinct, check_one_split
from ccpml.data.table import ImageTable
from ccpml.data_name import BENCHMARKS
from ccpml.numbers import check_flags, is_one_of

__all__ = [
    "BenchmarkNotFoundError",
    "BenchmarkOnDisk",
    "IncompleteBenchmarkError",
    "UnknownDataRootError",
    "find_benchmark",
    "load_benchmark",
]

MAX_LISTED: Final = 3
_ADVICE: Final = "unpack the archive again"


class _Part(NamedTuple):
    """Published counts of a split, or of one role in it. ``classes`` is None where it was not published."""

    name: str
    split: str
    role: str
    classes: int | None
    images: int


class _Benchmark(NamedTuple):
    """Usual folder names of a benchmark, files that identify it, its reader, and its published counts."""

    folders: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[Path], ImageIndex]
    parts: tuple[_Part, ...]


_BENCHMARKS: Final = {
    "cub": _Benchmark(
        ("CUB_200_2011", "cub", "cub/CUB_200_2011", "cub200", "CUB_200_2011/CUB_200_2011"),
        ("images.txt", "image_class_labels.txt"),
        read_cub,
        (_Part("training", "train", "", 100, 5_864), _Part("test", "test", "", 100, 5_924)),
    ),
    "cars196": _Benchmark(
        ("cars196", "Cars196", "cars", "stanford_cars", "CARS196"),
        ("cars_annos.mat", "devkit/cars_train_annos.mat", "car_ims", "cars_train", "cars_test"),
        read_cars196,
        (_Part("training", "train", "", 98, 8_054), _Part("test", "test", "", 98, 8_131)),
    ),
    "sop": _Benchmark(
        ("Stanford_Online_Products", "sop", "sop/Stanford_Online_Products", "SOP"),
        ("Ebay_train.txt", "Ebay_test.txt"),
        read_sop,
        (_Part("training", "train", "", 11_318, 59_551), _Part("test", "test", "", 11_316, 60_502)),
    ),
    "inshop": _Benchmark(
        (
            *("inshop", "In-shop", "In-Shop", "in-shop", "In-shop Clothes Retrieval Benchmark", "InShop"),
            *("inshop/In-shop Clothes Retrieval Benchmark", "DeepFashion/In-shop Clothes Retrieval Benchmark"),
        ),
        ("Eval/list_eval_partition.txt",),
        read_inshop,
        (
            _Part("training", "train", "", 3_997, 25_882),
            _Part("query", "test", "query", None, 14_218),
            _Part("gallery", "test", "gallery", None, 12_612),
            _Part("test", "test", "", 3_985, 26_830),
        ),
    ),
}


class BenchmarkNotFoundError(SourceNotFoundError):
    """A benchmark is not in the data root, or no data root is known."""


class UnknownDataRootError(BenchmarkNotFoundError):
    """Nothing says where benchmarks are."""


class IncompleteBenchmarkError(ValueError):
    """The files of a benchmark differ from what was published."""


@dataclass(frozen=True)
class BenchmarkOnDisk:
    """A benchmark as found on disk, compared with what was published.

    Attributes:
        folder: Its folder.
        index: Contents of its index files.
        missing: Images that are listed but do not exist.
        extra: Image files that are not listed.
        wrong: Other differences: gaps in the index, and counts.
    """

    folder: Path
    index: ImageIndex
    missing: list[IndexedImage]
    extra: list[Path]
    wrong: list[str]

    @property
    def present(self) -> list[IndexedImage]:
        """Images that are listed and exist."""
        missing = {image.path for image in self.missing}
        return [image for image in self.index.images if image.path not in missing]

    @property
    def problems(self) -> list[str]:
        """All differences from what was published, one phrase each; empty if the benchmark is complete."""
        problems = []
        if self.missing:
            paths = [str(self.index.base / image.path) for image in self.missing]
            listed = len(self.index.images)
            problems.append(f"{len(self.missing):,} of {listed:,} listed images not found ({_some(paths)})")
        if self.extra:
            problems.append(f"{len(self.extra):,} image files not listed ({_some(map(str, self.extra))})")
        return problems + self.wrong


def load_benchmark(name: str, data_root: Path | str | None = None, allow_partial: bool = False) -> Source:
    """Load one of the paper's benchmarks with its published split into training and test classes.

    Args:
        name: ``cub``, ``cars196``, ``sop`` or ``inshop``.
        data_root: Folder that contains the benchmark's folder, or that folder itself. None: the environment variable
            ``CCPML_DATA``.
        allow_partial: Whether to accept a part of the published set: missing images are left out and counts are not
            checked. Scores are then not comparable with published ones.

    Returns:
        Images ordered by class, and within a class by number. The test images of In-Shop have roles.

    Raises:
        BenchmarkNotFoundError: If there is no such benchmark in the data root.
        IncompleteBenchmarkError: If it differs from what was published; the message says how.
        ValueError: If an index file is invalid.
    """
    check_flags(allow_partial=allow_partial)
    found = find_benchmark(name, data_root)
    images = found.present
    if found.problems:
        if not allow_partial:
            raise IncompleteBenchmarkError(
                f"{name}: not as published: {'; '.join(found.problems)}; add what is missing, or allow a part"
            )
        print(f"{name}: partial, {len(images):,} images: {'; '.join(found.problems)}", file=sys.stderr)
    if not images:
        raise BenchmarkNotFoundError(f"{found.folder}: no images of {name} found")
    return _source(name, found.folder, found.index.base, images)


def find_benchmark(name: str, data_root: Path | str | None = None) -> BenchmarkOnDisk:
    """Read the index of a benchmark and compare it with the files on disk and the published counts.

    Raises:
        BenchmarkNotFoundError: If there is no such benchmark in the data root.
        ValueError: If there is no such benchmark at all, or its index is invalid.
    """
    if not is_one_of(name, _BENCHMARKS):
        raise ValueError(f"benchmark: expected {', '.join(BENCHMARKS)}, got {name!r}")
    folder = _folder(name, _root(name, data_root))
    index = _BENCHMARKS[name].read(folder)
    check_distinct(((image.path, image.path, image.where) for image in index.images), _ADVICE)
    splits = ((image.class_id, image.class_name, image.split, image.where) for image in index.images)
    check_one_split(splits, _ADVICE)
    present = {path for place in index.folders for path in _images_below(place)}
    listed = {os.path.join(index.base, image.path): image for image in index.images}
    missing = [image for path, image in listed.items() if path not in present and not os.path.isfile(path)]
    extra = [Path(path) for path in sorted(present - listed.keys())]
    return BenchmarkOnDisk(folder, index, missing, extra, _wrong(name, index))


def _folder(name: str, root: Path) -> Path:
    """Return the folder of a benchmark: the data root itself, or one of the usual names in it."""
    benchmark = _BENCHMARKS[name]
    for folder in (root, *(root / usual for usual in benchmark.folders)):
        if any((folder / mark).exists() for mark in benchmark.marks):
            return folder
    usual = " or ".join(str(root / usual) for usual in benchmark.folders[:2])
    raise BenchmarkNotFoundError(f"{name}: not found in {root}: expected {benchmark.marks[0]} there or in {usual}")


def _root(name: str, data_root: Path | str | None) -> Path:
    given = os.environ.get("CCPML_DATA", "") if data_root is None else data_root
    if isinstance(given, str) and not given:
        raise UnknownDataRootError(f"{name}: data root unknown; set CCPML_DATA to the folder that holds it")
    root = expand_home(given, "data_root")
    if not root.is_dir():
        origin = "data root" if data_root is not None else "CCPML_DATA"
        raise BenchmarkNotFoundError(f"{root}: {not_found(root, 'folder')} ({origin})")
    return root.absolute()


def _wrong(name: str, index: ImageIndex) -> list[str]:
    problems = list(index.gaps)
    for part in _BENCHMARKS[name].parts:
        images = [image for image in index.images if image.split == part.split and part.role in {"", image.role}]
        classes = len({image.class_id for image in images})
        if part.classes is not None and classes != part.classes:
            problems.append(f"index: expected {part.classes:,} {part.name} classes, got {classes:,}")
        if len(images) != part.images:
            problems.append(f"index: expected {part.images:,} {part.name} images, got {len(images):,}")
    return problems


def _images_below(folder: Path) -> Iterable[str]:
    """Yield all image files below a folder that are not hidden, following links."""
    seen = set[str]()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in image_suffixes():
                yield os.path.join(place, name)


def _source(name: str, folder: Path, base: Path, images: Sequence[IndexedImage]) -> Source:
    images = sorted(images, key=lambda image: image.class_id)
    name_of = {image.class_id: image.class_name for image in images}
    count = Counter(name_of.values())
    name_of |= {number: f"{shared} ({number})" for number, shared in name_of.items() if count[shared] > 1}
    classes = [name_of[image.class_id] for image in images]
    paths, roles = [base / image.path for image in images], [image.role for image in images]
    split_of_class = {class_name: image.split for class_name, image in zip(classes, images, strict=True)}
    table = replace(ImageTable.from_classes(paths, classes, roles, name), rotate=False)
    return Source(table, split_of_class, folder)


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:MAX_LISTED]) + (", …" if len(shown) > MAX_LISTED else "")

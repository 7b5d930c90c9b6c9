"""The paper's four benchmarks, read from the folders that their archives unpack to, and counted."""

# ruff: noqa: PTH113, PTH118, PTH122 -- of a hundred thousand files, names are joined and compared as strings

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ccpml.data.sources.cars196 import read_cars196
from ccpml.data.sources.layouts import read_cub, read_inshop, read_sop
from ccpml.data.sources.listing import Listed, Listing
from ccpml.data.sources.own import SUFFIXES, Source
from ccpml.data.table import ImageTable
from ccpml.data_name import BENCHMARKS

__all__ = ["Found", "benchmark_folder", "find_benchmark", "load_benchmark"]

_SHOWN: Final = 3


class _Part(NamedTuple):
    """A part of a benchmark: images of a split, those of one role if it names one; None counts no classes."""

    name: str
    split: str
    role: str
    classes: int | None
    images: int


class _Benchmark(NamedTuple):
    """What is known of a benchmark before it is read: where it may lie, how it is read, and what it should hold."""

    folders: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[Path], Listing]
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


@dataclass(frozen=True)
class Found:
    """A benchmark as it lies on a disk, beside what was published.

    Attributes:
        name: Which.
        folder: Where.
        listing: What its index files say.
        missing: Images that are listed and not there.
        extra: Images that are there and not listed.
        wrong: What is not as published beside these: gaps in the index, and counts.
    """

    name: str
    folder: Path
    listing: Listing
    missing: list[Listed]
    extra: list[Path]
    wrong: list[str]

    @property
    def problems(self) -> list[str]:
        """All that is not as published, one sentence each; none if it is whole."""
        problems = []
        if self.missing:
            paths = [str(self.listing.base / image.path) for image in self.missing]
            listed = len(self.listing.images)
            problems.append(f"{len(self.missing):,} of {listed:,} listed images are missing ({_some(paths)})")
        if self.extra:
            problems.append(f"{len(self.extra):,} images are there and not listed ({_some(map(str, self.extra))})")
        return problems + self.wrong


def load_benchmark(name: str, data_root: Path | str | None = None, allow_partial: bool = False) -> Source:
    """Load one of the paper's benchmarks, with its published split into training and test classes.

    Args:
        name: ``cub``, ``cars196``, ``sop`` or ``inshop``.
        data_root: Folder that it lies in, or lies as; None is the environment variable ``CCPML_DATA``.
        allow_partial: Whether it may be a part of the published set: images that are missing are left out, counts
            are not compared. No score of a part compares with a published one.

    Returns:
        Its images in the order of their classes, these in the order of their numbers. The test images of In-Shop
        have a role.

    Raises:
        ValueError: If it is not there, not whole (the message says what is missing or extra), or cannot be read.
    """
    found = find_benchmark(name, data_root)
    images = found.listing.images
    if found.problems:
        if not allow_partial:
            raise ValueError(
                f"{name}: not as published: {'; '.join(found.problems)}; run `ccpml data check {name}` on it for all "
                "that is wrong, get what is missing, or take what is there with --allow-partial"
            )
        missing = {image.path for image in found.missing}
        images = [image for image in images if image.path not in missing]
        print(f"{name}: PARTIAL, {len(images):,} images: {'; '.join(found.problems)}", file=sys.stderr)
    if not images:
        raise ValueError(f"{found.folder}: none of the images of {name} is there")
    return _source(name, found.folder, found.listing.base, images)


def benchmark_folder(name: str, data_root: Path | str | None = None) -> Path:
    """Find the folder of a benchmark: the data root itself, or one of the usual names in it.

    Raises:
        ValueError: If the name or the root is unknown, or nothing in the root looks like the benchmark.
    """
    benchmark = _benchmark(name)
    root = _root(name, data_root)
    for folder in (root, *(root / usual for usual in benchmark.folders)):
        if any((folder / mark).exists() for mark in benchmark.marks):
            return folder
    usual = " or ".join(str(root / usual) for usual in benchmark.folders[:2])
    raise ValueError(
        f"{name}: not in {root}: expected {benchmark.marks[0]} in {usual}, or there; run `ccpml data fetch {name}` or "
        "name the folder that holds it with --data-root"
    )


def find_benchmark(name: str, data_root: Path | str | None = None) -> Found:
    """Read the index of a benchmark and compare it with the files that are there and the published counts.

    Raises:
        ValueError: If there is no such benchmark, or its index cannot be used.
    """
    folder = benchmark_folder(name, data_root)
    listing = _benchmark(name).read(folder)
    _require_distinct(listing.images)
    _require_one_split(listing.images)
    present = {path for place in listing.folders for path in _images_below(place)}
    listed = {os.path.join(listing.base, image.path): image for image in listing.images}
    missing = [image for path, image in listed.items() if path not in present and not os.path.isfile(path)]
    extra = [Path(path) for path in sorted(present - listed.keys())]
    return Found(name, folder, listing, missing, extra, _wrong(name, listing))


def _benchmark(name: str) -> _Benchmark:
    if name not in _BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}: expected {', '.join(BENCHMARKS)}")
    return _BENCHMARKS[name]


def _root(name: str, data_root: Path | str | None) -> Path:
    given = os.fspath(data_root) if data_root is not None else os.environ.get("CCPML_DATA", "")
    if not given:
        raise ValueError(f"{name}: where is it? Give --data-root, or set CCPML_DATA to the folder that holds it")
    root = Path(given).expanduser()
    if not root.is_dir():
        said = "--data-root" if data_root is not None else "CCPML_DATA"
        raise ValueError(f"{root}: there is no such folder ({said})")
    return root


def _wrong(name: str, listing: Listing) -> list[str]:
    problems = list(listing.gaps)
    for part in _BENCHMARKS[name].parts:
        images = [image for image in listing.images if image.split == part.split and part.role in {"", image.role}]
        classes = len({image.class_id for image in images})
        if part.classes is not None and classes != part.classes:
            problems.append(f"the index lists {classes:,} {part.name} classes and not {part.classes:,}")
        if len(images) != part.images:
            problems.append(f"the index lists {len(images):,} {part.name} images and not {part.images:,}")
    return problems


def _images_below(folder: Path) -> Iterable[str]:
    """Give the image files of a folder and of all below it, through links, but for hidden ones."""
    seen = set[str]()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(place, name)


def _require_distinct(images: Sequence[Listed]) -> None:
    first: dict[object, Listed] = {}
    for image in images:
        other = first.setdefault(image.path, image)
        if other is not image:
            raise ValueError(
                f"{image.where}: {image.path} is listed before ({other.where}), and an image would find itself; "
                "unpack the archive anew"
            )


def _require_one_split(images: Sequence[Listed]) -> None:
    first: dict[int | str, Listed] = {}
    for image in images:
        other = first.setdefault(image.class_id, image)
        if other.split != image.split:
            raise ValueError(
                f"{image.where}: class {image.class_name} is in {image.split} here and in {other.split} before "
                f"({other.where}); tests are on classes never trained on; unpack the archive anew"
            )


def _source(name: str, folder: Path, base: Path, images: Sequence[Listed]) -> Source:
    images = sorted(images, key=lambda image: image.class_id)
    names = _class_names(images)
    label_of = {class_id: label for label, class_id in enumerate(names)}
    table = ImageTable(
        images=tuple(base / image.path for image in images),
        labels=np.array([label_of[image.class_id] for image in images]),
        class_names=tuple(names.values()),
        roles=np.array([image.role for image in images]) if any(image.role for image in images) else None,
        name=name,
    )
    return Source(table, {names[image.class_id]: image.split for image in images}, folder)


def _class_names(images: Sequence[Listed]) -> dict[int | str, str]:
    """Give each class a name of its own."""
    names = {image.class_id: image.class_name for image in images}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    return {class_id: f"{name} ({class_id})" if name in twice else name for class_id, name in names.items()}


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")

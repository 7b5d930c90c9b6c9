"""Small copies of the benchmarks in the layout of their archives, with properties of real files: unusual names, Windows
line endings, a byte order mark, gray and CMYK images, and one that is a pixel wide."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ccpml.data.sources.benchmarks import _BENCHMARKS, _Part
from tests.toy import toy_images

PER_CLASS = 5


def _write_images(root: Path, paths: list[list[str]]) -> None:
    """Write an image for each path of each class; some of the first class are unusual."""
    pixels = toy_images(len(paths), PER_CLASS, side=40)  # (C, 5, 40, 40)
    for label, of_class in enumerate(paths):
        for number, path in enumerate(of_class):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            gray = Image.fromarray(pixels[label, number])
            picture = (
                gray if (label, number) == (0, 0) else gray.convert("CMYK" if (label, number) == (0, 1) else "RGB")
            )
            if (label, number) == (0, 2):
                picture = picture.crop((0, 0, 1, 40))
            picture.save(file, "JPEG", quality=95)


def make_cub(root: Path, first: int = 97, classes: int = 8) -> Path:
    """Make CUB-200-2011 with classes 97 to 104, the first four for training."""
    folder = root / "CUB_200_2011"
    names = [f"{first + label:03d}.Bird's_No {label}" for label in range(classes)]
    files = [[f"{name}/Bird #{number} – é%20.jpg" for number in range(PER_CLASS)] for name in names]
    _write_images(folder / "images", files)
    paths = [path for of_class in files for path in of_class]
    images = "".join(f"{number} {path}\r\n" for number, path in enumerate(paths, 1))
    (folder / "images.txt").write_bytes(images.encode("utf-8-sig"))
    labels = "".join(f"{number + 1} {first + number // PER_CLASS}\r\n" for number in range(len(paths)))
    (folder / "image_class_labels.txt").write_bytes(labels.encode())
    (folder / "classes.txt").write_text("".join(f"{first + label} {name}\n" for label, name in enumerate(names)))
    return folder


def _annotations(entries: list[dict[str, object]]) -> np.ndarray:
    """Return a struct array as in the official files: (1, N)."""
    names = list(entries[0])
    array = np.empty((1, len(entries)), dtype=[(name, object) for name in names])
    for number, entry in enumerate(entries):
        array[0, number] = tuple(entry[name] for name in names)
    return array


_CARS = np.array([[f"Maker Model {number} Coupé" for number in range(1, 197)]], dtype=object)


def make_cars196(root: Path, first: int = 95, classes: int = 8) -> Path:
    """Make Cars196 with one file of annotations: classes 95 to 102, the first four for training."""
    folder = root / "cars196"
    files = [[f"car_ims/{PER_CLASS * label + n + 1:06d}.jpg" for n in range(PER_CLASS)] for label in range(classes)]
    _write_images(folder, files)
    entries: list[dict[str, object]] = [
        {"relative_im_path": path, "bbox_x1": 1.0, "class": float(first + label), "test": float(number % 2)}
        for label, of_class in enumerate(files)
        for number, path in enumerate(of_class)
    ]
    savemat(folder / "cars_annos.mat", {"annotations": _annotations(entries), "class_names": _CARS})
    return folder


def make_cars196_devkit(root: Path, first: int = 95, classes: int = 8) -> Path:
    """Make Cars196 with the devkit: each class in two folders, the labels of the second in a file of their own."""
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    train = [[f"cars_train/{3 * label + n + 1:05d}.jpg" for n in range(3)] for label in range(classes)]
    test = [[f"cars_test/{2 * label + n + 1:05d}.jpg" for n in range(2)] for label in range(classes)]
    _write_images(folder, [a + b for a, b in zip(train, test, strict=True)])
    for files, name in ((train, "devkit/cars_train_annos.mat"), (test, "cars_test_annos_withlabels.mat")):
        entries: list[dict[str, object]] = [
            {"bbox_x1": np.uint8(1), "class": np.uint8(first + label), "fname": Path(path).name}
            for label, of_class in enumerate(files)
            for path in of_class
        ]
        savemat(folder / name, {"annotations": _annotations(entries)})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": _CARS})
    return folder


def make_sop(root: Path, classes: int = 8) -> Path:
    """Make Stanford Online Products with eight classes of two kinds, the first four for training."""
    folder = root / "Stanford_Online_Products"
    kinds = [("bicycle_final", 1), ("coffee maker_final", 3)]
    files = [[f"{kinds[c % 2][0]}/11{c:05d} #{n}_{n}.JPG" for n in range(PER_CLASS)] for c in range(classes)]
    _write_images(folder, files)
    number = 0
    for name, part in (("Ebay_train.txt", range(classes // 2)), ("Ebay_test.txt", range(classes // 2, classes))):
        lines = ["image_id class_id super_class_id path"]
        for label in part:
            for path in files[label]:
                number += 1
                lines.append(f"{number} {label + 1} {kinds[label % 2][1]} {path}")
        (folder / name).write_bytes("\r\n".join([*lines, ""]).encode("utf-8-sig"))
    return folder


def make_inshop(root: Path, images: str = "Img/img", classes: int = 8) -> Path:
    """Make In-Shop with eight items, four for training; the others have two queries and three gallery images."""
    folder = root / "In-shop Clothes Retrieval Benchmark"
    kinds = ["WOMEN/Dresses", "MEN/Jackets_Vests & more"]
    items = [f"id_{label + 1:08d}" for label in range(classes)]
    files = [[f"{kinds[c % 2]}/{items[c]}/0{n}_1_front.jpg" for n in range(PER_CLASS)] for c in range(classes)]
    _write_images(folder / images, files)
    lines = []
    for label, of_class in enumerate(files):
        for number, path in enumerate(of_class):
            part = "train" if label < classes // 2 else ("query" if number < 2 else "gallery")
            lines.append(f"{'img/' + path:<70} {items[label]} {part}")
    lines = [str(len(lines)), "image_name  item_id  evaluation_status", *lines]
    (folder / "Eval").mkdir()
    (folder / "Eval" / "list_eval_partition.txt").write_bytes("\r\n".join(lines).encode())
    return folder


#: Benchmark and function that makes the copy, by layout.
LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "cub": ("cub", make_cub),
    "cars196": ("cars196", make_cars196),
    "cars196-devkit": ("cars196", make_cars196_devkit),
    "sop": ("sop", make_sop),
    "inshop": ("inshop", make_inshop),
}


def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the published counts by those of the small copies, and unset CCPML_DATA."""
    parts = (_Part("training", "train", "", 4, 20), _Part("test", "test", "", 4, 20))
    roles = (_Part("query", "test", "query", None, 8), _Part("gallery", "test", "gallery", None, 12))
    for name, known in _BENCHMARKS.items():
        monkeypatch.setitem(_BENCHMARKS, name, known._replace(parts=(*parts, *(roles if name == "inshop" else ()))))
    monkeypatch.delenv("CCPML_DATA", raising=False)

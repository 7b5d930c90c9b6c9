"""What is made from a relative path is used where it was made, in whatever working directory the process is then.

Each object of the table is made in one folder and used in another one, in which other files have the same names.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ccpml import ExportedModel, load_run
from ccpml.data import EvalTransform, ImageDataset, build_cache, load_csv, load_folder, load_source
from ccpml.data.images.cache import use_cache
from ccpml.data_name import DataName
from ccpml.runs.train import resume, train
from ccpml.serving import Index, Picture, PictureIndex, ask, find_pictures, find_queries, open_index
from ccpml.training import EmbeddingPool
from tests.exported.onnx_models import describe, weights, write_model
from tests.serving.embedders import ColorEmbedder
from tests.toy import quick_settings, toy_folder

DATA = DataName("folder", "photos")
PHOTO = Path("photos/group0/class00/0.png")


def _fill(place: Path, seed: int) -> Path:
    """Write photos, runs, an index and a model of a seed into a folder."""
    toy_folder(place / "photos", classes=8, per_class=2)
    for file in place.glob("photos/**/*.png"):
        image = np.asarray(Image.open(file))
        Image.fromarray(np.rot90(image, seed).copy()).save(file)
        os.utime(file, (0, 0))
    (place / "list.csv").write_text(f"path,label\n{PHOTO},a\nphotos/group1/class05/0.png,b\n")
    build_cache(f"folder:{place / 'photos'}", side=16, progress=False)
    settings = quick_settings(
        data=f"folder:{place / 'photos'}", method="plain", max_steps=0, classes_per_batch=2, seed=seed
    )
    train(settings, place / "run", progress=False)
    with Index.create(place / "p.index", ColorEmbedder()) as index:
        index.add([place / "photos" / "group0" / "class00" / f"{seed}.png"])
    write_model(place / "m.onnx", describe(fingerprint=str(seed) * 64), weights(seed=seed))
    return place


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("filled")
    return [_fill(place / str(seed), seed) for seed in range(2)]


def _rows(dataset: ImageDataset, work: Path) -> Any:
    return [dataset[row][0].tolist() for row in range(len(dataset))]


def _pixels(source: Any, work: Path) -> Any:
    return _rows(ImageDataset(source.table, EvalTransform(16), channels=1), work)


def _changed(index: Any, work: Path) -> Any:
    [key] = index.add([Picture(work / "photo.png", "new")]).ids
    return index.vectors([1, key]).tolist(), index.remove([1]), len(index), index.compact(), index.verify()


def _synchronized(pictures: Any, work: Path) -> Any:
    with Index.create(work / "new.index", ColorEmbedder()) as index:
        index.sync(pictures)
        return index.vectors([item.id for item in index.items()]).tolist()


def _asked(queries: Any, work: Path) -> Any:
    with Index.open(work / "p.index", ColorEmbedder()) as index:
        return [reply.hits[0].distance for reply in ask(index, queries, 1, embedder=ColorEmbedder())]


def _model_of_index(model: Any, work: Path) -> Any:
    with Index.create(work / "new.index", model) as index:
        return (index.model_path / "experiment.yaml").read_bytes()


CASES: dict[str, tuple[Callable[[], Any], Callable[[Any, Path], Any]]] = {
    "load_run: model": (lambda: load_run("run"), lambda run, work: run.embed([work / "photo.png"]).tolist()),
    "load_run: scores": (lambda: load_run("run"), lambda run, work: run.scores),
    "load_run: path": (lambda: load_run("run"), lambda run, work: (run.path / "experiment.yaml").read_bytes()),
    "load_run: index of it": (lambda: load_run("run"), _model_of_index),
    "resume": (lambda: resume("run", progress=False), lambda run, work: (run.settings(), run.scores(), run.record())),
    "Index: read": (lambda: Index.open("p.index"), lambda index, work: (index.vectors([1]).tolist(), index.verify())),
    "Index: written": (lambda: Index.open("p.index", ColorEmbedder()), _changed),
    "open_index": (lambda: open_index("p.index", ColorEmbedder()), _changed),
    "find_pictures: folder": (lambda: find_pictures("photos"), _synchronized),
    "find_pictures: table": (lambda: find_pictures("list.csv"), _synchronized),
    "find_pictures: pattern": (lambda: find_pictures("photos/*/*/*.png"), _synchronized),
    "find_queries": (lambda: find_queries(["photos", str(PHOTO)]), _asked),
    "load_source: folder": (lambda: load_source("folder:photos"), _pixels),
    "load_source: cached": (lambda: load_source("folder:photos", side=16), _pixels),
    "load_source: table": (lambda: load_source("csv:list.csv"), _pixels),
    "ImageDataset: folder": (lambda: ImageDataset(load_folder("photos").table, EvalTransform(16), 1), _rows),
    "ImageDataset: cached": (
        lambda: ImageDataset(
            use_cache(load_folder("photos"), DataName("folder", "photos")).table, EvalTransform(16), 1
        ),
        _rows,
    ),
    "EmbeddingPool": (
        lambda: EmbeddingPool(ImageDataset(load_csv("list.csv").table, EvalTransform(16), 1), per_class=1),
        lambda pool, work: pool(torch.nn.Flatten(), 0).tolist(),
    ),
    "ExportedModel": (lambda: ExportedModel("m.onnx"), lambda model, work: model.path.read_bytes()),
}


def _files(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in place.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_an_object_of_a_relative_path_keeps_its_place(
    case: str, filled: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, use = CASES[case]
    for name, seed in (("plain", 0), ("here", 0), ("there", 1)):
        shutil.copytree(filled[seed], tmp_path / name)

    def use_in(folder: str, made_in: str) -> Any:
        """Use in a folder what was made in one; what it works on is the same, as is where that lies."""
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.copytree(filled[0] / "p.index", tmp_path / "work" / "p.index")
        shutil.copy(filled[0] / PHOTO, tmp_path / "work" / "photo.png")
        monkeypatch.chdir(tmp_path / made_in)
        made = make()
        monkeypatch.chdir(tmp_path / folder)
        with made if isinstance(made, PictureIndex) else nullcontext():
            return use(made, tmp_path / "work")

    expected = use_in("plain", made_in="plain")
    before = _files(tmp_path / "there")
    assert use_in("there", made_in="here") == expected
    assert _files(tmp_path / "there") == before
    assert use_in("there", made_in="there") != expected  # so that the files there would be noticed

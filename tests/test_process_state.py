"""Calls of the library leave the state of the process as they found it: threads, random generators, signals, ..."""

import locale
import logging
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import PIL.Image
import pytest
import torch

from ccpml import (
    EmbeddingModel,
    EmbeddingPool,
    ExportedModel,
    Index,
    cluster_scores,
    evaluate,
    export_run,
    greedy_k_center,
    load_run,
    nearest_neighbors,
    pooled_features,
    start_head,
    train,
)
from ccpml.calibration.run import calibrate_run
from ccpml.cleaning import find_problems
from ccpml.cleaning.run import clean_run
from ccpml.comparison.compare import compare_runs
from ccpml.data import EvalTransform, ImageDataset, build_cache, load_source
from ccpml.data.dataset import eval_loader
from ccpml.report import write_report
from ccpml.reranking import k_reciprocal
from ccpml.retrieval import class_interval
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import embed_run, evaluate_run
from ccpml.runs.settings import Settings
from ccpml.runs.train import resume
from ccpml.serving.explain import explain_pair
from ccpml.serving.search.approximate import open_approximate
from ccpml.tuning.search_space import search_space
from ccpml.tuning.study import Search
from ccpml.tuning.tune import run_search
from tests.toy import quick_settings, toy_folder

LOGGERS = ("PIL", "lightning.fabric", "lightning.pytorch", "matplotlib", "onnxruntime", "onnxscript", "optuna", "torch")


def process_state() -> dict[str, Any]:
    """What a call could leave changed, as values that can be compared."""
    cudnn, products = torch.backends.cudnn, (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    return {
        "threads": torch.get_num_threads(),
        "torch's generator": torch.get_rng_state().tolist(),
        "NumPy's generator": [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002  # the one of others
        "Python's generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark),
        "precision of products": (torch.get_float32_matmul_precision(), cudnn.allow_tf32),
        "precision of each kind": [getattr(each, "fp32_precision", None) for each in products],
        "anomaly detection": torch.is_anomaly_enabled(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "filters of warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "levels of loggers": {name: logging.getLogger(name).level for name in LOGGERS},
        "signals": {one: signal.getsignal(one) for one in signal.valid_signals() - {signal.SIGCHLD}},  # torch's
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "umask": _umask(),
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "path": list(sys.path),
        "floating point": np.geterr(),
        "printing": (np.get_printoptions(), vars(torch._tensor_str.PRINT_OPTS).copy()),
        "matplotlib": dict(mpl.rcParams),
        "Pillow": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": (sys.getrecursionlimit(), sys.getswitchinterval()),
    }


def _umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


class World(NamedTuple):
    """A run of two steps, a copy, and their data."""

    settings: Settings
    data: Path
    run: Path
    copy: Path
    onnx: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    data = toy_folder(folder / "photos")
    settings = quick_settings(data=f"folder:{data}", max_steps=2, threads=2)
    run = train(settings, folder / "run", progress=False).path
    shutil.copytree(run, folder / "copy")
    export_run(run, "onnx", folder / "model.onnx")
    return World(settings, data, run, folder / "copy", folder / "model.onnx")


def _resume(world: World, tmp: Path) -> None:
    shutil.copytree(world.run, tmp / "copy")
    (tmp / "copy" / "scores.json").unlink()
    resume(tmp / "copy", progress=False)


def _refused(world: World, tmp: Path) -> None:
    with pytest.raises(ValueError, match="larger image_size"):
        train(world.settings.changed({"image_size": 1}), tmp / "run", progress=False)


def _tune(world: World, tmp: Path) -> None:
    space = search_space(world.settings, ["lr=1e-4..1e-2"])
    run_search(Search(world.settings, space, tmp / "study", "s", trials=1))


def _from_pretrained(world: World, tmp: Path) -> None:
    EmbeddingModel.from_pretrained(export_run(world.run, "safetensors", tmp / "a.safetensors").path)


def _index(world: World, tmp: Path) -> None:
    with Index.create(tmp / "made.index", load_run(world.run)) as index:
        index.sync(f"folder:{world.data}")
        index.compact()
        index.verify()
        index.search(index.vectors([1])[0], 3)


def _approximate(world: World, tmp: Path) -> None:
    with Index.create(tmp / "made.index", load_run(world.run)) as index:
        index.sync(f"folder:{world.data}")
        with index.view() as view:
            open_approximate(index.path, view, "hnsw")


def _pool(world: World, tmp: Path) -> None:
    dataset = ImageDataset(load_source(f"folder:{world.data}").table, EvalTransform(28), 1)
    EmbeddingPool(dataset, 3, workers=1)(load_run(world.run).model, 0)


def _pooled_features(world: World, tmp: Path) -> None:
    table = load_source(f"folder:{world.data}").table
    pooled_features(load_run(world.run).model, eval_loader(table, EvalTransform(28), 1, 16, workers=1))


def _start_head(world: World, tmp: Path) -> None:
    start_head(LAYER, X, Y, "whitening", length=1.0)


X, Y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 6
LAYER = torch.nn.Linear(8, 4)
GRAY = np.zeros((28, 28, 3), np.uint8)

CALLS: dict[str, Callable[[World, Path], Any]] = {
    "train": lambda world, tmp: train(world.settings, tmp / "run", progress=False),
    "train, refused": _refused,
    "resume": _resume,
    "run_search": _tune,
    "Run.fingerprint": lambda world, _: load_run(world.run).fingerprint,
    "Run.embed": lambda world, _: load_run(world.run).embed(sorted(world.data.rglob("*.png"))),
    "from_pretrained": _from_pretrained,
    "evaluate_run": lambda world, _: evaluate_run(world.run, f"folder:{world.data}", clusters=True, all_classes=True),
    "embed_run": lambda world, tmp: embed_run(world.run, f"folder:{world.data}", tmp / "a.npz"),
    "export_run, onnx": lambda world, tmp: export_run(world.run, "onnx", tmp / "a.onnx"),
    "export_run, pt2": lambda world, tmp: export_run(world.run, "pt2", tmp / "a.pt2"),
    "export_run, hub": lambda world, tmp: export_run(world.run, "hub", tmp / "hub"),
    "ExportedModel": lambda world, _: ExportedModel(world.onnx).embed(sorted(world.data.rglob("*.png"))),
    "Index": _index,
    "open_approximate": _approximate,
    "calibrate_run": lambda world, _: calibrate_run(world.run, f"folder:{world.data}"),
    "clean_run": lambda world, tmp: clean_run(world.run, f"folder:{world.data}", tmp / "cleaned"),
    "compare_runs": lambda world, _: compare_runs([world.run, world.copy]),
    "write_report": lambda world, _: write_report(RunDirectory.open(world.run)),
    "explain_pair": lambda world, _: explain_pair(load_run(world.run), GRAY, GRAY),
    "EmbeddingPool": _pool,
    "pooled_features": _pooled_features,
    "start_head": _start_head,
    "build_cache": lambda world, _: build_cache(f"folder:{world.data}", progress=False),
    "evaluate": lambda *_: evaluate(X, Y),
    "cluster_scores": lambda *_: cluster_scores(X, Y),
    "nearest_neighbors": lambda *_: nearest_neighbors(X, X, 3),
    "greedy_k_center": lambda *_: greedy_k_center(X.view(6, 10, 8), X.view(6, 10, 8), 3),
    "k_reciprocal": lambda *_: k_reciprocal(X, X, k=3),
    "find_problems": lambda *_: find_problems(X.numpy(), Y.numpy()),
    "class_interval": lambda *_: class_interval(Y.numpy() / 6, Y.numpy()),
}


@pytest.fixture
def odd_state() -> Iterator[None]:
    """Another default device, on which no value can be read, and another default dtype."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("odd_state")
@pytest.mark.parametrize("call", CALLS)
def test_a_call_leaves_the_process_as_it_was(call: str, world: World, tmp_path: Path) -> None:
    before = process_state()
    CALLS[call](world, tmp_path)
    after = process_state()
    assert [name for name in before if before[name] != after[name]] == []


def test_a_run_does_not_depend_on_the_state(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run = load_run(world.run)
    images = sorted(world.data.rglob("*.png"))[:3]
    embeddings, fingerprint = run.embed(images), run.fingerprint
    request.getfixturevalue("odd_state")
    again = load_run(world.run)
    assert again.fingerprint == fingerprint
    torch.testing.assert_close(again.embed(images), embeddings, rtol=0, atol=0)
    other = train(world.settings, tmp_path / "run", progress=False)
    assert other.scores()["test"] == run.scores["test"]

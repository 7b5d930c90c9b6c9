"""Wrong arguments of public functions: each is refused by a sentence that names the argument, or is taken."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ccpml
from ccpml.calibration import Certificate
from ccpml.data import EvalTransform, TrainTransform
from ccpml.data.crops import cropped_batches
from ccpml.exported import ExportedModel
from ccpml.retrieval import class_bootstrap, class_interval
from ccpml.runs.inference.rankings import compare_rankings
from ccpml.serving import Filter
from tests.public_calls import CALLS, NOWHERE, PIXELS, RNG, SIZES, X

OPTIONAL = {
    "content_hashes",
    "data_root",
    "fold",
    "image",
    "image_size",
    "is_query",
    "min_size",
    "nearest_positives",
    "normalize",
    "numbers",
    "options",
    "own",
    "perceptual_hashes",
    "rate",
    "resize",
    "roles",
    "split_of_class",
    "splits",
    "start",
    "test_classes",
    "token",
    "warm_start",
    "weights",
    "find_problems.labels",
    "find_problems.ranks",
    *(f"Settings.{each.name}" for each in dataclasses.fields(ccpml.Settings) if each.default is None),
}
OURS = re.compile(
    r"[\w /']+: (.*expected|not |cannot|.*not found|.*matches none|data root unknown)|unknown data .*: expected|"
    r"not an image of a known format|\[Errno 2\] .*some text"
)
ALIASES = {"min_area": "area", "max_area": "area", "file_format": "format", "location": "(path|location)"}
ALIASES["name"] = "(data|benchmark|name)"
WRONG: dict[str, Any] = {
    "None": None,
    "number": 3,
    "negative": -1,
    "fraction": 0.5,
    "NaN": float("nan"),
    "text": "some text",
    "list of texts": ["some", "texts"],
    "list of lists": [[1.0], [2.0, 3.0]],
    "dict": {"a": 1},
    "set": {1},
    "object": object(),
    "array": np.zeros((5, 7, 2), np.uint8),
    "array of floats": np.zeros((20, 30, 3)),
    "tensor": torch.zeros(2, 3),
    "network": nn.Conv2d(3, 8, 3),
    "Pillow": Image.new("RGB", (30, 20)),
    "class": dict,
    "bytes": b"bytes",
}


NAMES = [(name, argument) for name, (_, arguments) in CALLS.items() for argument in arguments.split()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "argument"), NAMES)
def test_a_wrong_argument_is_refused_in_words_of_ours(name: str, argument: str) -> None:
    """Each value is taken, or refused in a sentence about the argument, its path, or another that does not fit it."""
    call, refused = CALLS[name][0](argument), dict[str, str]()
    for kind, value in WRONG.items():
        try:
            call(value)
        except (ValueError, FileNotFoundError) as error:
            refused[kind] = str(error)
    wrong = {kind: text for kind, text in refused.items() if not OURS.match(text)}
    assert not wrong


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "argument"), NAMES)
def test_none_is_refused_by_name(name: str, argument: str) -> None:
    if argument in OPTIONAL or f"{name}.{argument}" in OPTIONAL:
        return
    with pytest.raises(ValueError, match=rf"^({ALIASES.get(argument, argument)}): expected "):
        CALLS[name][0](argument)(None)


def test_all_public_functions_and_classes_are_called() -> None:
    """What a function returns is not among them, and ``Index.open`` and ``load_run`` stand for `Index` and `Run`."""
    called, returned = {name.partition(".")[0] for name in CALLS}, {"ClusterScores", "RetrievalScores", "Run"}
    assert set(ccpml.__all__) - returned <= called


def image(*shape: int, dtype: Any = np.uint8) -> Any:
    return TrainTransform(8)(np.zeros(shape, dtype), RNG), EvalTransform(8)(np.zeros(shape, dtype))


MESSAGES: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: ccpml.EmbeddingModel(nn.Sequential(nn.Conv2d(3, 8, 3))),
        "backbone: expected a Backbone .*, got Sequential; see",
    ),
    (lambda: image(20, 30), r"image: expected uint8 of shape \(H, W, C\), C 1 or 3, got uint8 of \(20, 30\)"),
    (lambda: image(3, 20, 30), r"image: expected .*, got uint8 of \(3, 20, 30\)"),
    (lambda: image(20, 30, 4), r"image: expected .*, got uint8 of \(20, 30, 4\)"),
    (lambda: image(0, 30, 3), r"image: expected .*, got uint8 of \(0, 30, 3\)"),
    (lambda: image(20, 30, 3, dtype=np.float32), r"image: expected .*, got float32 of \(20, 30, 3\)"),
    (lambda: image(20, 30, 3, dtype=np.uint16), r"image: expected .*, got uint16 of \(20, 30, 3\)"),
    (lambda: EvalTransform(8)(Image.new("L", (30, 20))), "image: expected a NumPy array, uint8 .*, got Image"),
    (lambda: TrainTransform(8, aspect=(0.5, 1, 2)), r"aspect: expected two numbers, .*, got \(0.5, 1, 2\)"),
    (lambda: TrainTransform(8, aspect=(1, np.inf)), r"aspect: expected two numbers, .*, got \(1, inf\)"),
    (lambda: compare_rankings(NOWHERE, rerank=["foo"]), "rerank: expected some of k-reciprocal, .*, got 'foo'"),
    (
        lambda: compare_rankings(NOWHERE, rerank="k-reciprocal"),
        "rerank: expected .*, got k-reciprocal alone; pass a list",
    ),
    (lambda: compare_rankings(NOWHERE, dtypes=["int4"]), "dtypes: expected some of float16, int8, got 'int4'"),
    (lambda: compare_rankings(NOWHERE, ensemble="runs/b"), "ensemble: expected several run .*, got runs/b alone"),
    (lambda: Filter("label = 'mug'"), "root: expected .*, got \"label = 'mug'\"; Filter.parse takes a text"),
    (
        lambda: class_bootstrap(np.ones(6), np.arange(6)),
        r"values: expected shape \(M, 6\), got \(6,\); pass values\[None\]",
    ),
    (lambda: class_bootstrap(np.ones((2, 6)), np.ones((1, 6))), r"labels: expected shape \(Q,\), got \(1, 6\)"),
    (lambda: class_interval([0.1, 0.2, 0.3], [0.0, 1.0, np.nan]), "labels: expected the class of each query, got NaN"),
    *(
        (
            lambda weight=weight: ccpml.CCPLoss(
                ccpml.ContrastiveLoss(), **SIZES, proxies_per_class=2, **{weight: -1.0}
            ),
            f"{weight}: expected a finite number >= 0, got -1.0",
        )
        for weight in ("pair_weight", "proxy_weight")
    ),
    *(
        (lambda bad=bad: list(cropped_batches([PIXELS, bad], EvalTransform(8), 3, 1)), f"image 1: {message}")
        for bad, message in (
            (b"", "the file is empty"),
            (PIXELS.transpose(2, 0, 1), r"expected uint8 .*, got uint8 \(3, 20, 30\)"),
            (X, "expected a path, contents or an array, got Tensor"),
            (Image.new("RGBA", (30, 20)), "expected one of Pillow in mode L or RGB, got RGBA; convert it"),
        )
    ),
    (lambda: list(cropped_batches({"a": PIXELS}, EvalTransform(8), 3, 1)), "images: expected a sequence .*, got dict"),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[message for _, message in MESSAGES])
def test_what_is_likely_by_mistake(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_a_run_in_place_of_its_export(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").touch()
    with pytest.raises(ValueError, match=r"expected a file, got a run directory; pass the \.onnx file of an export"):
        ExportedModel(tmp_path)


def test_a_certificate_of_numbers_of_numpy_is_written_to_a_text(tmp_path: Path) -> None:
    promises = {np.float32(0.5): np.float32(0.25)}
    file = Certificate("0" * 64, np.float32(0.75), promises, np.int64(2)).write(str(tmp_path))  # type: ignore[arg-type]
    found = Certificate.read(file)
    assert (found.confidence, found.distances, found.answers) == (0.75, {0.5: 0.25}, 2)

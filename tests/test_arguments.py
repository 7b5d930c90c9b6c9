"""Wrong arguments of public functions: each is refused by a sentence that names the argument, or is taken."""

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
from ccpml import baselines, reranking
from ccpml.calibration import Certificate
from ccpml.calibration.run import calibrate_run
from ccpml.comparison.compare import compare_runs
from ccpml.data import EvalTransform, TrainTransform, make_splits
from ccpml.data.crops import cropped_batches
from ccpml.exported import ExportedModel
from ccpml.models import SmallConv, create_model, freeze_batchnorm, load_weights
from ccpml.retrieval import class_bootstrap, class_interval, paired_difference
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import embed_run, evaluate_run
from ccpml.runs.inference.rankings import compare_rankings
from ccpml.serving import Filter, find_pictures, find_queries, open_index
from ccpml.training import CCPCallback, MetricLearning, Warmup

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
ROWS, LABELS = X.numpy(), torch.arange(12) // 3
POINTS = X.view(4, 3, 4)
PIXELS = np.zeros((20, 30, 3), np.uint8)
SIZES: dict[str, Any] = {"num_classes": 4, "embedding_dim": 4}
RNG = np.random.default_rng(0)
NOWHERE = "/no/such/place"


def of(call: Callable[..., Any], /, *given: Any, **known: Any) -> Callable[[str], Callable[[Any], Any]]:
    """Return, for the name of an argument, the call with another value of it."""
    return lambda name: lambda value: call(*given, **{**known, name: value})


SCORES = {"values": [0.1, 0.2, 0.3, 0.4], "labels": [0, 0, 1, 1]}
# Public calls, by their name, with the arguments that are replaced by wrong ones.
CALLS: dict[str, tuple[Callable[[str], Callable[[Any], Any]], str]] = {
    "EmbeddingModel": (
        of(ccpml.EmbeddingModel, backbone=SmallConv(1), embedding_dim=4),
        "backbone embedding_dim pooling freeze_batchnorm bias trained_stages",
    ),
    "create_model": (
        of(create_model, backbone="small_conv"),
        "backbone embedding_dim pooling channels weights freeze_batchnorm image_size bias trained_stages",
    ),
    "freeze_batchnorm": (of(freeze_batchnorm), "module"),
    "make_splits": (of(make_splits), "source"),
    "CCPCallback": (of(CCPCallback), "pool"),
    "MetricLearning": (
        of(MetricLearning, model=nn.Linear(2, 2), criterion=nn.Linear(2, 2), lr=1.0),
        "model criterion lr",
    ),
    "Warmup": (of(Warmup, frozen=nn.Linear(2, 2), steps=1), "frozen steps"),
    "export_run.license_id": (of(ccpml.export_run, NOWHERE, "onnx"), "license_id"),
    "load_weights": (of(load_weights, nn.Linear(2, 2)), "path"),
    "TrainTransform": (of(TrainTransform, size=8), "size min_area max_area flip aspect"),
    "TrainTransform.call": (
        lambda name: lambda x: TrainTransform(8)(**{"image": PIXELS, "rng": RNG, name: x}),
        "image",
    ),
    "TrainTransform.rng": (lambda name: lambda x: TrainTransform(8)(PIXELS, x), "rng"),
    "EvalTransform": (of(EvalTransform, size=8), "size resize"),
    "EvalTransform.call": (of(EvalTransform(8)), "image"),
    "cropped_batches": (
        lambda name: (
            lambda x: list(
                cropped_batches(
                    **{"images": [PIXELS], "transform": EvalTransform(8), "channels": 3, "batch_size": 1, name: x}
                )
            )
        ),
        "images batch_size",
    ),
    "compare_rankings": (of(compare_rankings, NOWHERE), "rerank ensemble dtypes all_classes"),
    "compare_rankings.path": (of(compare_rankings), "path"),
    "Filter": (of(Filter), "root"),
    "Filter.parse": (lambda name: Filter.parse, "filter"),
    "class_bootstrap": (
        of(class_bootstrap, values=[SCORES["values"]], labels=SCORES["labels"]),
        "values labels samples seed",
    ),
    "class_interval": (of(class_interval, **SCORES), "values labels level samples seed bounds"),
    "paired_difference": (of(paired_difference, **SCORES, reference=SCORES["values"]), "values reference labels level"),
    "load_run": (of(ccpml.load_run), "path"),
    "RunDirectory": (of(RunDirectory.open), "path"),
    "Index.open": (of(ccpml.Index.open), "path"),
    "open_index": (of(open_index), "location"),
    "find_pictures": (of(find_pictures), "data"),
    "find_queries": (of(find_queries), "given"),
    "Certificate.read": (of(Certificate.read), "path"),
    "ExportedModel": (of(ExportedModel), "path"),
    "from_pretrained": (of(ccpml.EmbeddingModel.from_pretrained), "name"),
    "evaluate_run": (of(evaluate_run), "path"),
    "embed_run": (of(embed_run, data="glyphs", output=NOWHERE), "path"),
    "calibrate_run": (of(calibrate_run, NOWHERE), "precisions"),
    "compare_runs": (of(compare_runs), "paths"),
    "export_run": (of(ccpml.export_run, NOWHERE), "file_format"),
    "export_run.run": (of(ccpml.export_run, file_format="onnx"), "run"),
    "evaluate": (
        of(ccpml.evaluate, embeddings=X, labels=LABELS),
        "embeddings labels recall_at per_query chunk_elements",
    ),
    "cluster_scores": (of(ccpml.cluster_scores, embeddings=X, labels=LABELS), "embeddings labels seed"),
    "nearest_neighbors": (of(ccpml.nearest_neighbors, queries=X, k=2), "queries k chunk_elements"),
    "greedy_k_center": (of(ccpml.greedy_k_center, points=POINTS, centers=POINTS, k=2), "points centers k"),
    "covering_radius": (of(ccpml.covering_radius, points=POINTS, centers=POINTS), "points centers"),
    "average_covering_radius": (of(ccpml.average_covering_radius, embeddings=X, labels=LABELS), "embeddings labels"),
    "lipschitz_normalize": (of(ccpml.lipschitz_normalize), "x"),
    "CCPLoss": (
        of(ccpml.CCPLoss, ccpml.ContrastiveLoss(), **SIZES, proxies_per_class=2),
        "num_classes embedding_dim proxies_per_class nearest_positives",
    ),
    "CCPLoss.loss": (of(ccpml.CCPLoss, **SIZES, proxies_per_class=2), "loss"),
    "CrossBatchMemory": (
        of(ccpml.CrossBatchMemory, ccpml.ContrastiveLoss(), embedding_dim=4, memory_batches=2, batch_size=12),
        "embedding_dim memory_batches batch_size start",
    ),
    "ProxyAnchorLoss": (of(baselines.ProxyAnchorLoss, **SIZES), "num_classes embedding_dim"),
    "Codes.build": (of(reranking.Codes.build, rows=ROWS, dtype="int8"), "rows dtype"),
    **{
        name: (of(method, queries=ROWS, gallery=ROWS, k=2), "queries gallery k own")
        for name, method in (("nearest", reranking.nearest), *reranking.METHODS.items())
    },
}
OPTIONAL = {"weights", "image_size", "resize", "own", "start", "nearest_positives"}
OURS = re.compile(r"[\w /]+: (.*expected|not |cannot)|\[Errno 2\] .*some text")
ALIASES = {"min_area": "area", "max_area": "area", "file_format": "format", "location": "path"}
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
    if argument in OPTIONAL:
        return
    with pytest.raises(ValueError, match=rf"^({ALIASES.get(argument, argument)}): expected "):
        CALLS[name][0](argument)(None)


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

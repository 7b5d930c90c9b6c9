"""Integers of NumPy are integers in every public argument."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import ccpml
from ccpml import baselines, cleaning, data, method, models, reranking, retrieval, training
from ccpml.data import ClassBalancedBatches, EvalTransform, ImageDataset, ImageTable, TrainTransform
from ccpml.data.crops import cropped_batches
from ccpml.numbers import as_int
from ccpml.serving.service.settings import ServiceSettings

LABELS = np.array([0, 0, 1, 1])
TABLE = ImageTable(np.arange(4 * 12 * 12, dtype=np.uint8).reshape(4, 12, 12), LABELS, ("a", "b"))
DATASET = ImageDataset(TABLE, TrainTransform(8), channels=1)
SCORES = retrieval.evaluate(torch.arange(8.0).view(4, 2) ** 2, LABELS, per_query=True)
POINTS = torch.arange(24.0).view(2, 4, 3) ** 2
ROWS = np.eye(4, dtype=np.float32)
SOURCE = data.Source(ImageTable(np.zeros((32, 8, 8), np.uint8), np.arange(32) // 2, tuple("abcdefghijklmnop")))
SIZES = {"num_classes": 3, "embedding_dim": 4}

# A call of everything public that takes integers, with a value for each of them.
CALLS: dict[str, dict[str, Any]] = {
    "ArcFaceLoss": SIZES,
    "BatchRange": {"batches": ClassBalancedBatches(LABELS, 2, 1, seed=0), "start": 1, "stop": 4},
    "CCPLoss": {"loss": method.ContrastiveLoss(), **SIZES, "proxies_per_class": 2, "seed": 3, "nearest_positives": 1},
    "ClassBalancedBatches": {
        **{"labels": LABELS, "classes_per_batch": 2, "samples_per_class": 1, "seed": 5, "rank": 1, "world_size": 2}
    },
    "ClusterScores": {"nmi": 1.0, "ami": 1.0, "num_clusters": 2},
    "CrossBatchMemory": {
        **{"loss": method.ContrastiveLoss(), "embedding_dim": 4, "memory_batches": 2, "batch_size": 3, "start": 0}
    },
    "Draw": {"epoch": 1, "row": 2, "copy": 0},
    "EmbeddingModel": {"backbone": models.SmallConv(1), "embedding_dim": 4},
    "EmbeddingPool": {"dataset": DATASET, "per_class": 2, "batch_size": 2, "workers": 0},
    "EvalTransform": {"size": 8, "resize": 9},
    "ImageDataset": {"table": TABLE, "transform": TrainTransform(8), "channels": 1, "seed": 2},
    "ProjectionOptions": {"patience": 4},
    "ProxyAnchorLoss": SIZES,
    "ProxyNCALoss": SIZES,
    "Settings": {"proxies_per_class": 3, "max_steps": 7, "seed": 1, "channels": 1, "folds": 3, "fold": 2},
    "SmallConv": {"channels": 1, "width": 8},
    "SoftTripleLoss": {**SIZES, "centers_per_class": 2},
    "SubCenterArcFaceLoss": {**SIZES, "centers_per_class": 2},
    "TrainTransform": {"size": 8},
    "Warmup": {"frozen": nn.Linear(1, 1), "steps": 3},
    "class_separation": {"points": POINTS, "k": 2},
    "closed_form_head": {"features": POINTS.flatten(0, 1), "labels": torch.arange(8) // 4, "dim": 2},
    "cluster_scores": {"embeddings": POINTS[0], "labels": LABELS, "iterations": 2, "seed": 1},
    "class_bootstrap": {"values": [[0.1, 0.5, 0.9]], "labels": [0, 1, 2], "samples": 50, "seed": 3},
    "paired_difference": {
        "values": [0.1, 0.5, 0.9],
        "reference": [0.2, 0.3, 0.4],
        "labels": [0, 1, 2],
        "samples": 50,
        "seed": 3,
    },
    "class_interval": {"values": [0.1, 0.5, 0.9], "labels": [0, 1, 2], "samples": 50, "seed": 3},
    "score_intervals": {"scores": SCORES, "labels": LABELS, "seed": 3},
    "create_model": {"backbone": "small_conv", "embedding_dim": 4, "channels": 1, "image_size": 32},
    "eval_loader": {"table": TABLE, "transform": EvalTransform(8), "channels": 1, "batch_size": 2, "workers": 0},
    "evaluate": {"embeddings": POINTS[0], "labels": LABELS, "chunk_elements": 100},
    "find_problems": {"embeddings": ROWS, "labels": LABELS, "centers": 2},
    "greedy_k_center": {"points": POINTS, "centers": POINTS[:, :1], "k": 2},
    "augmentation": {"queries": ROWS, "gallery": ROWS, "k": 2, "count": 1},
    "k_reciprocal": {"queries": ROWS, "gallery": ROWS, "k": 2, "k1": 2, "k2": 1},
    "nearest": {"queries": ROWS, "gallery": ROWS, "k": 2},
    "query_expansion": {"queries": ROWS, "gallery": ROWS, "k": 2, "count": 1},
    "in_chunks": {"draws": [data.Draw(0, 1, 0)] * 3, "size": 2},
    "make_splits": {"source": SOURCE, "folds": 3, "fold": 1},
    "nearest_neighbors": {"queries": POINTS[0], "k": 2, "chunk_elements": 100},
    "pool_draws": {"labels": LABELS, "per_class": 3, "seed": 0, "draw": 1},
    "pool_rows": {"labels": LABELS, "per_class": 3, "seed": 0, "draw": 1},
    "read_image": {"source": np.zeros((4, 6), np.uint8), "channels": 3, "min_size": 4},
    "train_loader": {"dataset": DATASET, "batches": [[data.Draw(0, 1, 0)]], "workers": 0},
}

# Those whose integers are results, or which need files, a package that may be missing, or a subclass.
RESULTS = {
    "Finding",
    "BadImage",
    "ClassBootstrap",
    "HeadStart",
    "PackedImage",
    "RetrievalScores",
    "InputConvention",
    "ImageTable",
    "Run",
}
NEED_FILES = {"ExportedModel", "build_cache", "load_source", "ProxyLoss", "TimmBackbone"}


def public() -> dict[str, Any]:
    """Return everything public by name."""
    found = {name: getattr(ccpml, name) for name in ccpml.__all__}
    for module in (baselines, cleaning, data, method, models, reranking, retrieval, training):
        found |= {name: getattr(module, name) for name in module.__all__}
    return found


def integers(call: Callable[..., Any]) -> Iterator[str]:
    """Yield the arguments that take an integer."""
    for name, parameter in inspect.signature(call).parameters.items():
        hint = parameter.annotation if isinstance(parameter.annotation, str) else repr(parameter.annotation)
        if hint == "<class 'int'>" or hint.startswith("int |") or "int | None" in hint:
            yield name


def test_the_table_is_complete() -> None:
    for name, call in public().items():
        if inspect.isfunction(call) or inspect.isclass(call):
            own = set(integers(call)) if name not in RESULTS | NEED_FILES and call.__init__ is not object else set()
            if own and name != "Settings":  # two have more than fit here; all are converted by one loop
                assert name in CALLS, f"{name}: add a call with {sorted(own)}"
    for name in CALLS.keys() - {"Settings", "eval_loader"}:
        missing = set(integers(public()[name])) - CALLS[name].keys()
        assert not missing, f"{name}: add a value of {sorted(missing)}"


def outcome(result: Any) -> Any:
    """Return what can be compared of a result."""
    if isinstance(result, training.EmbeddingPool):
        return result(nn.Flatten(), 0).tolist()
    if isinstance(result, ClassBalancedBatches):
        result = result.steps(0, 3)
    if isinstance(result, data.BatchRange):
        return list(result)
    if isinstance(result, ImageDataset):
        return result[data.Draw(0, 1, 0)][0].tolist()
    if isinstance(result, torch.utils.data.DataLoader):
        return [(images.tolist(), labels.tolist()) for images, labels in result]
    if isinstance(result, np.ndarray | torch.Tensor):
        return result.tolist()
    if isinstance(result, data.Splits):
        return result.train.class_names, result.validation.class_names
    return repr(result).partition(" object at 0x")[0]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("name", sorted(CALLS))
def test_an_integer_of_numpy_is_an_integer(name: str, kind: type) -> None:
    call, arguments = public()[name], CALLS[name]
    given = {key: kind(value) if type(value) is int else value for key, value in arguments.items()}
    expected, got = outcome(call(**arguments)), outcome(call(**given))
    if name not in {"Draw", "ClusterScores"}:  # tuples of what they are given
        assert got == expected
        assert "np." not in str(got)
        kept = getattr(call(**given), "__dict__", {})
        assert not {key for key, value in kept.items() if isinstance(value, np.integer)}


@pytest.mark.parametrize("value", [2.5, "2"])
@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"Draw", "ClusterScores"}))  # tuples of what they are given
def test_what_is_no_integer_is_refused_by_name(name: str, value: object) -> None:
    call = public()[name]
    for argument in CALLS[name].keys() & {*integers(call)}:
        with pytest.raises(ValueError, match=rf"^{argument}: expected "):
            outcome(call(**{**CALLS[name], argument: value}))


def test_settings_of_numpy_can_be_written() -> None:
    numbers = {"embedding_dim": np.int64(8), "lr": np.float64(0.5), "fold": np.int32(1), "rewind": np.bool_(True)}
    options = ccpml.ProjectionOptions(rewind=numbers.pop("rewind"), patience=np.int64(2))  # type: ignore[arg-type]
    parameters = {"margin": np.float64(0.25)}
    settings = ccpml.Settings(loss="triplet", loss_parameters=parameters, projections=options, **numbers)  # type: ignore[arg-type]
    again = ccpml.Settings.from_dict(yaml.safe_load(yaml.safe_dump(settings.as_dict())))
    assert again == settings
    assert {type(value).__module__ for value in settings.flat().values()} == {"builtins"}


def test_an_index_of_numpy_or_torch_is_a_row() -> None:
    dataset = ImageDataset(TABLE, EvalTransform(8), channels=1)
    for row in (np.int32(2), np.uint8(2), torch.tensor(2), -2):
        assert torch.equal(dataset[row][0], dataset[2][0])  # type: ignore[index]


@pytest.mark.parametrize("value", [True, 2.0, "2", None, np.float64(2), np.bool_(True)])
def test_anything_else_is_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"k: expected an integer of at least 1, got "):
        as_int("k", value, 1)


@pytest.mark.parametrize("value", ["1", None, True, float("nan"), float("inf"), 10**400, torch.ones(2), [1.0]])
@pytest.mark.parametrize("name", sorted(name for name in CALLS if name.endswith("Loss") or name == "ProjectionOptions"))
def test_what_is_no_finite_number_is_refused_by_name(name: str, value: object) -> None:
    call = public()[name]
    found = [one.name for one in inspect.signature(call).parameters.values() if one.annotation in {float, "float"}]
    for parameter in found:
        with pytest.raises(ValueError, match=f"{parameter}: expected "):
            call(**{**CALLS[name], parameter: value})


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("name", sorted(name for name in CALLS if name.endswith("Loss")))
def test_labels_of_any_integer_dtype_are_labels(name: str, kind: torch.dtype) -> None:
    criterion, embeddings = public()[name](**CALLS[name]), torch.arange(24.0).view(6, 4).cos()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.equal(criterion(embeddings, labels.to(kind)), criterion(embeddings, labels))


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None])
def test_a_batch_size_is_a_positive_integer(value: Any) -> None:
    with pytest.raises(ValueError, match="batch_size: expected an integer of at least 1, got "):
        list(cropped_batches([np.zeros((9, 9), np.uint8)], EvalTransform(8), 1, value))


def test_a_loss_around_none_is_refused() -> None:
    with pytest.raises(ValueError, match="loss: expected a pair loss, got 'contrastive'"):
        method.CCPLoss("contrastive", **SIZES, proxies_per_class=2)  # type: ignore[arg-type]


def test_a_text_in_place_of_a_truth_value_is_refused(tmp_path: Path) -> None:
    embeddings = torch.rand(4, 2)
    for name, call in {
        "bias": lambda no: ccpml.create_model("small_conv", 4, bias=no),
        "freeze_batchnorm": lambda no: ccpml.create_model("small_conv", 4, freeze_batchnorm=no),
        "per_query": lambda no: ccpml.evaluate(embeddings, LABELS, per_query=no),
        "features": lambda no: ccpml.train(ccpml.Settings(data="glyphs"), tmp_path / "run", features=no),
        "labeled": lambda no: data.load_csv(tmp_path / "a.csv", labeled=no),
        "flip": lambda no: TrainTransform(8, flip=no),
        "writable": lambda no: ServiceSettings(writable=no),
    }.items():
        for no in ("no", "", 2, 1.0, None, np.array([True, False])):
            with pytest.raises(ValueError, match=rf"^{name}: expected True or False, got "):
                call(no)
    for yes in (True, 1, np.bool_(True), np.int64(1)):
        assert ccpml.create_model("small_conv", 4, bias=yes).linear.bias is not None


def test_every_public_truth_value_is_checked() -> None:
    """The settings check their types themselves, and some decide only how fast it goes, or what is shown."""
    unchecked, harmless = set(), {"progress", "pin_memory", "persistent"}
    for package in (ccpml, baselines, data, method, models, retrieval, training):
        for name in package.__all__:
            value = getattr(package, name)
            flags = [
                parameter.name
                for parameter in (inspect.signature(value).parameters.values() if callable(value) else ())
                if parameter.annotation in (bool, "bool")
                and parameter.name not in {"progress", "pin_memory", "persistent"}
            ]
            source = inspect.getsource(value) if flags else "check_flags"
            if "check_flags" not in source and value not in (ccpml.ProjectionOptions, ccpml.Settings):
                unchecked |= {f"{name}.{flag}" for flag in flags if flag not in harmless}
    assert not unchecked

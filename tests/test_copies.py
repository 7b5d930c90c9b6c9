"""Public objects can be copied and pickled, as processes and tools that train several models do."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from ccpml import (
    AlternatingProjections,
    ArcFaceLoss,
    CCPCallback,
    CCPLoss,
    ContrastiveLoss,
    CosineContrastiveLoss,
    CrossBatchMemory,
    EmbeddingPool,
    ExportedModel,
    Index,
    MultiSimilarityLoss,
    ProjectionOptions,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    SubCenterArcFaceLoss,
    TripletMarginLoss,
    cluster_scores,
    create_model,
    evaluate,
    export_run,
    load_run,
    train,
)
from ccpml.calibration.run import calibrate_run
from ccpml.cleaning import find_problems
from ccpml.data import ClassBalancedBatches, EvalTransform, ImageDataset, TrainTransform, load_source, make_splits
from ccpml.data.dataset import eval_loader
from ccpml.reranking import Codes
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import evaluate_run
from ccpml.serving import Filter
from ccpml.serving.search.approximate import open_approximate
from tests.toy import quick_settings, toy_folder

C, D = 6, 8
X = torch.randn(60, D, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % C


class World(NamedTuple):
    data: Path
    run: Path
    onnx: Path
    index: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    data = toy_folder(folder / "photos")
    run = train(quick_settings(data=f"folder:{data}", max_steps=2), folder / "run", progress=False).path
    export_run(run, "onnx", folder / "model.onnx")
    with Index.create(folder / "made.index", load_run(run)) as index:
        index.sync(f"folder:{data}")
    return World(data, run, folder / "model.onnx", folder / "made.index")


def trained(criterion: nn.Module) -> nn.Module:
    criterion(X.clone().requires_grad_(), Y).backward()
    return criterion.eval()


def projections() -> AlternatingProjections:
    criterion = CCPLoss(ContrastiveLoss(), C, D, 2)
    made = AlternatingProjections(nn.Linear(D, D), criterion, patience=3)
    made.start(lambda: X.view(C, 10, D))
    made.observe(0.5)
    return made


def dataset(world: World) -> ImageDataset:
    return ImageDataset(load_source(f"folder:{world.data}").table, EvalTransform(28), 1)


def approximate(world: World) -> Index:
    index = Index.open(world.index, load_run(world.run))
    with index.view() as view:
        index.scan = open_approximate(index.path, view, "hnsw")
    return index


def loss_of(criterion: Any) -> Any:
    torch.manual_seed(0)
    return criterion(X, Y).detach()


def found_by(index: Index) -> Any:
    with index:
        return index.scan is None, [hit.item.path for hit in index.search(index.embed([GRAY]), 9)[0]]


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, with the tensors and arrays in them."""
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool((np.asarray(one) == np.asarray(other)).all())
    if isinstance(one, list | tuple) and not hasattr(one, "_fields"):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def itself(made: Any) -> Any:
    return made


GRAY = np.full((28, 28), 128, np.uint8)
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "ContrastiveLoss": ContrastiveLoss,
    "CosineContrastiveLoss": CosineContrastiveLoss,
    "TripletMarginLoss": TripletMarginLoss,
    "MultiSimilarityLoss": MultiSimilarityLoss,
    "CCPLoss": lambda: CCPLoss(TripletMarginLoss(), C, D, 2, class_rate=0.5, nearest_positives=1),
    "CrossBatchMemory": lambda: CrossBatchMemory(ContrastiveLoss(), D, 3, 60, start=0),
    "ProxyAnchorLoss": lambda: ProxyAnchorLoss(C, D),
    "ProxyNCALoss": lambda: ProxyNCALoss(C, D),
    "SoftTripleLoss": lambda: SoftTripleLoss(C, D),
    "ArcFaceLoss": lambda: ArcFaceLoss(C, D),
    "SubCenterArcFaceLoss": lambda: SubCenterArcFaceLoss(C, D),
}

OBJECTS: dict[str, tuple[Callable[[World], Any], Callable[[Any], Any]]] = {
    **{name: (lambda _, make=make: trained(make()), loss_of) for name, make in LOSSES.items()},
    "AlternatingProjections": (lambda _: projections(), lambda made: made.state_dict()["best_score"]),
    "ProjectionOptions": (lambda _: ProjectionOptions(patience=2), itself),
    "CCPCallback": (lambda world: CCPCallback(EmbeddingPool(dataset(world), 3)), lambda made: made.options),
    "EmbeddingModel": (
        lambda _: create_model("small_conv", D, channels=1).eval(),
        lambda made: made(torch.ones(2, 1, 28, 28)).detach(),
    ),
    "EmbeddingPool": (lambda world: EmbeddingPool(dataset(world), 3), lambda pool: pool(nn.Flatten(), 0)),
    "ImageDataset": (dataset, lambda made: made[3]),
    "loader": (lambda world: eval_loader(dataset(world).table, EvalTransform(28), 1, 16), list),
    "TrainTransform": (lambda _: TrainTransform(28), itself),
    "ClassBalancedBatches": (lambda _: ClassBalancedBatches(Y.numpy(), 3, 2, 0), lambda made: list(made.steps(3, 5))),
    "Splits": (lambda world: make_splits(load_source(f"folder:{world.data}")), lambda splits: splits.test.labels),
    "Settings": (lambda world: quick_settings(), itself),
    "RunDirectory": (lambda world: RunDirectory.open(world.run), lambda made: made.scores()),
    "Run": (lambda world: load_run(world.run), lambda made: (made.fingerprint, made.embed([GRAY]))),
    "ExportedModel": (lambda world: ExportedModel(world.onnx, threads=1), lambda made: made.embed([GRAY])),
    "Description": (lambda world: ExportedModel(world.onnx).description, itself),
    "Index": (lambda world: Index.open(world.index, load_run(world.run)), found_by),
    "Index, approximate": (approximate, found_by),
    "Filter": (lambda _: Filter.parse("label = 'a'"), repr),
    "Codes": (lambda _: Codes.build(X.numpy(), "int8"), lambda made: made.search(X.numpy(), X.numpy(), 3).indices),
    "RetrievalScores": (lambda _: evaluate(X, Y, per_query=True), repr),
    "ClusterScores": (lambda _: cluster_scores(X, Y), itself),
    "Evaluation": (lambda world: evaluate_run(world.run), repr),
    "Certificate": (lambda world: calibrate_run(world.run, f"folder:{world.data}"), itself),
    "Problems": (lambda _: find_problems(X.numpy(), Y.numpy()), repr),
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_as_good(name: str, copied: Callable[[Any], Any], world: World) -> None:
    make, use = OBJECTS[name]
    made = make(world)
    other = copied(made)
    assert type(other) is type(made)
    assert same(use(other), use(made))

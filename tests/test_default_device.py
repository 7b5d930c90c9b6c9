"""``torch.set_default_device`` changes where a user's tensors are made, and nothing of what is computed from them.

The default device of the tests is ``meta``, on which no value can be read, so that a tensor made there by mistake shows
without a GPU.
"""

import numpy as np
import pytest
import torch
from torch import nn

from ccpml import (
    AlternatingProjections,
    CCPLoss,
    ContrastiveLoss,
    CrossBatchMemory,
    EmbeddingPool,
    MultiSimilarityLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    TripletMarginLoss,
    average_covering_radius,
    average_interclass_distance,
    cluster_scores,
    create_model,
    evaluate,
    greedy_k_center,
    nearest_neighbors,
    pooled_features,
    start_head,
)
from ccpml.data import EvalTransform, ImageDataset, ImageTable, TrainTransform, eval_loader
from ccpml.method import class_separation
from ccpml.models import closed_form_head

C, D = 5, 4
X, Y = torch.randn(30, D), torch.arange(30) % C
POINTS = torch.randn(C, 6, D)
TABLE = ImageTable(np.random.default_rng(0).integers(0, 255, (20, 32, 32), np.uint8), np.arange(20) % C, tuple("abcde"))


def losses():
    torch.manual_seed(0)
    pair_losses = ContrastiveLoss(), TripletMarginLoss(), MultiSimilarityLoss()
    proxies = [CCPLoss(loss, C, D, 3, nearest_positives=1, class_rate=0.5) for loss in pair_losses]
    memory = CrossBatchMemory(ContrastiveLoss(), D, 2, 30, start=0)
    return [*pair_losses, *proxies, memory, ProxyAnchorLoss(C, D), ProxyNCALoss(C, D)]


def network():
    torch.manual_seed(0)
    return create_model("small_conv", embedding_dim=8, channels=1, bias=True)


def of_losses(made):
    return [loss(X, Y) for _ in range(2) for loss in made]


def of_projections(made):
    model, criterion = made
    projections = AlternatingProjections(model, criterion, patience=1, warm_start="auto")
    projections.start_when_ready(lambda: POINTS / 99 + POINTS[:, :1])  # separated
    criterion(model(X), Y).backward()
    projections.observe(0.5), projections.observe(0.4)
    projections.project(lambda: POINTS)
    projections.pull()
    projections.load_state_dict(projections.state_dict())
    return criterion.proxies.detach(), projections.separation


def of_loader(workers):
    return list(eval_loader(TABLE, EvalTransform(28), 1, 8, workers))


def of_random_crop(dataset):
    torch.manual_seed(0)
    return dataset[0]


def of_head(model):
    features, labels = pooled_features(model, of_loader(0))
    start_head(model.linear, features, labels, "whitening", length=1.0)
    return model.linear.weight.detach()


CALLS = {
    "losses": (losses, of_losses),
    "projections": (lambda: (nn.Linear(D, D), CCPLoss(ContrastiveLoss(), C, D, 2)), of_projections),
    "evaluate": (lambda: None, lambda _: evaluate(X, Y, per_query=True).per_query.map_at_r),
    "neighbors": (lambda: None, lambda _: nearest_neighbors(X, k=3)),
    "clusters": (lambda: None, lambda _: cluster_scores(X, Y).ami),
    "covers": (lambda: None, lambda _: greedy_k_center(POINTS, POINTS[:, :1], 3)),
    "radius": (lambda: None, lambda _: average_covering_radius(X, Y)),
    "distance": (lambda: None, lambda _: average_interclass_distance(X, Y)),
    "separation": (lambda: None, lambda _: class_separation(POINTS, 2)),
    "random crop": (lambda: ImageDataset(TABLE, TrainTransform(28), 1), of_random_crop),
    "loader": (lambda: 0, of_loader),
    "loader with workers": (lambda: 1, of_loader),
    "pool": (
        lambda: (EmbeddingPool(ImageDataset(TABLE, TrainTransform(28), 1), 2), network()),
        lambda p: p[0](p[1], 0),
    ),
    "head": (network, of_head),
    "isometry": (lambda: None, lambda _: closed_form_head(X, Y, 16, "whitening").weight),
    "complement": (lambda: None, lambda _: closed_form_head(X[:3].repeat(2, 3), Y[:6], 8, "pca").weight),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_do_not_depend_on_the_default_device(name):
    make, call = CALLS[name]
    torch.manual_seed(0)
    expected = call(make())
    torch.manual_seed(0)
    made = make()
    torch.set_default_device("meta")
    try:
        found = call(made)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)

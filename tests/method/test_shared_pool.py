"""Pools, proxies and weights that cannot be read or written to are refused."""

import pytest
import torch
from torch import nn

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss

C, D, K = 4, 3, 2


def pool():
    return torch.randn(C, 6, D)


def test_what_is_no_pool_or_network_is_named():
    criterion = CCPLoss(ContrastiveLoss(), C, D, K)
    with pytest.raises(ValueError, match=r"model: expected nn\.Module, got function"):
        AlternatingProjections(pool, criterion)
    with pytest.raises(ValueError, match=r"pool: expected a function that returns embeddings \(C, b, d\), got Tensor"):
        AlternatingProjections(nn.Linear(5, D), criterion).start(pool())


def test_proxies_that_are_computed_are_not_written_to():
    criterion = CCPLoss(ContrastiveLoss(), C, D, K)
    nn.utils.parametrize.register_parametrization(criterion, "proxies", nn.Tanh(), unsafe=True)
    with pytest.raises(ValueError, match="proxies: expected a parameter, got a parametrization"):
        AlternatingProjections(nn.Linear(5, D), criterion).start(pool)


def test_sparse_gradients_are_not_pulled():
    model, criterion = nn.Embedding(5, D, sparse=True), CCPLoss(ContrastiveLoss(), C, D, K)
    projections = AlternatingProjections(model, criterion, patience=1)
    projections.start(pool)
    projections.observe(0.5)
    projections.observe(0.4)
    projections.project(pool)
    criterion(model(torch.arange(C)), torch.arange(C)).backward()
    with pytest.raises(ValueError, match=r"gradient of 'weight': expected a dense one, got torch\.sparse_coo"):
        projections.pull()

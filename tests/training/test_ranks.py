"""Lightning on two ranks trains as on one, with all proxies on each rank or sharded."""

import os
from functools import partial

import lightning as L
import pytest
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from ccpml import CCPCallback, CCPLoss, TripletMarginLoss
from ccpml.distributed import own_rank, world_size
from ccpml.training import MetricLearning
from tests.ranks import run_on_ranks

X = torch.randn(48, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) // 2 % 6
POOL = torch.randn(6, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def part_of_batches(batch):
    """This rank's part of each batch."""
    size = batch // world_size()
    return [range(start, start + size) for start in range(own_rank() * size, len(X), batch)]


def trained(path, sharded):
    torch.manual_seed(3)
    net = nn.Linear(9, 5, bias=False)
    criterion = CCPLoss(TripletMarginLoss(0.1), 6, 5, 2)
    module = MetricLearning(net, criterion, lr=0.05, weight_decay=0.01, shard_proxies=sharded).double()
    options = {"patience": 1, "strength": 0.1, "min_delta": 1.0, "warm_start": 4}  # begins after the first of 3 epochs
    callback = CCPCallback(lambda module, draw: POOL * (draw + 1), **options)
    ranks = {}
    if distributed.is_initialized():
        os.environ |= {"LOCAL_RANK": str(distributed.get_rank()), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        ranks = {"devices": distributed.get_world_size(), "strategy": "ddp"}
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    options = {"max_epochs": 3, "gradient_clip_val": 0.02, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
    trainer = L.Trainer(accelerator="cpu", precision="64-true", callbacks=[callback], **quiet, **options, **ranks)
    data = TensorDataset(X, LABELS)
    trainer.fit(
        module, DataLoader(data, batch_sampler=part_of_batches(12)), DataLoader(data, batch_sampler=part_of_batches(48))
    )
    assert callback.projections.instance >= 1
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert len(criterion.proxies) == (3 if sharded else 6)
    trainer.save_checkpoint(path)
    return scores, torch.load(path, weights_only=True)


@pytest.mark.parametrize("sharded", [False, True])
def test_two_ranks_train_as_one_process_does(tmp_path, sharded):
    scores, checkpoint = trained(tmp_path / "one.ckpt", False)
    for rank_scores, rank_checkpoint in run_on_ranks(trained, 2, tmp_path / "two.ckpt", sharded):
        assert rank_scores == pytest.approx(scores, rel=1e-6)
        for part in ("state_dict", "optimizer_states", "callbacks"):
            torch.testing.assert_close(rank_checkpoint[part], checkpoint[part], rtol=1e-6, atol=1e-9)


QUIET = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)


class Rounding(nn.Module):
    """Ranks that round differently, as on two kinds of GPU."""

    def forward(self, x):
        return x + own_rank() * 1e-6 * torch.randn_like(x)


def scored(count, stage, listed, sampler=None, roles=True, net=None, **options):
    """The scores of the first images, half of which are queries, as Lightning deals them out to the ranks."""
    data = TensorDataset(X[:count], LABELS[:count])
    is_query = torch.arange(count) < count // 2 if roles else None
    module = MetricLearning(net or nn.Flatten(), TripletMarginLoss(0.1), lr=0.0, is_query=is_query)
    ranks = {}
    if distributed.is_initialized():
        os.environ |= {"LOCAL_RANK": str(distributed.get_rank()), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        ranks = {"devices": distributed.get_world_size(), "strategy": "ddp"}
    trainer = L.Trainer(accelerator="cpu", precision="64-true", **QUIET, **ranks, **options)
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    given = {None: loader, list: [loader], dict: {"val": loader}}[listed]
    getattr(trainer, stage)(module, given, verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return scores, None if module.validation is None else module.validation[1]


def refused():
    try:
        scored(40, "validate", None, SubsetRandomSampler(range(40)))
    except ValueError as error:
        return str(error)


def test_a_random_sampler_whose_order_differs_between_the_ranks_is_refused():
    for text in run_on_ranks(refused, 2):
        assert text.startswith("val_dataloaders: expected images in one order, got a random sampler")


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("count", [40, 41])
def test_images_that_lightning_deals_out_are_scored_as_on_one_rank(count, stage):
    scores, labels = scored(count, stage, None)
    for rank_scores, rank_labels in run_on_ranks(scored, 2, count, stage, list if count == 40 else dict):
        assert rank_scores == pytest.approx(scores, rel=1e-9)
        assert labels is rank_labels or torch.equal(rank_labels, labels)


@pytest.mark.parametrize("roles", [True, False])
def test_images_that_nothing_deals_out_count_once(roles):
    """Each rank embeds all of them, so that each image would find its own copy at distance 0."""
    options = {"roles": roles, "use_distributed_sampler": False}
    scores, labels = scored(41, "validate", None, **options)
    for rank_scores, rank_labels in run_on_ranks(partial(scored, **options), 2, 41, "validate", None):
        assert rank_scores == pytest.approx(scores, rel=1e-9)
        assert torch.equal(rank_labels, labels)
    for rank_scores, _ in run_on_ranks(partial(scored, net=Rounding(), **options), 2, 41, "validate", None):
        assert rank_scores == pytest.approx(scores, rel=1e-3)

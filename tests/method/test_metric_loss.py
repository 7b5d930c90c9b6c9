"""Our losses work with the miners and wrappers of pytorch-metric-learning, and its losses within ours."""

import copy
import pickle

import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import distributed

from ccpml import CCPLoss, ContrastiveLoss, MultiSimilarityLoss, PairLoss, TripletMarginLoss
from ccpml.baselines import CrossBatchMemory, ProxyAnchorLoss
from ccpml.method.normalize import lipschitz_normalize
from tests.method.test_losses import each_loss
from tests.ranks import run_on_ranks

SUPPORTED = [ContrastiveLoss(0.1, 0.9), TripletMarginLoss(0.3), MultiSimilarityLoss()]
each_supported = pytest.mark.parametrize("loss", SUPPORTED, ids=lambda loss: type(loss).__name__)


def batch(seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=generator).requires_grad_(), torch.arange(size) // 2


def pml_twin(loss):
    """The same formula in pytorch-metric-learning, for φ-normalized vectors."""
    plain = {"distance": LpDistance(normalize_embeddings=False)}
    if isinstance(loss, ContrastiveLoss):
        return losses.ContrastiveLoss(loss.pos_margin, loss.neg_margin, **plain)
    return losses.TripletMarginLoss(loss.margin, **plain)


@each_loss
def test_it_is_a_loss_of_both_libraries(loss):
    criteria = [loss, CCPLoss(loss, 4, 4, 2), CrossBatchMemory(loss, 4, 2, 8), ProxyAnchorLoss(4, 4)]
    for criterion in criteria:
        assert isinstance(criterion, BaseMetricLossFunction)
        assert type(criterion).__name__ in repr(criterion)
        for copied in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
            assert type(copied) is type(criterion)
            torch.testing.assert_close(copied.state_dict(), criterion.state_dict())
    assert isinstance(loss, PairLoss)


@each_loss
def test_multiple_losses(loss):
    x, labels = batch()
    mined = miners.MultiSimilarityMiner()(x, labels)
    several = losses.MultipleLosses([loss, ContrastiveLoss()], weights=[2, 0.5])
    torch.testing.assert_close(several(x, labels), 2 * loss(x, labels) + 0.5 * ContrastiveLoss()(x, labels))
    expected = 2 * loss(x, labels, mined) + 0.5 * ContrastiveLoss()(x, labels, mined)
    torch.testing.assert_close(several(x, labels, mined), expected)


@pytest.mark.parametrize("loss", SUPPORTED[:2], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(
    "miner", [None, miners.TripletMarginMiner(0.3, distance=LpDistance(normalize_embeddings=False))]
)
def test_their_cross_batch_memory(loss, miner):
    ours = losses.CrossBatchMemory(loss, 4, memory_size=20, miner=miner)
    theirs = losses.CrossBatchMemory(pml_twin(loss), 4, memory_size=20, miner=miner)
    for seed in range(5):  # the memory wraps around
        x, labels = batch(seed)
        x = lipschitz_normalize(x)
        torch.testing.assert_close(ours(x, labels), theirs(x, labels))
    hard = miners.BatchHardMiner()(x, labels)
    torch.testing.assert_close(ours(x, labels, hard), theirs(x, labels, hard))


@each_loss
def test_distributed_wrapper_without_ranks(loss):
    x, labels = batch()
    mined = miners.MultiSimilarityMiner()(x, labels)
    wrapper = DistributedLossWrapper(loss)
    for indices in (None, mined):
        with pytest.warns(UserWarning, match="non-distributed setting"):
            value = wrapper(x, labels, indices)
        torch.testing.assert_close(value, loss(x, labels, indices))


def on_rank():
    """Gradients by their wrapper, of each rank's part of one batch: around a loss, around CCP, and within CCP."""
    (x, labels), rank, found = batch(), distributed.get_rank(), []
    part = slice(4 * rank, 4 * rank + 4)
    for loss in SUPPORTED:
        torch.manual_seed(0)
        inner = CCPLoss(loss, 4, 4, 2)
        torch.manual_seed(0)
        outer = CCPLoss(DistributedLossWrapper(loss), 4, 4, 2)
        for criterion in (DistributedLossWrapper(loss), DistributedLossWrapper(inner), outer):
            gradients = torch.autograd.grad(criterion(x[part], labels[part]), [x, *criterion.parameters()])
            found.append(list(gradients))
    return found


def test_their_distributed_wrapper_on_ranks():
    """Averaged over the ranks, as DDP does, the gradients are those of one process."""
    ranks = run_on_ranks(on_rank, 2)
    x, labels = batch()
    cases = iter(zip(*ranks, strict=True))
    for loss in SUPPORTED:
        torch.manual_seed(0)
        whole = CCPLoss(loss, 4, 4, 2)
        for criterion, place in ((loss, "around ℓ"), (whole, "around CCP"), (whole, "within CCP")):
            expected = torch.autograd.grad(criterion(x, labels), [x, *criterion.parameters()])
            (grad_x, *_), (other_x, *_) = rank_gradients = next(cases)
            torch.testing.assert_close((grad_x + other_x) / 2, expected[0])
            for one in rank_gradients if place == "within CCP" else ():
                torch.testing.assert_close(one[1], expected[1])


@each_loss
def test_ccp_of_multiple_losses(loss):
    x, labels = batch()
    theirs = losses.ContrastiveLoss()
    criterion = CCPLoss(losses.MultipleLosses({"a": loss, "b": theirs}, weights={"a": 2, "b": 0.5}), 4, 4, 2)
    e, q = lipschitz_normalize(x), lipschitz_normalize(criterion.proxies.flatten(0, 1))
    pair = 2 * loss(e, labels) + 0.5 * theirs(e, labels)
    references = {"ref_emb": q, "ref_labels": criterion.proxy_labels}
    proxy = 2 * loss(e, labels, **references) + 0.5 * theirs(e, labels, **references)
    torch.testing.assert_close(criterion(x, labels), 0.1 * pair + proxy)


@each_loss
def test_ccp_of_our_losses_in_a_wrapper_is_that_of_the_losses(loss):
    """There, too, they normalize by themselves."""
    x, labels = batch()
    loss = copy.deepcopy(loss)
    loss.normalize = None
    torch.manual_seed(0)
    wrapped = CCPLoss(losses.MultipleLosses([loss]), 4, 4, 2)
    torch.manual_seed(0)
    torch.testing.assert_close(wrapped(x, labels), CCPLoss(loss, 4, 4, 2)(x, labels))


def test_the_miners_of_multiple_losses_mine_the_pair_term():
    x, labels = batch()
    loss, miner = ContrastiveLoss(), miners.BatchHardMiner()
    criterion = CCPLoss(losses.MultipleLosses([loss], miners=[miner]), 4, 4, 2)
    proxy = loss(x, labels, ref_emb=criterion.proxies.flatten(0, 1), ref_labels=criterion.proxy_labels)
    expected = 0.1 * loss(x, labels, miner(x, labels)) + proxy
    torch.testing.assert_close(criterion(x, labels), expected)


@each_supported
def test_ccp_of_their_cross_batch_memory(loss):
    criterion = CCPLoss(losses.CrossBatchMemory(loss, 4, memory_size=24), 4, 4, 2)
    memory = losses.CrossBatchMemory(loss, 4, memory_size=24)
    for seed in range(4):
        x, labels = batch(seed)
        proxy = loss(x, labels, ref_emb=criterion.proxies.flatten(0, 1), ref_labels=criterion.proxy_labels)
        torch.testing.assert_close(criterion(x, labels), 0.1 * memory(x, labels) + proxy)


@each_loss
def test_mined_pairs_concern_the_pair_term_of_ccp_and_xbm(loss):
    x, labels = batch()
    mined = miners.MultiSimilarityMiner()(x, labels)
    criterion = CCPLoss(loss, 4, 4, 2)
    refs, ref_labels = criterion.proxies.flatten(0, 1), criterion.proxy_labels
    expected = 0.1 * loss(x, labels, mined) + loss(x, labels, ref_emb=refs, ref_labels=ref_labels)
    torch.testing.assert_close(criterion(x, labels, mined), expected)
    memory = CrossBatchMemory(loss, 4, memory_batches=2, batch_size=8, start=0)
    y, _ = batch(1)
    memory(y, labels)
    torch.testing.assert_close(memory(x, labels, mined), loss(x, labels, mined) + loss(x, labels, None, y, labels))


def test_mined_pairs_of_ccp_may_index_references():
    loss, (x, labels), (y, _) = ContrastiveLoss(), batch(), batch(1)
    mined = miners.MultiSimilarityMiner()(x, labels, y, labels)
    criterion = CCPLoss(loss, 4, 4, 2, proxy_weight=0)
    torch.testing.assert_close(criterion(x, labels, mined, y, labels), 0.1 * loss(x, labels, mined, y, labels))


def test_a_loss_can_be_parametrized():
    criterion = CCPLoss(ContrastiveLoss(), 4, 4, 2)
    torch.nn.utils.parametrize.register_parametrization(criterion, "proxies", torch.nn.Tanh(), unsafe=True)
    torch.testing.assert_close(criterion.proxies, criterion.parametrizations.proxies.original.tanh())
    assert isinstance(criterion, CCPLoss)
    assert isinstance(criterion, BaseMetricLossFunction)
    criterion(*batch()).backward()
    assert criterion.parametrizations.proxies.original.grad.abs().sum() > 0

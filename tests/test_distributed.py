"""Ranks compute what one process computes on the joined batch."""

import pytest
import torch
from torch import distributed, nn

from ccpml import AlternatingProjections, CCPLoss, gather_batch
from ccpml.distributed import all_reduce_sum, check_identical, gather_rows, own_rank, rank_range, world_size
from tests.method.test_losses import LOSSES
from tests.ranks import run_on_ranks

CLASSES, PROXIES, DIM, BATCH = 7, 3, 5, 12
X = torch.randn(BATCH, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(BATCH) // 2
POOL = torch.randn(CLASSES, 6, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(3)
    return nn.Linear(9, DIM, bias=False).double()


def criterion(loss, classes=CLASSES, **options):
    torch.manual_seed(4)
    return CCPLoss(loss, classes, DIM, PROXIES, **options).double()


def averaged(parameters):
    """Average gradients over the ranks, as DDP does."""
    for weight in parameters:
        distributed.all_reduce(weight.grad)
        weight.grad /= distributed.get_world_size()


def trained(loss, options, steps=3):
    """Train two instances with this rank's part of each batch."""
    model, proxies = network(), criterion(loss, **options)
    ranks = world_size()
    projections = AlternatingProjections(model, proxies, strength=0.1, patience=1)
    optimizer = torch.optim.Adam([*model.parameters(), *proxies.parameters()], lr=0.1)
    part = slice(*(BATCH // ranks * (own_rank() + i) for i in (0, 1)))
    projections.start(lambda: POOL)
    found = []
    for _ in range(2):
        for _ in range(steps):
            optimizer.zero_grad()
            value = proxies(*gather_batch(model(X[part]), LABELS[part]))
            value.backward()
            if ranks > 1:
                averaged(model.parameters() if proxies.group else [*model.parameters(), *proxies.parameters()])
            found += [value.detach(), model.weight.grad.clone(), proxies.gather_classes(proxies.proxies.grad).clone()]
            projections.pull()
            optimizer.step()
        projections.observe(0.5)
        if projections.observe(0.4):
            projections.project(lambda: POOL * 2)
    return [*found, model.weight.detach(), proxies.gather_classes(proxies.proxies.detach())]


def on_a_rank(sharded):
    """Train with each loss, with all proxies or sharded, and with a part of the classes in each step."""
    options = {"group": distributed.group.WORLD} if sharded else {}
    found = [trained(loss, options) for loss in LOSSES]
    return found if sharded else [*found, trained(LOSSES[0], {"class_rate": 0.8})]


@pytest.mark.parametrize("sharded", [False, True])
def test_two_ranks_train_as_one_process_does(sharded):
    alone = on_a_rank(sharded=False)
    for rank in run_on_ranks(on_a_rank, 2, sharded):
        for result, expected in zip(rank, alone, strict=not sharded):
            torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-9)


def test_ranks_without_a_class_of_their_own():
    """Two classes on three ranks: one rank holds no proxies, and every rank has the whole result."""
    options = {"classes": 2}
    for rank in run_on_ranks(few_classes, 3, options):
        torch.testing.assert_close(rank, few_classes(options), rtol=1e-6, atol=1e-9)


def few_classes(options):
    group = distributed.group.WORLD if distributed.is_initialized() else None
    found = []
    for loss in LOSSES:
        proxies = criterion(loss, group=group, **options)
        with torch.no_grad():
            proxies.proxies.copy_(POOL[proxies.classes.start : proxies.classes.stop, :PROXIES])
        x = (X[:, :DIM] / 3).requires_grad_()
        value = proxies(x, LABELS % 2)
        value.backward()
        found += [value.detach(), x.grad, proxies.gather_classes(proxies.proxies.grad)]
    return found


def pool_with_nan():
    proxies = criterion(LOSSES[0])
    rank = distributed.get_rank()
    pool = POOL.clone()
    pool[0, 0, 0] = float("nan")  # of a class of the first rank
    try:
        AlternatingProjections(network(), proxies).start(lambda: pool)
    except ValueError as error:
        return f"{rank}: {error}"
    return f"{rank} continued"


def test_all_ranks_raise_if_one_has_diverged():
    messages = run_on_ranks(pool_with_nan, 2)
    assert all("has the training diverged?" in message for message in messages)


def uneven_rows():
    rank = distributed.get_rank()
    return gather_rows(torch.arange(3 * rank).view(rank, 3)), list(rank_range(4))


def test_rows_of_all_ranks_are_joined_in_their_order():
    expected = torch.tensor([[0, 1, 2], [0, 1, 2], [3, 4, 5]])
    shares = []
    for rows, share in run_on_ranks(uneven_rows, 3):
        assert torch.equal(rows, expected)
        shares += share
    assert shares == [0, 1, 2, 3]


def sums_and_differences():
    rank = own_rank()
    messages = []
    for tensors in ({"same": torch.ones(3), "other": torch.tensor([rank])}, {"same": torch.ones(3)}):
        try:
            check_identical(**tensors)
        except ValueError as error:
            messages.append(str(error))
    return all_reduce_sum(torch.tensor([1.0, rank])), messages


def test_sums_and_checks_are_of_all_ranks():
    for total, messages in run_on_ranks(sums_and_differences, 2):
        assert total.tolist() == [2, 1]
        assert messages == ["other: expected the same tensor on every rank of the group, got different ones"]


def test_without_a_process_group_arguments_are_returned():
    x, labels = torch.randn(3, 2), torch.arange(3)
    assert gather_batch(x, labels)[0] is gather_rows(x) is all_reduce_sum(x) is x
    assert rank_range(5) == range(5)
    check_identical(x=x)
    with pytest.raises(ValueError, match="labels: expected 3, one for each embedding, got 2"):
        gather_batch(x, labels[:2])


def uneven_batches():
    try:
        gather_batch(torch.ones(3 + own_rank(), 2), torch.zeros(3 + own_rank(), dtype=torch.int64))
    except ValueError as error:
        return str(error)


def test_batches_of_different_sizes_are_refused_on_all_ranks():
    for message in run_on_ranks(uneven_batches, 2):
        assert message == "embeddings: expected as many on each rank, got 3, 4; leave out the last, smaller batch"

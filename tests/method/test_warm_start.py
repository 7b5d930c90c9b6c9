"""The plain pair loss until the embedding tells the classes apart, then the first proxies."""

import copy

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss, TripletMarginLoss, gather_batch, lipschitz_normalize
from ccpml.distributed import own_rank, rank_range, world_size
from ccpml.method import class_separation
from ccpml.options import ProjectionOptions
from tests.ranks import run_on_ranks

C, B, D, K = 6, 5, 3, 2
MEANS = torch.eye(C, 5, dtype=torch.float64) * 3
NOISE = torch.randn(C, B, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % C


def mixed():
    return torch.randn(C, B, D, generator=torch.Generator().manual_seed(1))


def separated():
    return mixed() / 100 + torch.arange(C)[:, None, None] / (2 * C)


def setup(warm_start="auto", **options):
    torch.manual_seed(0)
    model = nn.Linear(5, D)
    criterion = CCPLoss(ContrastiveLoss(0.1, 0.6), C, D, K, pair_weight=0.3)
    projections = AlternatingProjections(model, criterion, warm_start=warm_start, **options)
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], lr=0.05, weight_decay=0.1)
    return model, criterion, projections, optimizer


def step(model, criterion, projections, optimizer):
    loss = criterion(model(MEANS[LABELS].float()), LABELS)
    loss.backward()
    projections.pull()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def test_the_plain_loss_is_trained_while_waiting():
    parts = model, criterion, projections, optimizer = setup()
    plain, random = copy.deepcopy(model), criterion.proxies.detach().clone()
    assert not projections.start_when_ready(mixed)
    assert (projections.started, projections.waiting, projections.instance) == (False, True, -1)
    losses = [step(*parts) for _ in range(3)]
    own = torch.optim.Adam(plain.parameters(), lr=0.05, weight_decay=0.1)
    for expected in losses:
        loss = ContrastiveLoss(0.1, 0.6)(plain(MEANS[LABELS].float()), LABELS)
        assert loss.item() == expected
        loss.backward()
        own.step()
        own.zero_grad()
    assert torch.equal(model.weight, plain.weight)
    assert torch.equal(criterion.proxies, random)
    assert criterion.proxies not in optimizer.state


def test_evaluation_and_copies_of_a_waiting_criterion_wait_too():
    _, criterion, projections, _ = setup()
    projections.start_when_ready(mixed)
    x = torch.randn(12, D)
    expected = ContrastiveLoss(0.1, 0.6)(x, LABELS)
    assert criterion.eval()(x, LABELS) == copy.deepcopy(criterion)(x, LABELS) == expected
    projections.start(mixed)
    assert criterion(x, LABELS) != expected


def test_proxies_are_placed_when_the_classes_separate():
    *_, projections, _ = setup()
    assert not projections.start_when_ready(mixed)
    assert projections.separation == class_separation(lipschitz_normalize(mixed()), K) < 0.5
    assert not projections.observe(0.9)
    assert not projections.observe(0.1)  # nothing is recorded
    pools = []
    assert projections.start_when_ready(lambda: pools.append(separated()) or pools[-1])
    assert len(pools) == 1  # embedded once
    assert projections.separation == 1
    *_, expected, _ = setup()
    expected.start(separated)
    assert torch.equal(projections.criterion.proxies, expected.criterion.proxies)
    assert (projections.waiting, projections.instance, projections.best_score) == (False, 0, None)
    assert projections.start_when_ready(lambda: pytest.fail("it has started"))
    assert not projections.observe(0.2)
    assert projections.best_score == 0.2


@pytest.mark.parametrize("space", ["raw", "lipschitz"])
def test_the_separation_is_measured_as_embeddings_are_compared(space):
    points = (2 * C * separated() - 2.5 + mixed() / 3) * torch.logspace(0, 2, B)[:, None]
    *_, projections, _ = setup(space=space)
    projections.start_when_ready(lambda: points)
    assert projections.separation == class_separation(lipschitz_normalize(points), K) != class_separation(points, K)


def test_of_many_classes_evenly_spaced_ones_are_measured(monkeypatch):
    monkeypatch.setattr("ccpml.method.shared_pool.evenly_spaced_classes", lambda count: [0, 2, 5])
    *_, projections, _ = setup()
    points = torch.cat([separated()[:1], mixed()[1:2], separated()[2:3], mixed()[3:5], separated()[5:]])
    assert projections.start_when_ready(lambda: points)
    assert projections.separation == 1 > class_separation(points, K)


def test_a_sample_of_the_pool_spares_embedding_it():
    *_, projections, _ = setup()
    assert not projections.start_when_ready(lambda: pytest.fail("embedded for nothing"), sample=lambda: mixed()[:3])
    assert projections.separation == class_separation(lipschitz_normalize(mixed()[:3]), K)
    assert projections.start_when_ready(mixed, sample=lambda: separated()[1:])
    assert projections.separation == 1
    *_, wrong, _ = setup()
    with pytest.raises(ValueError, match=r"pool: expected floating point \(2, b, 3\), got .* \(2, 5, 1\)"):
        wrong.start_when_ready(mixed, sample=lambda: mixed()[:2, :, :1])


@pytest.mark.parametrize(("warm_start", "steps", "begins"), [("never", None, True), (30, 29, False), (30, 30, True)])
def test_a_given_beginning_needs_no_separation(warm_start, steps, begins):
    *_, projections, _ = setup(warm_start)
    assert projections.start_when_ready(mixed, steps) is begins
    assert projections.started is begins
    assert projections.separation is None


def test_a_pool_of_one_sample_per_class_begins_at_once():
    model = nn.Linear(5, D)
    projections = AlternatingProjections(model, CCPLoss(ContrastiveLoss(), C, D, 1), warm_start="auto")
    assert projections.start_when_ready(lambda: mixed()[:, :1])


def test_wrong_calls_raise():
    *_, projections, _ = setup(30)
    with pytest.raises(ValueError, match="steps: expected the number of steps made, for warm_start 30, got none"):
        projections.start_when_ready(mixed)
    for bad in ("30", 2.5, -1):
        with pytest.raises(ValueError, match="steps: expected an integer of at least 0, got "):
            projections.start_when_ready(mixed, bad)
    *_, projections, _ = setup()
    with pytest.raises(ValueError, match="pool: expected finite embeddings"):
        projections.start_when_ready(lambda: mixed() * torch.nan)
    projections.start_when_ready(mixed)
    with pytest.raises(RuntimeError, match=r"call start\(pool\) first"):
        projections.project(mixed)
    for bad in ("soon", -1, 1.5, True):
        with pytest.raises(ValueError, match="warm_start: expected 'auto', 'never' or a number of steps"):
            ProjectionOptions(warm_start=bad)
    assert ProjectionOptions(warm_start=np.int64(3), patience=np.int32(2)).warm_start == 3


@pytest.mark.parametrize("waits", [False, True], ids=["started", "waiting"])
def test_a_resumed_run_equals_an_uninterrupted_one(waits):
    parts = setup()
    parts[2].start_when_ready(mixed if waits else separated)
    again = setup()
    for _ in range(2):
        step(*parts)
    for part, other in zip(parts, again, strict=True):
        other.load_state_dict(copy.deepcopy(part.state_dict()))
    assert again[2].waiting is again[1].warming is waits
    assert again[2].separation == parts[2].separation
    results = []
    for each in (parts, again):
        losses = [step(*each)]
        each[2].start_when_ready(separated)
        losses += [step(*each) for _ in range(2)]
        results.append((losses, each[0].weight, each[1].proxies))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        assert torch.equal(a, b)


def trained(sharded, static_graph):
    """Wait, begin, and train on: with DDP on several ranks."""
    torch.manual_seed(3)
    group = distributed.group.WORLD if distributed.is_initialized() else None
    net = nn.Linear(5, D, bias=False).double()
    criterion = CCPLoss(TripletMarginLoss(0.1), C, D, K, group=group if sharded else None).double()
    both = nn.ModuleDict({"net": net, "criterion": criterion})
    optimizer = torch.optim.Adam(both.parameters(), lr=0.05, weight_decay=0.1)
    criterion.attach(optimizer)
    projections = AlternatingProjections(net, criterion, warm_start="auto")

    class Training(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = both

        def forward(self, x, labels):
            return criterion(*gather_batch(net(x), labels))

    training = Training()
    if group is not None:
        training._ddp_params_and_buffers_to_ignore = ["both.criterion.proxies"] * sharded
        training._ddp_params_and_buffers_to_ignore.append("both.criterion.proxy_labels")
        training = DistributedDataParallel(training, static_graph=static_graph)
    mine = slice(*(len(LABELS) // world_size() * (own_rank() + i) for i in (0, 1)))

    def pool():
        classes = rank_range(C)
        points = MEANS[:, None] * 0.2 + NOISE / 3 if projections.instance == 0 else MEANS[:, None] + NOISE / 10
        return net(points[classes.start : classes.stop]).detach()

    waited = []
    assert not projections.start_when_ready(pool)
    for i in range(6):
        training(MEANS[LABELS[mine]] + NOISE[LABELS[mine], i % B], LABELS[mine]).backward()
        projections.pull()
        waited.append(criterion.proxies.grad is None)
        optimizer.step()
        optimizer.zero_grad()
        if i == 2:
            assert criterion.proxies not in optimizer.state
            assert projections.start_when_ready(pool)
    assert waited == [True] * 3 + [False] * 3
    return [projections.separation, net.weight.detach(), criterion.gather_classes(criterion.proxies.detach())]


def trained_in_each_way():
    return [trained(*way) for way in ((False, False), (False, True), (True, False))]


def test_two_ranks_wait_and_begin_as_one_process_does():
    expected = trained(False, False)
    for results in run_on_ranks(trained_in_each_way, 2):
        for result in results:
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)

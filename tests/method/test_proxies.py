"""Sharded proxies: checkpoints hold the proxies of all ranks and load on any number of ranks, sharded or not."""

import copy

import pytest
import torch
from torch import distributed, nn

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss, gather_batch
from ccpml.distributed import own_rank, rank_range, world_size
from tests.ranks import run_on_ranks

CLASSES, BATCH = 7, 12
X = torch.randn(BATCH, 9, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(BATCH) // 2
POOL = torch.randn(CLASSES, 6, 5, generator=torch.Generator().manual_seed(1))


class Training:
    """A network, proxies sharded over the ranks if there are several, their optimizer, and projections."""

    def __init__(self, classes=CLASSES):
        torch.manual_seed(3)
        group = distributed.group.WORLD if distributed.is_initialized() else None
        self.net = nn.Linear(9, 5)
        self.criterion = CCPLoss(ContrastiveLoss(), classes, 5, 3, group=group)
        self.optimizer = torch.optim.Adam([*self.net.parameters(), *self.criterion.parameters()], lr=0.05)
        self.criterion.attach(self.optimizer)
        self.projections = AlternatingProjections(self.net, self.criterion, strength=0.1, patience=1)
        self.parts = self.net, self.criterion, self.optimizer, self.projections

    def train(self, steps):
        part = slice(*(BATCH // world_size() * (own_rank() + i) for i in (0, 1)))
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.criterion(*gather_batch(self.net(X[part]), LABELS[part]))
            loss.backward()
            for weight in self.net.parameters() if world_size() > 1 else ():
                distributed.all_reduce(weight.grad)
                weight.grad /= world_size()
            self.projections.pull()
            self.optimizer.step()
        return [loss.detach(), self.net.weight.detach().clone()]

    def reach_the_second_instance(self):
        self.projections.start(lambda: POOL)
        self.train(2)
        for score in (0.5, 0.4):
            converged = self.projections.observe(score)
        assert converged
        self.projections.project(lambda: 2 * POOL)
        self.train(1)
        self.projections.observe(0.6)

    def save(self, path):
        states = [part.state_dict() for part in self.parts]
        if own_rank() == 0:
            torch.save(states, path)

    def load(self, path):
        for part, state in zip(self.parts, torch.load(path, weights_only=True), strict=True):
            part.load_state_dict(state)


def trained(path):
    training = Training()
    training.reach_the_second_instance()
    training.save(path)
    return training.train(2)


def resumed(path):
    training = Training()
    training.load(path)
    assert training.projections.instance == 1
    proxies = training.criterion.proxies.shape
    assert proxies == training.projections.best_proxies.shape == (len(rank_range(CLASSES)), 3, 5)
    assert training.optimizer.state[training.criterion.proxies]["exp_avg"].shape == proxies
    return training.train(2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of three ranks with 3, 3 and 1 classes, and the result of training on."""
    path = tmp_path_factory.mktemp("checkpoints") / "three.pt"
    return path, run_on_ranks(trained, 3, path)[0]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_checkpoint_resumes_on_another_number_of_ranks(saved, ranks):
    path, expected = saved
    for result in [resumed(path)] if ranks == 1 else run_on_ranks(resumed, ranks, path):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_one_process_resumes_sharded(saved, tmp_path):
    expected = trained(tmp_path / "one.pt")
    torch.testing.assert_close(expected, saved[1], rtol=1e-5, atol=1e-6)
    for result in run_on_ranks(resumed, 2, tmp_path / "one.pt"):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_checkpoints_of_shards_equal_those_of_one_process(saved, tmp_path):
    trained(tmp_path / "one.pt")
    one, three = (torch.load(path, weights_only=True) for path in (tmp_path / "one.pt", saved[0]))
    torch.testing.assert_close(three, one, rtol=1e-5, atol=1e-6)


def load_a_foreign_checkpoint(path):
    training = Training()
    training.reach_the_second_instance()
    before = copy.deepcopy([part.state_dict() for part in training.parts])
    states = torch.load(path, weights_only=True)
    for part, state in zip(training.parts[1:], states[1:], strict=True):
        with pytest.raises(ValueError, match="each of 7 classes, got 4"):
            part.load_state_dict(state)
    torch.testing.assert_close([part.state_dict() for part in training.parts], before, rtol=0, atol=0)


def test_a_checkpoint_of_other_classes_changes_nothing(tmp_path):
    """Four classes, as many as the first of two ranks has of seven."""
    other = Training(classes=4)
    other.projections.start(lambda: POOL[:4])
    other.criterion(other.net(X), LABELS % 4).backward()
    other.optimizer.step()
    other.projections.observe(0.5)
    other.save(tmp_path / "four.pt")
    run_on_ranks(load_a_foreign_checkpoint, 2, tmp_path / "four.pt")


def averaged():
    """Sharded proxies beside their average, which a copy of the module holds."""
    training = Training()
    average = torch.optim.swa_utils.AveragedModel(
        training.criterion, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    assert average.module.group is training.criterion.group
    before = training.criterion.proxies.detach().clone()
    training.train(1)
    average.update_parameters(training.criterion)
    training.train(1)
    average.update_parameters(training.criterion)
    assert not torch.equal(average.module.proxies, before)
    return average.module.state_dict()["proxies"]


def test_an_average_of_sharded_proxies_is_that_of_all():
    expected = averaged()
    for found in run_on_ranks(averaged, 2):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

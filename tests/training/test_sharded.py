import pickle

import pytest
import torch
from torch import distributed, nn

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss, gather_batch
from ccpml.distributed import rank_range
from ccpml.training import load_sharded, save_sharded
from tests.ranks import run_on_ranks

CLASSES, BATCH = 7, 12
X = torch.randn(BATCH, 9, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(BATCH) // 2
POOL = torch.randn(CLASSES, 6, 5, generator=torch.Generator().manual_seed(1))


class Parts:
    """A network, sharded proxies, an optimiser of both, and projections."""

    def __init__(self):
        torch.manual_seed(3)
        self.group = distributed.group.WORLD if distributed.is_initialized() else None
        self.module = nn.ModuleDict({"net": nn.Linear(9, 5)})
        self.module["loss"] = criterion = CCPLoss(ContrastiveLoss(), CLASSES, 5, 3, group=self.group)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=0.05)
        self.projections = AlternatingProjections(self.module, criterion, strength=0.1, patience=1)

    def all(self):
        return self.module, self.optimizer, self.projections

    def train(self, steps):
        net, criterion = self.module["net"], self.module["loss"]
        ranks = distributed.get_world_size() if self.group else 1
        part = slice(*(BATCH // ranks * (rank_range(ranks).start + i) for i in (0, 1)))
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = criterion(*gather_batch(net(X[part]), LABELS[part]))
            loss.backward()
            for weight in net.parameters() if self.group else ():
                distributed.all_reduce(weight.grad)
                weight.grad /= ranks
            self.projections.pull()
            self.optimizer.step()
        return [loss.detach(), net.weight.detach().clone()]

    def begin(self):
        """Go into the second instance."""
        self.projections.start(lambda: POOL)
        self.train(2)
        for score in (0.5, 0.4):
            converged = self.projections.observe(score)
        assert converged
        self.projections.project(lambda: 2 * POOL)
        self.train(1)
        self.projections.observe(0.6)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.02


def save(path):
    parts = Parts()
    parts.begin()
    save_sharded(path, *parts.all())
    return parts.train(2)


def go_on(path):
    parts = Parts()
    load_sharded(path, *parts.all())
    assert parts.projections.instance == 1
    return [*parts.train(2), parts.projections.best_proxies.shape[0], parts.module["loss"].proxies.numel()]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of three ranks, which hold 3, 3 and 1 classes; and how their training goes on."""
    path = tmp_path_factory.mktemp("checkpoints") / "step-3"
    return path, run_on_ranks(save, 3, path)[0]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_checkpoint_loads_on_another_number_of_ranks(saved, ranks):
    path, expected = saved
    results = [go_on(path)] if ranks == 1 else run_on_ranks(go_on, ranks, path)
    for *result, classes, numbers in results:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
        assert numbers == classes * 15
    assert [classes for *_, classes, _ in results] == {1: [7], 2: [4, 3], 3: [3, 3, 1]}[ranks]


def test_one_process_writes_what_ranks_can_read(tmp_path):
    expected = save(tmp_path / "one")
    for *result, _, _ in run_on_ranks(go_on, 2, tmp_path / "one"):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_wrong_use_is_named(saved, tmp_path):
    parts = Parts()
    with pytest.raises(FileNotFoundError, match="no checkpoint is there"):
        load_sharded(tmp_path / "none", *parts.all())
    save_sharded(tmp_path / "one", *parts.all()[:2])
    with pytest.raises(FileExistsError, match="there is something already"):
        save_sharded(tmp_path / "one", *parts.all()[:2])
    parts.module["net"] = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="not a checkpoint of this training, or damaged"):
        load_sharded(saved[0], parts.module, torch.optim.Adam(parts.module.parameters()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "numbers.json").write_text("{}"), "'groups'"),
        (lambda path: (path / "numbers.json").write_text("[]"), "list indices"),
        (lambda path: (path / "numbers.json").write_text('{"groups": [{}, {}]}'), "2 groups of parameters, the opt"),
        (lambda path: (path / "numbers.json").write_text('{"groups": [{}]}'), "saved without projections"),
        (lambda path: next(path.glob("*.distcp")).write_bytes(b"0" * 999), ""),
        (lambda path: next(path.glob("*.distcp")).unlink(), "No such file"),
    ],
)
def test_a_damaged_checkpoint_changes_nothing(tmp_path, damage, message):
    parts = Parts()
    save_sharded(str(tmp_path / "one"), *parts.all())
    damage(tmp_path / "one")
    parts.train(1)
    before = {name: value.clone() for name, value in parts.module.state_dict().items()}
    with pytest.raises(ValueError, match="not a checkpoint of this training, or damaged: .*" + message) as error:
        load_sharded(str(tmp_path / "one"), *parts.all())
    assert "\n" not in str(error.value)
    for name, value in parts.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_nothing_that_a_stranger_wrote_is_called(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("called",))

    parts = Parts()
    save_sharded(tmp_path / "one", *parts.all()[:2])
    (tmp_path / "one" / ".metadata").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"it asks for builtins\.print"):
        load_sharded(tmp_path / "one", *parts.all()[:2])

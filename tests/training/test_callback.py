import copy
import warnings

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ccpml import AlternatingProjections, CCPCallback, CCPLoss, ContrastiveLoss, TripletMarginLoss
from ccpml.options import ProjectionOptions

X, Y = torch.randn(48, 5), torch.arange(48) % 4
SCORES = [0.1, 0.3, 0.2, 0.25, 0.2, 0.1, 0.15, 0.2]  # patience 2: converges at the 4th and the 7th

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


class OwnModule(L.LightningModule):
    """A user's own Lightning module, with a CCPLoss."""

    def __init__(self, scores=SCORES, name="score"):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        self.loss = CCPLoss(TripletMarginLoss(0.1), num_classes=4, embedding_dim=3, proxies_per_class=2)
        self.scores, self.name = iter(scores), name

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.log(self.name, next(self.scores))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05, weight_decay=1e-2)


def pool(module, draw):
    rng = torch.Generator().manual_seed(draw)
    with torch.no_grad():
        module.eval()
        embeddings = module(torch.randn(12, 5, generator=rng)).view(4, 3, 3)
        module.train()
    return embeddings


def loader():
    return DataLoader(TensorDataset(X, Y), batch_size=8)


def fit(module, callback, epochs=8, num_sanity_val_steps=0, **options):
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=num_sanity_val_steps, **options,
    )  # fmt: skip
    trainer.fit(module, loader(), loader())
    return trainer


def test_equals_the_loop_of_the_method():
    """The same training as a loop: backward, pull, clip, step; observe, project."""
    module = OwnModule()
    mine = copy.deepcopy(module.net), copy.deepcopy(module.loss)
    callback = CCPCallback(pool, monitor="score", strength=0.5, patience=2)
    fit(module, callback, gradient_clip_val=0.05)

    net, criterion = mine
    projections = AlternatingProjections(net, criterion, strength=0.5, patience=2)
    optimizer = torch.optim.Adam([*net.parameters(), *criterion.parameters()], lr=0.05, weight_decay=1e-2)
    projections.start(lambda: pool(net, 0))
    for score in SCORES:
        for x, y in loader():
            optimizer.zero_grad()
            criterion(net(x), y).backward()
            projections.pull()
            torch.nn.utils.clip_grad_norm_([*net.parameters(), *criterion.parameters()], 0.05)
            optimizer.step()
        if projections.observe(score):
            projections.project(lambda: pool(net, projections.instance + 1))
    assert projections.instance == callback.projections.instance == 2
    for expected, got in zip([*net.parameters(), criterion.proxies], module.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_state_is_part_of_the_checkpoint(tmp_path):
    module = OwnModule()
    callback = CCPCallback(pool, monitor="score", patience=2)
    trainer = fit(module, callback, epochs=5)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    torch.load(tmp_path / "state.ckpt", weights_only=True)  # tensors and plain values alone

    again = CCPCallback(lambda module, draw: pytest.fail("a resumed run must not start again"), "score", patience=2)
    other = L.Trainer(
        max_epochs=5, accelerator="cpu", callbacks=[again], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    other.fit(OwnModule(), loader(), loader(), ckpt_path=tmp_path / "state.ckpt", weights_only=True)
    assert again.projections.instance == callback.projections.instance == 1
    assert torch.equal(again.converged, callback.converged)
    saved, loaded = callback.projections.state_dict(), again.projections.state_dict()
    assert saved["best_score"] == loaded["best_score"]
    for name, anchor in saved["anchor"].items():
        assert torch.equal(anchor, loaded["anchor"][name])


def test_reset_proxy_state_drops_the_optimizer_state_of_the_proxies():
    steps = {}
    for reset in (False, True):
        module = OwnModule([0.3, 0.2])
        trainer = fit(module, CCPCallback(pool, "score", patience=1, reset_proxy_state=reset), epochs=2)
        steps[reset] = module.loss.proxies in trainer.optimizers[0].state
    assert steps == {False: True, True: False}


class NetworkAlone(OwnModule):
    """Its optimizer does not have the proxies."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


def test_reset_proxy_state_needs_an_optimizer_of_the_proxies():
    with pytest.raises(ValueError, match="expected the optimizer of the proxies, got 1 without them"):
        fit(NetworkAlone(), CCPCallback(pool, "score", patience=1, reset_proxy_state=True))


def test_options_are_given_whole_or_by_field():
    options = ProjectionOptions(patience=2, strength=0.5)
    assert CCPCallback(pool, options=options).options == CCPCallback(pool, patience=2, strength=0.5).options == options
    with pytest.raises(ValueError, match="expected either options or fields"):
        CCPCallback(pool, options=options, patience=2)
    with pytest.raises(TypeError, match="'instance_patience'"):
        CCPCallback(pool, instance_patience=2)


def test_the_sanity_check_is_not_observed():
    callback = CCPCallback(pool, "score", patience=2)
    fit(OwnModule([0.9, 0.1]), callback, epochs=1, num_sanity_val_steps=2)
    assert callback.projections.best_score == pytest.approx(0.1)


def test_a_training_that_never_places_its_proxies_warns():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(OwnModule(), CCPCallback(pool, "score", warm_start=1000), epochs=1)
    assert any("before the first proxies were placed, so it trained the plain loss" in str(w.message) for w in caught)


def test_wrong_use_raises():
    with pytest.raises(ValueError, match=r"expected 'map' to be logged in validation, got score"):
        fit(OwnModule(), CCPCallback(pool, "map"), epochs=1)
    with pytest.raises(ValueError, match="score: expected a finite number, got nan; has the training diverged"):
        fit(OwnModule([float("nan")]), CCPCallback(pool, "score"), epochs=1)
    module = OwnModule()
    module.loss = ContrastiveLoss()
    with pytest.raises(ValueError, match="expected one CCPLoss in the module, got 0"):
        fit(module, CCPCallback(pool, "score"), epochs=1)


def test_validation_keeps_the_state_for_a_later_checkpoint(tmp_path):
    callback = CCPCallback(pool, monitor="score", patience=2)
    assert callback.state_dict() == {}
    fit(OwnModule(), callback, epochs=5).save_checkpoint(tmp_path / "state.ckpt")
    again = CCPCallback(pool, monitor="score", patience=2)
    trainer = L.Trainer(accelerator="cpu", callbacks=[again], logger=False, enable_checkpointing=False,
                        enable_progress_bar=False)  # fmt: skip
    trainer.validate(OwnModule(), loader(), ckpt_path=tmp_path / "state.ckpt", verbose=False, weights_only=True)
    assert again.state_dict()["projections"]["instance"] == callback.projections.instance


class TwoOptimizers(OwnModule):
    """Separate optimizers of network and proxies; that of the proxies steps first."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch[0]), batch[1]))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.loss.parameters(), lr=0.05), torch.optim.SGD(self.net.parameters(), lr=0.05)]


def test_several_optimizers_pull_each_weight_once():
    class OneOptimizer(OwnModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    modules = TwoOptimizers(), OneOptimizer()
    modules[1].load_state_dict(modules[0].state_dict())
    for module in modules:
        callback = CCPCallback(pool, "score", patience=1, strength=0.5, reset_proxy_state=True)
        fit(module, callback, epochs=6)
        assert callback.projections.instance > 0
    for a, b in zip(*(module.parameters() for module in modules), strict=True):
        torch.testing.assert_close(a, b)


class CountedPool:
    """A pool with a sample of its own; it counts what is embedded."""

    def __init__(self):
        self.calls = []

    def __call__(self, module, draw):
        self.calls.append("pool")
        return pool(module, draw)

    def sample(self, module, draw):
        self.calls.append("sample")
        return pool(module, draw)[:2]


@pytest.mark.parametrize("many", [False, True])
def test_with_many_classes_a_sample_decides_when_to_begin(monkeypatch, many):
    monkeypatch.setattr("ccpml.training.callback.MAX_CLASSES", 3 if many else 4)
    scores = iter([0.1, 0.2, 0.9])
    monkeypatch.setattr("ccpml.method.shared_pool.class_separation", lambda points, k: next(scores))
    counted = CountedPool()
    callback = CCPCallback(counted, "score", warm_start="auto")
    fit(OwnModule(), callback, epochs=3)
    assert counted.calls == (["sample"] * 3 + ["pool"] if many else ["pool"] * 3)
    assert (callback.projections.separation, callback.projections.instance) == (0.9, 0)

import copy
import warnings
from functools import partial

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


def test_a_pool_is_embedded_in_eval_mode_and_without_gradients():
    found = []

    def plain(module, draw):
        found.append((module.training, torch.is_grad_enabled()))
        return module(torch.randn(12, 5)).view(4, 3, 3)

    module = OwnModule()
    fit(module, CCPCallback(plain, monitor="score", patience=2))
    assert len(found) == 3
    assert set(found) == {(False, False)}
    assert module.training


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


class NetworkAlone(OwnModule):
    """Its optimizer does not have the proxies."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.05)


class Before(OwnModule):
    """Its optimizer was made before the loss that it has now."""

    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        self.loss = CCPLoss(TripletMarginLoss(0.1), num_classes=4, embedding_dim=3, proxies_per_class=2)

    def configure_optimizers(self):
        return self.optimizer


class Outside(NetworkAlone):
    """Lightning does not know its optimizer, so that the weights are never pulled."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))

    def configure_optimizers(self):
        return None


@pytest.mark.parametrize("kind", [NetworkAlone, Before, Outside])
@pytest.mark.parametrize("reset", [False, True])
def test_an_optimizer_without_the_proxies_is_named(kind, reset):
    message = r"expected an optimizer with the proxies, got . without them; give the parameters of the CCPLoss to"
    with pytest.raises(ValueError, match=message):
        fit(kind(), CCPCallback(pool, "score", patience=1, reset_proxy_state=reset))


def messages(module, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, CCPCallback(pool, "score", patience=2), epochs=2, **options)
    return [str(each.message) for each in caught if "CCPCallback" in str(each.message)]


def test_frozen_proxies_warn_once():
    module = NetworkAlone()
    module.loss.proxies.requires_grad_(False)
    assert messages(module, num_sanity_val_steps=1) == [
        "CCPCallback: the proxies are frozen, so they move only at a projection"
    ]
    assert messages(OwnModule()) == []


def test_proxies_of_two_optimizers_warn_once():
    class Twice(TwoOptimizers):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.loss.parameters(), lr=0.05), torch.optim.SGD(self.parameters(), lr=0.05)]

    assert messages(Twice()) == [
        "CCPCallback: the proxies are in 2 optimizers, each of which moves them; keep them in one"
    ]


def test_steps_that_call_no_callback_warn():
    class Raw(OwnModule):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()
            optimizer.zero_grad()

    assert [text[:75] for text in messages(Raw())] == [
        "CCPCallback: the training made no step of Lightning's, so no weight was pul"
    ]


def test_a_loss_that_is_no_submodule_is_named():
    module = OwnModule()
    hidden = [module.loss]
    del module.loss
    module.losses = hidden
    with pytest.raises(ValueError, match=r"expected one CCPLoss in the module, got 0; assign it to an attribute"):
        fit(module, CCPCallback(pool, "score"))


@pytest.mark.parametrize("missing", ["projections", "converged"])
def test_an_incomplete_state_is_named(tmp_path, missing):
    fit(OwnModule(), CCPCallback(pool, "score"), epochs=1).save_checkpoint(tmp_path / "1.ckpt")
    checkpoint = torch.load(tmp_path / "1.ckpt", weights_only=True)
    del checkpoint["callbacks"]["CCPCallback"][missing]
    torch.save(checkpoint, tmp_path / "1.ckpt")
    trainer = L.Trainer(accelerator="cpu", callbacks=[CCPCallback(pool, "score")], logger=False,
                        enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    with pytest.raises(ValueError, match=rf"expected the state of a CCPCallback, got none for \['{missing}'\]"):
        trainer.fit(OwnModule(), loader(), loader(), ckpt_path=tmp_path / "1.ckpt", weights_only=True)


class LogsOnce(OwnModule):
    """Logs its score in the first validation alone."""

    def validation_step(self, batch, batch_idx):
        if self.current_epoch == 0:
            super().validation_step(batch, batch_idx)


@pytest.mark.parametrize("graph", [False, True])
def test_a_score_that_a_validation_does_not_log_is_not_that_of_an_earlier_one(graph):
    with pytest.raises(ValueError, match="expected 'score' to be logged in each validation, got only an earlier value"):
        fit(LogsOnce(), CCPCallback(pool, "score"), num_sanity_val_steps=1)
    same = OwnModule(scores=[torch.tensor(0.5, requires_grad=graph)] * 8)
    same.log = partial(same.log, enable_graph=graph)
    callback = CCPCallback(pool, "score", patience=3)
    fit(same, callback)  # a score that is logged again counts, whatever it is
    assert callback.projections.instance == 2


def test_the_options_of_a_resumed_training_hold_at_once(tmp_path):
    """From the state of one with other options, it goes on as the loop does: nothing of them is part of the state."""
    module = OwnModule()
    first = CCPCallback(pool, "score", patience=2, strength=0.5, decay=0.5)
    fit(module, first, epochs=5).save_checkpoint(tmp_path / "5.ckpt")
    assert (first.projections.instance, first.projections.strength_now) == (1, 0.25)
    resumed, callback = OwnModule(SCORES[5:]), CCPCallback(pool, "score", patience=1, strength=2.0, decay=0.25)
    trainer = L.Trainer(
        max_epochs=7, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(resumed, loader(), loader(), ckpt_path=tmp_path / "5.ckpt", weights_only=True)

    projections = AlternatingProjections(module.net, module.loss, patience=1, strength=2.0, decay=0.25)
    state = first.projections.state_dict()
    names = {name: name.removeprefix("net.") for name in (*state["anchor"], *state["best"], *state["best_buffers"])}
    for part in ("anchor", "best", "best_buffers"):
        state[part] = {names[name]: tensor for name, tensor in state[part].items()}
    projections.load_state_dict(state)
    assert projections.strength_now == 0.5
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05, weight_decay=1e-2)
    optimizer.load_state_dict(torch.load(tmp_path / "5.ckpt", weights_only=True)["optimizer_states"][0])
    for score in SCORES[5:7]:
        for x, y in loader():
            optimizer.zero_grad()
            module.loss(module.net(x), y).backward()
            projections.pull()
            optimizer.step()
        if projections.observe(score):
            projections.project(lambda: pool(module.net, projections.instance + 1))
    assert projections.instance == callback.projections.instance == 2
    assert callback.projections.strength_now == 2.0 * 0.25**2
    for expected, got in zip(module.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


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

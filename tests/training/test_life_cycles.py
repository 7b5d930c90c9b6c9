"""What Lightning does before, around and after a training, compared with the loop written out."""

import copy
import warnings
from functools import cache

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from ccpml import AlternatingProjections, CCPCallback, CCPLoss, ProjectionOptions, TripletMarginLoss
from ccpml.training import ReduceOnPlateau, Warmup

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:lightning", "ignore::FutureWarning:torch", "ignore::FutureWarning:lightning"
)

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 4
SCORES = [0.1, 0.3, 0.2, 0.25, 0.4, 0.1, 0.15, 0.12]  # with patience 1 it projects after validations 3, 6 and 8
EPOCHS, SAVED, DECAY = len(SCORES), 4, 0.6


MODES = {"go on": {}, "rewind": {"rewind": True}, "warm start": {"warm_start": 5}}  # begins at the third validation


class Module(L.LightningModule):
    """A user's module with scores of its own."""

    batch_size = 8

    def __init__(self, seed=0, late=False):
        super().__init__()
        self.seed, self.late = seed, late
        if not late:
            self.make()

    def make(self):
        torch.manual_seed(self.seed)
        self.net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        self.loss = CCPLoss(TripletMarginLoss(0.1), num_classes=4, embedding_dim=3, proxies_per_class=2)

    def configure_model(self):
        if self.late and not hasattr(self, "net"):
            self.make()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("map_at_r", 0.9 if self.trainer.sanity_checking else self.score())

    def score(self):
        return [*SCORES, 0.0][self.trainer.current_epoch]  # one more epoch with averaging at the end

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05, weight_decay=1e-2)

    def train_dataloader(self):
        return DataLoader(TensorDataset(X, Y), batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(TensorDataset(X, Y), batch_size=12)


def pool(module, draw):
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(draw))
    training = module.training
    module.eval()
    with torch.no_grad():
        embeddings = module(x).view(4, 3, 3)
    module.train(training)
    return embeddings


def trainer(*callbacks, epochs=EPOCHS, root=None, sanity=0):
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), default_root_dir=root,
                     num_sanity_val_steps=sanity, **quiet)  # fmt: skip


def ccp(mode="go on"):
    return CCPCallback(pool, patience=1, strength=0.5, **MODES[mode])


def averaging():
    return EMAWeightAveraging(use_buffers=False, decay=DECAY)


@cache
def written_out(mode, averaged=False):
    return train_by_hand(Module(), mode, averaged)


def train_by_hand(module, mode, averaged=False):
    """Train as the method says, and return the states of module and projections."""
    projections = AlternatingProjections(module, module.loss, patience=1, strength=0.5, **MODES[mode])
    optimizer = module.configure_optimizers()
    average = AveragedModel(module, avg_fn=get_ema_avg_fn(DECAY)) if averaged else None
    projections.start_when_ready(lambda: pool(module, 0), 0)
    for epoch, score in enumerate(SCORES, 1):
        for batch in module.train_dataloader():
            module.training_step(batch, 0).backward()
            projections.pull()
            optimizer.step()
            optimizer.zero_grad()
            if average is not None:
                average.update_parameters(module)
        if average is not None:
            current = copy.deepcopy(module.state_dict())
            weights = {name: weight.data for name, weight in average.module.named_parameters()}
            module.load_state_dict(weights, strict=False)
            projections.capture()  # without effect while it waits
            module.load_state_dict(current)
        if projections.observe(score):
            projections.project(lambda: pool(module, projections.instance + 1))
        elif projections.waiting:
            projections.start_when_ready(lambda: pool(module, 0), 2 * epoch)
    assert projections.instance == (2 if mode == "warm start" else 3)
    return module.state_dict(), projections.state_dict()


class SaveBeforeTheFirstStep(L.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 0:
            trainer.save_checkpoint(self.path)

    on_fit_start = on_train_batch_start


class SaveAfter(L.Callback):
    def __init__(self, path, epochs):
        self.path, self.epochs = path, epochs

    def on_train_epoch_end(self, trainer, *_):
        if trainer.current_epoch + 1 == self.epochs:
            trainer.save_checkpoint(self.path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint after the first epochs of each mode, and one of another module."""
    folder, paths = tmp_path_factory.mktemp("checkpoints"), {}
    for name in [*MODES, "another"]:
        another = name == "another"
        run = trainer(ccp("go on" if another else name), epochs=6 if another else SAVED)
        run.fit(Module(seed=int(another)))
        paths[name] = folder / f"{name}.ckpt"
        run.save_checkpoint(paths[name])
    return paths


def search_rate(run, module):
    Tuner(run).lr_find(module, num_training=4, update_attr=False)


def search_batch_size(run, module):
    Tuner(run).scale_batch_size(module, steps_per_trial=1, max_trials=1, batch_arg_name="batch_size")
    module.batch_size = Module.batch_size


def validate_another(callback, tmp_path, another):
    module = Module(seed=2)
    trainer(callback).validate(module, module.val_dataloader(), ckpt_path=another, verbose=False)
    assert callback.state_dict()["projections"]["instance"] == 2  # a checkpoint saved now would have it


def train_another(callback, tmp_path, another):
    trainer(callback, epochs=6).fit(Module(seed=1))
    assert callback.projections.instance >= 1


def load_another_by_hand(callback, tmp_path, another):
    state = torch.load(another, weights_only=True)["callbacks"]["CCPCallback"]
    callback.load_state_dict(state)


BEFORE = {
    "nothing": lambda callback, tmp_path, another: None,
    "validate(ckpt_path) of another module": validate_another,
    "fit of another module": train_another,
    "load_state_dict of another training": load_another_by_hand,
}


def compare(module, callback, expected, weights=True):
    if weights:
        torch.testing.assert_close(dict(module.state_dict()), dict(expected[0]), rtol=0, atol=0)
    torch.testing.assert_close(callback.state_dict()["projections"], expected[1], rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("before", BEFORE)
def test_what_happened_before_changes_nothing(tmp_path, checkpoints, before, mode):
    for path in (None, checkpoints[mode]):
        module, callback = Module(), ccp(mode)
        BEFORE[before](callback, tmp_path, checkpoints["another"])
        trainer(callback, root=tmp_path, sanity=1).fit(module, ckpt_path=path, weights_only=path and True)
        compare(module, callback, written_out(mode))


@pytest.mark.parametrize(("search", "resumed"), [(search_rate, False), (search_rate, True), (search_batch_size, False)])
@pytest.mark.parametrize("mode", MODES)
def test_searches_before_the_fit_change_nothing(tmp_path, checkpoints, search, mode, resumed):
    module, callback = Module(), ccp(mode)
    run = trainer(callback, root=tmp_path)
    search(run, module)
    run.fit(module, ckpt_path=checkpoints[mode] if resumed else None)
    compare(module, callback, written_out(mode))


def with_finder(position):
    def callbacks(mode):
        finder = LearningRateFinder(num_training_steps=4, update_attr=False)
        return [finder, ccp(mode)] if position == "before" else [ccp(mode), finder]

    return callbacks


AROUND = {
    "configure_model": (lambda mode: [ccp(mode)], True, False),
    "a learning-rate finder before": (with_finder("before"), False, False),
    "a learning-rate finder after": (with_finder("after"), False, False),
    "averaging before": (lambda mode: [averaging(), ccp(mode)], False, True),
    "averaging after": (lambda mode: [ccp(mode), averaging()], False, True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("around", AROUND)
def test_other_callbacks_and_hooks(tmp_path, around, mode):
    make_callbacks, late, averaged = AROUND[around]
    expected = written_out(mode, averaged)
    saver = SaveAfter(tmp_path / "within.ckpt", SAVED)  # at the end, the average replaces the weights
    trainer(*make_callbacks(mode), saver, epochs=SAVED + 1, root=tmp_path).fit(Module(late=late))
    finder = any(isinstance(each, LearningRateFinder) for each in make_callbacks(mode))
    for path in (None,) if finder else (None, saver.path):  # in a resumed fit, Lightning's finder forgets the optimizer
        module, callbacks = Module(late=late), make_callbacks(mode)
        trainer(*callbacks, root=tmp_path).fit(module, ckpt_path=path, weights_only=path and True)
        callback = next(each for each in callbacks if isinstance(each, CCPCallback))
        compare(module, callback, expected, weights=not averaged)


@pytest.mark.parametrize("finder", [False, True])
def test_warm_starts_of_a_further_fit_begin_with_it_also_after_a_search_of_the_learning_rate(tmp_path, finder):
    """The search restores a checkpoint that it made before the first step."""
    callback, warmup, before = ccp("warm start"), Warmup(nn.Identity(), 3), list[tuple[int, int]]()

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if callback.projections.waiting:
                before.append((callback._began, warmup._began))

    search = [LearningRateFinder(num_training_steps=4, update_attr=False)] * finder
    run = trainer(callback, warmup, Watch(), *search, epochs=4, root=tmp_path)
    run.fit(Module())
    steps = run.global_step
    run.fit_loop.max_epochs = 8
    run.fit(Module(seed=1))
    waited = len(before) // 2
    assert before == [(0, 0)] * waited + [(steps, steps)] * waited
    assert waited > 3


@pytest.mark.filterwarnings("ignore:CCPCallback. the training ended before the first proxies")  # with a warm start
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_batch_start"])
def test_a_checkpoint_made_before_the_first_step(tmp_path, hook, mode):
    saver = SaveBeforeTheFirstStep(tmp_path / "0.ckpt")
    callbacks = [saver, ccp(mode)] if hook == "on_fit_start" else [ccp(mode), saver]
    trainer(*callbacks, epochs=1).fit(Module())
    module, callback = Module(seed=5), ccp(mode)
    trainer(callback).fit(module, ckpt_path=saver.path, weights_only=True)
    compare(module, callback, written_out(mode))


def test_a_second_fit_continues_with_the_checkpoint_that_it_is_given(tmp_path):
    callback, module = ccp(), Module()
    run = trainer(callback, epochs=SAVED)
    run.fit(module)
    run.save_checkpoint(tmp_path / "first.ckpt")
    run.fit_loop.max_epochs = EPOCHS
    run.fit(module, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    compare(module, callback, written_out("go on"))
    third = Module()
    trainer(callback).fit(third)
    compare(third, callback, written_out("go on"))


def test_a_second_fit_without_a_checkpoint_begins_with_new_proxies():
    callback, module = ccp(), Module()
    trainer(callback, epochs=SAVED).fit(module)
    expected = train_by_hand(copy.deepcopy(module), "go on")
    trainer(callback).fit(module)
    compare(module, callback, expected)


class Later(Module):
    """A module whose training begins at a later epoch of the trainer."""

    def score(self):
        return SCORES[self.trainer.current_epoch - EPOCHS]


@pytest.mark.parametrize("mode", MODES)
def test_a_second_fit_of_the_same_trainer_is_a_training_of_its_own(mode, tmp_path):
    """Also one that is resumed: the trainer goes on counting steps, of which a warm start waits for some."""
    callback = ccp(mode)
    run = trainer(callback, epochs=EPOCHS)
    run.fit(Module(seed=3))
    module = Later()
    run.fit_loop.max_epochs = EPOCHS + SAVED
    run.fit(module)
    run.save_checkpoint(tmp_path / "second.ckpt")
    assert run.global_step == 2 * (EPOCHS + SAVED)
    resumed, again = Later(seed=5), ccp(mode)
    trainer(again, epochs=2 * EPOCHS).fit(resumed, ckpt_path=tmp_path / "second.ckpt", weights_only=True)
    compare(resumed, again, written_out(mode))


def test_a_warm_up_is_that_of_each_fit_of_a_trainer():
    run = trainer(epochs=1)
    for epochs in (1, 2):
        module = Module()
        run.callbacks[:] = trainer(Warmup(module.net[0], 2), Warmup(module.net[0], 2), ccp(), epochs=1).callbacks
        before = module.net[0].weight.clone()
        run.fit_loop.max_epochs = epochs
        run.fit(module)  # of two steps
        assert torch.equal(module.net[0].weight, before)


def test_a_checkpoint_that_was_validated_starts_no_training(checkpoints):
    callback, module = ccp(), Module()
    run = trainer(callback)
    run.validate(module, ckpt_path=checkpoints["another"], verbose=False)
    expected = train_by_hand(copy.deepcopy(module), "go on")  # from its weights, with new proxies
    run.fit(module)
    compare(module, callback, expected)


def test_stochastic_weight_averaging_trains(tmp_path):
    callback = ccp()
    trainer(callback, StochasticWeightAveraging(0.05, swa_epoch_start=3, annealing_epochs=1)).fit(Module())
    assert callback.projections.instance >= 2


def test_training_without_validation_is_an_error():
    class Blind(Module):
        val_dataloader = L.LightningModule.val_dataloader

    class Empty(Module):
        def val_dataloader(self):
            return []

    limited = trainer(ccp())
    limited.limit_val_batches = 0
    for run, module in ((trainer(ccp()), Blind()), (trainer(ccp()), Empty()), (limited, Module())):
        expected = "expected validation, whose 'map_at_r' decides when to project, got none"
        with pytest.raises(RuntimeError, match=expected):
            run.fit(module)
    with pytest.raises(RuntimeError, match="ReduceOnPlateau: expected validation, whose 'map_at_r' decides when the"):
        trainer(ReduceOnPlateau()).fit(Blind())


@pytest.mark.parametrize("monitor", [ProjectionOptions(patience=2), 3, None])
def test_a_monitor_that_is_no_name_is_refused(monitor):
    with pytest.raises(ValueError, match="monitor: expected the name of a logged score, got "):
        CCPCallback(lambda module, draw: None, monitor)


def test_a_training_that_ends_before_its_first_validation_warns():
    run = trainer(ccp(), epochs=1)
    run.check_val_every_n_epoch = 5
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(Module())
    assert any("ended without a validation, so it made no projection" in str(each.message) for each in caught)


def test_a_criterion_that_configure_model_does_not_make_is_named():
    module = Module(late=True)
    module.make = lambda: setattr(module, "net", nn.Linear(5, 3))
    with pytest.raises(ValueError, match="CCPCallback: expected one CCPLoss in the module, got 0"):
        trainer(ccp()).fit(module)

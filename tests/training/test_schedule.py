from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ccpml.training import ReduceOnPlateau, Warmup


def trainer(optimizer, score=0.5, step=0):
    return SimpleNamespace(
        optimizers=[optimizer],
        callback_metrics={"map_at_r": score},
        sanity_checking=False,
        global_step=step,
        state=SimpleNamespace(fn="fit"),
        enable_validation=True,
        num_val_batches=[1],
    )


def test_the_rate_falls_to_a_tenth_after_ten_validations_without_improvement_also_across_a_resume():
    weight = nn.Parameter(torch.zeros(1))
    rates = []
    optimizer = torch.optim.Adam([weight], lr=1.0)
    callback = ReduceOnPlateau()
    callback.on_train_start(trainer(optimizer), None)
    for validation in range(25):
        if validation == 7:  # killed and resumed
            state, optimizer_state = callback.state_dict(), optimizer.state_dict()
            callback, optimizer = ReduceOnPlateau(), torch.optim.Adam([weight], lr=1.0)
            callback.load_state_dict(state)
            optimizer.load_state_dict(optimizer_state)
            callback.on_train_start(trainer(optimizer), None)
        callback.on_validation_end(trainer(optimizer, score=0.5 if validation else 0.4), None)
        rates.append(optimizer.param_groups[0]["lr"])
    assert [round(rate, 6) for rate in rates] == [1.0] * 12 + [0.1] * 11 + [0.01] * 2


def test_a_frozen_module_does_not_change_during_the_warm_up():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    callback = Warmup(model[0], steps=2)
    before = [weight.clone() for weight in model.parameters()]
    for step in range(3):
        optimizer.zero_grad()
        model(torch.ones(3, 2)).square().sum().backward()
        callback.on_before_optimizer_step(trainer(optimizer, step=step), None, optimizer)
        optimizer.step()
        changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert changed == [step >= 2, step >= 2, True, True]


def test_a_loaded_state_is_used_by_the_fit_that_loads_it_alone():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    callback = ReduceOnPlateau()

    def fit(loaded=None):
        callback.setup(None, None, "fit")
        if loaded is not None:
            callback.load_state_dict(loaded)
        callback.on_train_start(trainer(optimizer), None)
        callback.on_validation_end(trainer(optimizer), None)
        return callback.state_dict()

    first = fit()
    assert (first["last_epoch"], fit(first)["last_epoch"], fit()["last_epoch"]) == (1, 2, 1)
    callback.setup(None, None, "validate")
    callback.load_state_dict(first)
    assert fit()["last_epoch"] == 1


def test_the_warm_up_of_a_resumed_training_begins_where_it_began():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    layer = nn.Linear(1, 1)

    def is_frozen(callback, step):
        layer.weight.grad = torch.ones(1, 1)
        callback.on_before_optimizer_step(trainer(optimizer, step=step), None, optimizer)
        return layer.weight.grad is None

    def start(step, ckpt_path=None, state=None):
        callback = Warmup(layer, steps=3)
        callback.setup(None, None, "fit")
        if state is not None:
            callback.on_load_checkpoint(None, None, state)
        now = trainer(optimizer, step=step)
        now.ckpt_path = ckpt_path
        callback.on_train_start(now, None)
        return callback

    second = start(20)  # of a trainer that has made 20 steps for another module
    assert [is_frozen(second, step) for step in (20, 22, 23)] == [True, True, False]
    saved = {}
    second.on_save_checkpoint(None, None, saved)
    resumed = start(21, "last.ckpt", saved)
    assert [is_frozen(resumed, step) for step in (21, 22, 23)] == [True, True, False]
    without = start(2, "old.ckpt")  # of an earlier version
    assert [is_frozen(without, step) for step in (2, 3)] == [True, False]


def test_a_score_that_is_not_logged_is_an_error_and_one_outside_of_the_training_does_not_count():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    callback, now = ReduceOnPlateau(), trainer(optimizer)
    callback.on_train_start(now, None)
    now.state.fn = "validate"
    callback.on_validation_end(now, None)
    assert callback.state_dict()["last_epoch"] == 0
    now.state.fn, now.callback_metrics = "fit", {"loss": 1.0}
    with pytest.raises(ValueError, match="ReduceOnPlateau: expected 'map_at_r' to be logged in validation, got loss"):
        callback.on_validation_end(now, None)

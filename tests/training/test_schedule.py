from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from ccpml.training import LearningRate, ReduceOnPlateau, Warmup


def trainer(optimizer, score=0.5, step=0):
    return SimpleNamespace(
        optimizers=[optimizer], callback_metrics={"map_at_r": score}, sanity_checking=False, global_step=step
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


def rates(schedule, steps, group):
    found = []
    for step in range(steps):
        schedule.on_train_batch_start(SimpleNamespace(optimizers=[group], global_step=step))
        found.append([each["lr"] for each in group.param_groups])
    return np.array(found)


def test_rates_rise_and_fall_in_proportion():
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [weight], "lr": rate, "initial_lr": rate} for weight, rate in zip(weights, (1.0, 5.0), strict=True)
    ]
    cosine = rates(LearningRate(20, warmup=0.25, cosine=True), 20, torch.optim.Adam(groups))
    np.testing.assert_allclose(cosine[:, 1], 5 * cosine[:, 0])
    np.testing.assert_allclose(cosine[:5, 0], [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(cosine[5:, 0], (1 + np.cos(np.pi * np.arange(15) / 15)) / 2)
    constant = rates(LearningRate(20, warmup=0.1, cosine=False), 20, torch.optim.Adam(groups))
    np.testing.assert_allclose(constant[:, 0], [0.5, *[1.0] * 19])


def test_the_cosine_is_torch_s():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30), []
    for _ in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rate = LearningRate(30, warmup=0.0, cosine=True)
    np.testing.assert_allclose([0.3 * rate.factor(step) for step in range(30)], expected)


def test_a_constant_rate_after_the_rise_is_left_to_a_plateau():
    optimizer = torch.optim.Adam([{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0, "initial_lr": 1.0}])
    schedule = LearningRate(20, warmup=0.1, cosine=False)
    rates(schedule, 4, optimizer)
    optimizer.param_groups[0]["lr"] = 0.1
    assert rates(schedule, 3, optimizer).max() == 1.0
    optimizer.param_groups[0]["lr"] = 0.1
    schedule.on_train_batch_start(SimpleNamespace(optimizers=[optimizer], global_step=3))
    assert optimizer.param_groups[0]["lr"] == 0.1

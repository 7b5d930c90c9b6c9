from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ccpml.training import WeightAverage


def trainer(step, fn="fit"):
    return SimpleNamespace(global_step=step, state=SimpleNamespace(fn=fn))


def make_network(value=0.0):
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(network[0].weight, value)
    return network


def train(network, callback, steps):
    for step in steps:
        with torch.no_grad():
            network[0].weight.fill_(float(step))
            network[1].running_mean.fill_(10.0 * step)
        callback.on_train_batch_end(trainer(step), None)


def expected(steps, decay):
    average = 1.0
    for step in range(1, steps + 1):
        m = min(decay, (1 + step) / (10 + step))
        average = m * average + (1 - m) * step
    return average


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_is_that_of_the_definition(decay):
    network = make_network()
    callback = WeightAverage(network, decay)
    train(network, callback, range(1, 13))
    callback.on_validation_start(trainer(12), None)
    assert network[0].weight.flatten().tolist() == pytest.approx([expected(12, decay)] * 2)
    assert network[1].running_mean.item() == pytest.approx(10 * expected(12, decay))
    callback.on_train_epoch_start(trainer(12), None)
    assert network[0].weight.flatten().tolist() == [12.0, 12.0]


def test_only_validations_of_a_training_see_the_average():
    network = make_network()
    callback = WeightAverage(network, 0.9)
    callback.on_validation_start(trainer(0), None)  # nothing to average yet
    train(network, callback, range(1, 4))
    callback.on_validation_start(trainer(3, fn="validate"), None)
    callback.on_train_epoch_start(trainer(3), None)
    assert network[0].weight.flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("swapped", [False, True])
def test_it_resumes(swapped):
    whole, cut = make_network(), make_network()
    callbacks = [WeightAverage(whole, 0.9), WeightAverage(cut, 0.9)]
    for network, callback in zip((whole, cut), callbacks, strict=True):
        train(network, callback, range(1, 5))
        if swapped:
            callback.on_validation_start(trainer(4), None)
    state = {name: tensor.clone() for name, tensor in cut.state_dict().items()}
    resumed, callback = make_network(7.0), None
    callback = WeightAverage(resumed, 0.9)
    resumed.load_state_dict(state)
    callback.load_state_dict(callbacks[1].state_dict())
    for network, each in ((whole, callbacks[0]), (resumed, callback)):
        each.on_train_epoch_start(trainer(4), None)
        train(network, each, range(5, 8))
        each.on_validation_start(trainer(7), None)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_decay_is_a_fraction():
    with pytest.raises(ValueError, match=r"decay: expected a fraction in \(0, 1\), got 1.0"):
        WeightAverage(make_network(), 1.0)

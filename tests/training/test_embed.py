import pytest
import torch
from torch import nn

from ccpml.training import embed
from ccpml.training.embed import eval_mode


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 2))


def test_embeds_all_batches_in_order_in_eval_mode():
    module, x = network(), torch.randn(10, 3)
    module(x)  # running statistics that differ from those of a batch
    labels = torch.arange(10, dtype=torch.int32)
    seen = []
    embeddings, classes = embed(module, [(x[:4], labels[:4]), (x[4:], labels[4:])], progress=seen.append)
    torch.testing.assert_close(embeddings, network_in_eval(module, x))
    assert classes.dtype == torch.int64
    assert torch.equal(classes, torch.arange(10))
    assert seen == [4, 6]
    assert not embeddings.requires_grad


def network_in_eval(module, x):
    module.eval()
    with torch.no_grad():
        return module(x)


def test_the_mode_of_each_submodule_is_restored():
    module = network().train()
    module[1].eval()  # a frozen BatchNorm stays frozen
    statistics = module[1].running_mean.clone()
    with pytest.raises(KeyError):
        check_and_fail(module)
    assert [part.training for part in module] == [True, False, True, True]
    assert module.training
    assert torch.is_grad_enabled()
    assert torch.equal(module[1].running_mean, statistics)


def check_and_fail(module):
    with eval_mode(module):
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
        raise KeyError

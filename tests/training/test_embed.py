import numpy as np
import pytest
import torch
from torch import nn

from ccpml.distributed import own_rank
from ccpml.models import EmbeddingModel, SmallConv
from ccpml.training import embed, pooled_features
from ccpml.training.embed import eval_mode
from tests.ranks import run_on_ranks


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


IMAGES = torch.randint(256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("pooling", ["avg", "max", "avg+max"])
def test_pooled_features_are_the_input_of_the_linear_layer(pooling, dtype):
    model = EmbeddingModel(SmallConv(3), 4, pooling, bias=True).to(dtype)
    model(IMAGES)  # running statistics that differ from those of a batch
    features, labels = pooled_features(model, [(IMAGES[:4], torch.arange(4)), (IMAGES[4:], torch.arange(4, 7))])
    assert model.training
    assert (features.dtype, features.shape, labels.tolist()) == (torch.float32, (7, 128), list(range(7)))
    with eval_mode(model):
        torch.testing.assert_close(model.linear(features.to(dtype)), model(IMAGES))


def test_pooled_features_under_autocast():
    model = EmbeddingModel(SmallConv(3), 4)
    exact, _ = pooled_features(model, [(IMAGES, torch.arange(7))])
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = pooled_features(model, [(IMAGES, torch.arange(7))])
    assert features.dtype == torch.float32
    assert not torch.equal(features, exact)
    torch.testing.assert_close(features, exact, rtol=0.05, atol=0.05)


def features_of_rank():
    torch.manual_seed(0)
    model, share = EmbeddingModel(SmallConv(3), 4), ((0, 4), (4, 7))[own_rank()]  # of different sizes
    return pooled_features(model, [(IMAGES[slice(*share)], torch.arange(*share))])


def test_all_ranks_have_the_features_of_all():
    torch.manual_seed(0)
    expected, _ = pooled_features(EmbeddingModel(SmallConv(3), 4), [(IMAGES, torch.arange(7))])
    for features, labels in run_on_ranks(features_of_rank, 2):
        torch.testing.assert_close(features, expected)
        assert labels.tolist() == list(range(7))


def test_no_or_uneven_batches_are_refused():
    with pytest.raises(ValueError, match="batches: expected at least one, got none"):
        embed(nn.Flatten(), [])
    with pytest.raises(ValueError, match="batches: expected a label for each of 2 images, got 1 labels"):
        embed(nn.Flatten(), [(torch.rand(2, 3), torch.tensor([0]))])


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (torch.ones(2, 3), "Tensor"),
        ({"image": torch.ones(2, 3), "label": torch.arange(2)}, "dict"),
        ((torch.ones(2, 3), torch.arange(2), torch.arange(2)), "tuple of Tensor, Tensor, Tensor"),
        ([torch.ones(2, 3), [0, 1]], "list of Tensor, list"),
        ((np.ones((2, 3)), torch.arange(2)), "tuple of ndarray, Tensor"),
    ],
)
def test_batches_of_another_form_are_named(batch, got):
    with pytest.raises(ValueError, match=f"batches: expected pairs of tensors, images and labels, got {got}$"):
        embed(nn.Identity(), [batch])


def test_features_are_those_of_an_embedding_model():
    with pytest.raises(ValueError, match="model: expected an EmbeddingModel, got Linear"):
        pooled_features(nn.Linear(2, 2), [])

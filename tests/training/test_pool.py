import numpy as np
import torch
from torch import nn

from ccpml.data import EvalTransform, ImageDataset, ImageTable, TrainTransform
from ccpml.training import EmbeddingPool
from tests.toy import toy_images

IMAGES = toy_images(4, 5)
TABLE = ImageTable(IMAGES.reshape(-1, 32, 32), np.arange(4).repeat(5), tuple("abcd"))


class Mean(nn.Module):
    """Mean and standard deviation of the pixels."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, images):
        pixels = images.float().flatten(1)
        return torch.stack([pixels.mean(1), pixels.std(1)], 1)


def test_holds_b_images_of_every_class_without_repetition():
    pool = EmbeddingPool(ImageDataset(TABLE, EvalTransform(32, 32), channels=1), per_class=5, batch_size=3)
    embeddings = pool(Mean(), 0)
    assert embeddings.shape == (4, 5, 2)
    expected = Mean()(torch.from_numpy(TABLE.images)).view(4, 5, 2)
    for c in range(4):  # all images of the class, in some order
        torch.testing.assert_close(embeddings[c].sort(0).values, expected[c].sort(0).values)


def test_is_a_function_of_seed_and_draw():
    dataset = ImageDataset(TABLE, TrainTransform(28), channels=1, seed=3)
    pool = EmbeddingPool(dataset, per_class=2)
    assert torch.equal(pool(Mean(), 1), EmbeddingPool(dataset, per_class=2, batch_size=1)(Mean(), 1))
    assert not torch.equal(pool(Mean(), 1), pool(Mean(), 2))
    other = EmbeddingPool(ImageDataset(TABLE, TrainTransform(28), channels=1, seed=4), per_class=2)
    assert not torch.equal(pool(Mean(), 1), other(Mean(), 1))


def test_a_class_with_fewer_images_repeats_them_with_other_crops():
    table = ImageTable(IMAGES[0, :2].copy(), np.array([0, 1]), ("a", "b"))
    embeddings = EmbeddingPool(ImageDataset(table, TrainTransform(28), channels=1), per_class=3)(Mean(), 0)
    assert embeddings.shape == (2, 3, 2)
    assert len(torch.unique(embeddings[0], dim=0)) == 3


def test_a_sample_is_the_pool_of_some_classes(monkeypatch):
    pool = EmbeddingPool(ImageDataset(TABLE, TrainTransform(28), channels=1, seed=3), per_class=2)
    whole = pool(Mean(), 1)
    assert torch.equal(pool.sample(Mean(), 1), whole)
    monkeypatch.setattr("ccpml.training.pool.evenly_spaced_classes", lambda count: [0, 3])
    assert torch.equal(pool.sample(Mean(), 1), whole[[0, 3]])
    for own, expected in ((range(2), slice(0, 1)), (range(1, 3), slice(0, 0)), (range(2, 4), slice(3, 4))):
        monkeypatch.setattr("ccpml.training.pool.rank_range", lambda count, own=own: own)
        assert torch.equal(pool.sample(Mean(), 1), whole[expected])


def test_all_ranks_embed_as_many_images(monkeypatch):
    """Of ranks that share the weights, as by fully_shard, one with fewer batches would let the others wait for ever."""
    pool = EmbeddingPool(ImageDataset(TABLE, TrainTransform(28), channels=1, seed=3), per_class=2, batch_size=3)
    whole, sizes, network = pool(Mean(), 1), [], Mean()
    network.register_forward_hook(lambda module, images, output: sizes.append(len(images[0])))
    monkeypatch.setattr("ccpml.training.pool.world_size", lambda: 3)
    for own in (range(2), range(2, 4), range(4, 4)):
        monkeypatch.setattr("ccpml.training.pool.rank_range", lambda count, own=own: own)
        assert torch.equal(pool(network, 1), whole[own.start : own.stop])
    assert sizes == [3, 1] * 3

import numpy as np
import pytest
import torch
from torch import nn

from ccpml import average_covering_radius, average_interclass_distance, covering_radius, lipschitz_normalize
from ccpml.data import ImageTable
from ccpml.runs.geometry import GeometrySet, picture_classes, set_geometry
from ccpml.training import MetricLearning
from tests.toy import quick_settings, toy_images

TABLE = ImageTable(toy_images(40, 10, side=8).reshape(-1, 8, 8), np.arange(40).repeat(10), tuple(map(str, range(40))))
SETTINGS = quick_settings(image_size=8, augment="none").resolved()


def test_set_geometry_is_the_method_s_after_normalization():
    x, y = 3 * torch.randn(30, 4), torch.arange(30) % 5
    got = set_geometry(x, y, "val")
    phi = lipschitz_normalize(x)
    assert got == {
        "val_covering_radius": average_covering_radius(phi, y),
        "val_interclass_distance": average_interclass_distance(phi, y),
    }


def test_the_set_is_fixed():
    geometry = GeometrySet(SETTINGS, TABLE, 1)
    assert geometry.classes.tolist() == sorted(set(geometry.classes.tolist()))
    assert (len(geometry.classes), geometry.classes[0], geometry.classes[-1]) == (32, 0, 39)
    assert geometry.table.class_sizes().tolist() == [8] * 32
    assert geometry.table.numbers.tolist() == GeometrySet(SETTINGS, TABLE, 1).table.numbers.tolist()


def test_snapshot_and_proxies_are_measured_class_by_class():
    geometry = GeometrySet(SETTINGS, TABLE, 1)
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    module = MetricLearning(nn.Sequential(_ToFloat(), network), nn.Identity(), lr=1.0)
    snapshot = geometry.embed(module, "cpu")
    names = [TABLE.class_names[label] for label in snapshot.labels]
    assert names == [geometry.table.class_names[label] for label in geometry.table.labels]
    proxies = torch.randn(40, 2, 3)
    got = geometry.measure_proxies(snapshot, proxies)
    phi = lipschitz_normalize(proxies)
    radii = [
        covering_radius(snapshot.embeddings[snapshot.labels == c][None], phi[c][None]).item() for c in geometry.classes
    ]
    assert got["proxy_covering_radius"] == pytest.approx(np.mean(radii))
    assert geometry.measure_proxies(snapshot, proxies[:, :1].repeat(1, 2, 1))["proxy_spread"] == pytest.approx(0)
    assert geometry.measure(snapshot).keys() == {"train_covering_radius", "train_interclass_distance"}


class _ToFloat(nn.Module):
    def forward(self, images):
        return images.float() / 255


def test_picture_classes_are_spread():
    assert picture_classes(torch.arange(100), 3).tolist() == [0, 50, 99]
    assert picture_classes(torch.tensor([4, 4, 7])).tolist() == [4, 7]

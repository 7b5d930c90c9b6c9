import pytest
import torch

from ccpml.pairwise.distances import euclidean_distances


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_equals_direct_differences(dtype, tolerance):
    x, y = torch.randn(7, 5, dtype=dtype), torch.randn(9, 5, dtype=dtype)
    direct = (x[:, None].double() - y.double()).norm(dim=2)
    torch.testing.assert_close(euclidean_distances(x, y).double(), direct, rtol=tolerance, atol=tolerance)


def test_distances_of_equal_vectors_are_zero():
    x = torch.nn.functional.normalize(torch.randn(64, 128), dim=1)
    distances = euclidean_distances(x, torch.cat([x.clone(), x + 0.1]))
    assert torch.equal(distances[:, :64].diagonal(), torch.zeros(64))
    assert (distances[:, 64:].diagonal() > 1).all()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_distances_of_nearly_equal_vectors_are_precise(scale):
    x = torch.nn.functional.normalize(torch.randn(32, 128), dim=1) * scale
    y = x + 1e-4 * scale * torch.nn.functional.normalize(torch.randn(32, 128), dim=1)
    exact = (x.double() - y.double()).norm(dim=1)
    torch.testing.assert_close(euclidean_distances(x, y).diagonal().double(), exact, rtol=1e-5, atol=0)


@pytest.mark.gpu
def test_gpu_equals_cpu():
    x, y = torch.randn(7, 5), torch.randn(9, 5)
    torch.testing.assert_close(euclidean_distances(x.cuda(), y.cuda()).cpu(), euclidean_distances(x, y))

import pytest
import torch

from ccpml.method.distances import euclidean_distances


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_equals_direct_differences(dtype, tolerance):
    x, y = torch.randn(7, 5, dtype=dtype), torch.randn(9, 5, dtype=dtype)
    direct = (x[:, None].double() - y.double()).norm(dim=2)
    torch.testing.assert_close(euclidean_distances(x, y).double(), direct, rtol=tolerance, atol=tolerance)


def test_equal_vectors_are_at_zero_with_zero_gradient():
    x = torch.nn.functional.normalize(torch.randn(64, 128), dim=1)
    y = torch.cat([x.clone(), x + 0.1])
    x.requires_grad_()
    y.requires_grad_()
    distances = euclidean_distances(x, y)
    assert torch.equal(distances[:, :64].diagonal(), torch.zeros(64))
    distances[:, :64].diagonal().sum().backward()
    assert x.grad.count_nonzero() == 0
    assert y.grad.count_nonzero() == 0


def test_vectors_that_nearly_meet_keep_their_distance():
    x = torch.nn.functional.normalize(torch.randn(32, 128), dim=1)
    y = x + 1e-4 * torch.nn.functional.normalize(torch.randn(32, 128), dim=1)
    exact = (x.double() - y.double()).norm(dim=1)
    x.requires_grad_()
    distances = euclidean_distances(x, y).diagonal()
    torch.testing.assert_close(distances.double(), exact, rtol=1e-5, atol=0)
    distances.sum().backward()
    torch.testing.assert_close(x.grad.norm(dim=1), torch.ones(32), rtol=1e-2, atol=0)


def test_gradcheck():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(euclidean_distances, (x, y))


@pytest.mark.gpu
def test_gpu_equals_cpu():
    x, y = torch.randn(7, 5), torch.randn(9, 5)
    torch.testing.assert_close(euclidean_distances(x.cuda(), y.cuda()).cpu(), euclidean_distances(x, y))

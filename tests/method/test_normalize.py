import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ccpml import lipschitz_normalize


@pytest.mark.parametrize("case", ["d8", "d128"])
def test_golden(golden, case):
    file = golden("normalize")
    x = torch.tensor(file[f"{case}/x"], dtype=torch.float64, requires_grad=True)
    y = lipschitz_normalize(x)
    y.backward(torch.tensor(file[f"{case}/upstream"], dtype=torch.float64))
    torch.testing.assert_close(y.detach(), torch.tensor(file[f"{case}/y"]), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(x.grad, torch.tensor(file[f"{case}/grad_x"]), rtol=1e-5, atol=1e-7)


def test_gradient_at_the_edges():
    x = torch.tensor([[0.0, 0.0], [0.6, 0.8], [1.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0]] * 4, dtype=torch.float64)
    lipschitz_normalize(x).backward(upstream)
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:3], upstream[:3])  # zero, and ‖v‖ = 1: inside
    unit = torch.tensor([0.6, 0.8], dtype=torch.float64)
    torch.testing.assert_close(x.grad[3], (upstream[3] - (upstream[3] @ unit) * unit) / 5)


def test_gradcheck():
    x = torch.randn(6, 3, dtype=torch.float64).mul_(torch.tensor([[0.1], [0.5], [0.9], [2], [5], [9]]))
    assert torch.autograd.gradcheck(lipschitz_normalize, x.requires_grad_())


@given(hnp.arrays("float64", (2, 4), elements=st.floats(-1e3, 1e3)))
def test_properties(pair):
    x = torch.from_numpy(pair)
    y = lipschitz_normalize(x)
    assert y.norm(dim=1).max() <= 1 + 1e-12
    inside = x.norm(dim=1) <= 1
    assert torch.equal(y[inside], x[inside])
    torch.testing.assert_close(lipschitz_normalize(y), y, rtol=1e-12, atol=1e-12)
    assert (y[0] - y[1]).norm() <= 2 * (x[0] - x[1]).norm() + 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_keeps_the_dtype(dtype):
    y = lipschitz_normalize(torch.full((2, 300), 300.0, dtype=dtype))  # ‖v‖² overflows float16
    assert y.dtype == dtype
    torch.testing.assert_close(y.double().norm(dim=1), torch.ones(2, dtype=torch.float64), rtol=1e-2, atol=0)


def test_rejects_integers():
    with pytest.raises(ValueError, match=r"x: expected floating-point .* got torch.int64"):
        lipschitz_normalize(torch.ones(2, 3, dtype=torch.int64))

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ccpml import ContrastiveLoss, TripletMarginLoss, lipschitz_normalize
from ccpml.method.normalize import l2_normalize


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


@pytest.mark.parametrize("normalize", [lipschitz_normalize, l2_normalize])
@pytest.mark.parametrize(("dtype", "exponents"), [(torch.float32, (66, 100, 127)), (torch.float64, (515, 1023))])
def test_exact_up_to_the_largest_number(normalize, dtype, exponents):
    """Both are functions of the direction alone beyond the unit ball, so that a power of two changes no bit."""
    x = torch.randn(5, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x = 1.5 * x / x.abs().amax()  # the largest component has the exponent of the power
    upstream = torch.linspace(-1, 1, 35, dtype=dtype).view(5, 7)
    small = (4 * x).requires_grad_()  # outside the ball
    expected = normalize(small)
    expected.backward(upstream)
    for exponent in exponents:
        large = (x * 2.0**exponent).requires_grad_()
        mixed = torch.cat([large, small.detach(), x[:1] * 1e-6])  # rows do not affect each other
        result = normalize(mixed)
        torch.testing.assert_close(result[:5], expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
        assert torch.equal(result[5:10], expected)
        assert torch.equal(result[10:], normalize(x[:1] * 1e-6))
        (gradient,) = torch.autograd.grad(result[:5], large, upstream)
        rounding = {"rtol": 64 * torch.finfo(dtype).eps, "atol": 2.0 ** (exponent - 2) * torch.finfo(dtype).tiny}
        torch.testing.assert_close(gradient * 2.0 ** (exponent - 2), small.grad, **rounding)


def test_the_largest_vector_has_length_one():
    x = torch.full((2, 512), torch.finfo(torch.float32).max)  # 2e39 long
    torch.testing.assert_close(lipschitz_normalize(x).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_is_not_finite_stays_so(bad):
    x = torch.tensor([[bad, 1.0], [3e38, 3e38], [0.3, 0.4]])
    assert torch.isfinite(lipschitz_normalize(x)).all(dim=1).tolist() == [False, True, True]


def test_a_diverged_network_has_no_finite_loss_of_the_origin():
    """Were φ of long vectors the zero vector, all distances would be 0."""
    x, labels = 1e30 * torch.eye(4), torch.tensor([0, 0, 1, 1])
    for loss in (ContrastiveLoss(), TripletMarginLoss()):
        torch.testing.assert_close(loss(x, labels), loss(100 * torch.eye(4), labels))


def test_transforms_of_torch_func_are_refused():
    x, labels = torch.randn(4, 3), torch.arange(4) // 2
    for call in (lambda v: lipschitz_normalize(v).sum(), lambda v: ContrastiveLoss()(v, labels)):
        with pytest.raises(RuntimeError, match=r"expected no transform of torch\.func .* use backward\(\)"):
            torch.func.grad(call)(x)
    loss = ContrastiveLoss(normalize=None)
    for transformed, vectors in ((torch.func.grad(loss), x), (torch.func.vmap(loss, (0, None)), x[None])):
        with pytest.raises(RuntimeError, match=r"pair loss: expected no transform"):
            transformed(vectors, labels)


@pytest.mark.parametrize("x", [[1.0], 1.0, None, "x", torch.tensor(1.0), torch.ones(2, dtype=torch.int64)])
def test_what_are_no_vectors_is_refused(x):
    with pytest.raises(ValueError, match=r"x: expected floating-point vectors \(\.\.\., d\), got "):
        lipschitz_normalize(x)


def test_vectors_of_8_bits_are_normalized():
    x = torch.tensor([[3.0, 4.0], [0.25, 0.5]]).to(torch.float8_e4m3fn)
    found = lipschitz_normalize(x)
    assert found.dtype == x.dtype
    assert torch.equal(found.float(), lipschitz_normalize(x.float()).to(x.dtype).float())


def test_second_order_gradients_are_refused():
    """A penalty on gradients beside another term would be left out of the graph, silently."""
    v = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="lipschitz_normalize: expected create_graph=False, as only first-order"):
        torch.autograd.grad((lipschitz_normalize(v) * torch.ones(3)).sum(), v, create_graph=True)

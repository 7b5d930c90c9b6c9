"""Properties of every loss with its own proxies."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners

from ccpml import baselines

C, D = 6, 5
LOSSES = {
    "ProxyAnchor": lambda: baselines.ProxyAnchorLoss(C, D, alpha=8),
    "ProxyNCA": lambda: baselines.ProxyNCALoss(C, D),
    "SoftTriple": lambda: baselines.SoftTripleLoss(C, D, centers_per_class=3),
    "ArcFace": lambda: baselines.ArcFaceLoss(C, D, scale=8),
    "SubCenterArcFace": lambda: baselines.SubCenterArcFaceLoss(C, D, scale=8),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
takes_references = pytest.mark.parametrize("name", ["ProxyAnchor", "ProxyNCA"])


def sample(seed, size=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, D, dtype=dtype, generator=generator)
    return x.requires_grad_(), torch.randint(C, (size,), generator=generator)


def value_and_gradients(loss, x, labels, *references):
    x = x.detach().clone().requires_grad_()
    loss.zero_grad()
    value = loss(x, labels, None, *references)
    value.backward()
    return value.detach(), x.grad, loss.proxies.grad


@each_loss
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_the_order_of_the_batch_does_not_matter(name, seed, size):
    torch.manual_seed(seed)
    loss, (x, labels) = LOSSES[name]().double(), sample(seed, size)
    order = torch.randperm(size)
    value, grad, proxies = value_and_gradients(loss, x, labels)
    shuffled, grad_shuffled, proxies_shuffled = value_and_gradients(loss, x[order], labels[order])
    torch.testing.assert_close(shuffled, value)
    torch.testing.assert_close(grad_shuffled, grad[order])
    torch.testing.assert_close(proxies_shuffled, proxies)


@each_loss
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_the_names_of_the_classes_do_not_matter(name, seed):
    torch.manual_seed(seed)
    loss, (x, labels) = LOSSES[name]().double(), sample(seed)
    renamed, order = copy.deepcopy(loss), torch.randperm(C)
    renamed.proxies.data[order] = loss.proxies.data
    torch.testing.assert_close(renamed(x, order[labels]), loss(x, labels))


@each_loss
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_the_lengths_of_embeddings_and_proxies_do_not_matter(name, seed, scale):
    torch.manual_seed(seed)
    loss, (x, labels) = LOSSES[name]().double(), sample(seed)
    value, grad, _ = value_and_gradients(loss, x, labels)
    torch.testing.assert_close((grad * x).sum(1), torch.zeros(len(x), dtype=x.dtype))  # no radial part
    longer = x * torch.rand(len(x), 1, dtype=x.dtype).add(0.1) * scale
    torch.testing.assert_close(loss(longer, labels), value)
    loss.proxies.data *= scale
    torch.testing.assert_close(loss(x, labels), value)


@each_loss
def test_gradcheck(name):
    loss, (x, labels) = LOSSES[name]().double(), sample(3)

    def call(x, proxies):
        return torch.func.functional_call(loss, {"proxies": proxies}, (x, labels))

    assert torch.autograd.gradcheck(call, (x, torch.randn_like(loss.proxies).requires_grad_()))


@takes_references
def test_gradcheck_of_references(name):
    loss, (x, labels) = LOSSES[name](), sample(3)
    y, ref_labels = sample(4, 9)
    assert torch.autograd.gradcheck(lambda x, y: loss(x, labels, None, y, ref_labels), (x, y))


@takes_references
def test_references_replace_the_proxies(name):
    loss, (x, labels) = LOSSES[name]().double(), sample(5)
    own = loss(x, labels)
    torch.testing.assert_close(loss(x, labels, None, loss.proxies.flatten(0, 1), torch.arange(C)), own, rtol=0, atol=0)
    big = 2**24 + torch.arange(C)  # classes that float32 cannot distinguish
    torch.testing.assert_close(loss(x, big[labels], None, loss.proxies.flatten(0, 1), big), own, rtol=0, atol=0)


@each_loss
def test_the_state_is_the_proxies(name):
    loss = LOSSES[name]()
    assert list(loss.state_dict()) == ["proxies"] == [name for name, _ in loss.named_parameters()]
    assert loss.proxies.shape[::2] == (C, D)
    other, (x, labels) = LOSSES[name](), sample(0, dtype=torch.float32)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(x, labels), loss(x, labels), rtol=0, atol=0)


@each_loss
def test_training_lowers_the_loss(name):
    loss, (x, _) = LOSSES[name](), sample(0, C, torch.float32)
    optimizer = torch.optim.Adam([{"params": [x]}, {"params": loss.parameters(), "lr": 0.1}], lr=0.01)
    values = []
    for _ in range(50):
        optimizer.zero_grad()
        value = loss(x, torch.arange(C))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] / 2


@each_loss
def test_half_precision_is_computed_in_float32(name):
    loss, (x, labels) = LOSSES[name](), sample(0, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = loss(x, labels)
    torch.testing.assert_close(under, loss(x, labels), rtol=0, atol=0)
    low = loss(x.bfloat16(), labels)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(x.bfloat16().float(), labels), rtol=0, atol=0)
    assert loss(x.double(), labels).dtype == torch.float64
    assert loss.proxies.dtype == torch.float32  # the batch does not change the dtype of the parameter


EDGES = {
    "one class": lambda: (torch.randn(4, D), torch.zeros(4, dtype=torch.int64)),
    "one sample": lambda: (torch.randn(1, D), torch.tensor([C - 1])),
    "one sample per class": lambda: (torch.randn(C, D), torch.arange(C)),
    "empty batch": lambda: (torch.randn(0, D), torch.zeros(0, dtype=torch.int64)),
    "duplicates": lambda: (torch.randn(1, D).repeat(4, 1), torch.tensor([0, 0, 1, 1])),
    "zero vectors": lambda: (torch.zeros(4, D), torch.tensor([0, 0, 1, 1])),
    "huge vectors": lambda: (torch.randn(4, D) * 1e12, torch.tensor([0, 0, 1, 1])),
    "int32 labels": lambda: (torch.randn(4, D), torch.tensor([0, 0, 1, 1], dtype=torch.int32)),
    "uint8 labels": lambda: (torch.randn(4, D), torch.tensor([0, 0, 1, 1], dtype=torch.uint8)),
}


@each_loss
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_edges_are_finite(name, edge, dtype):
    loss, (x, labels) = LOSSES[name](), EDGES[edge]()
    value, grad, proxies = value_and_gradients(loss, x.to(dtype), labels)
    assert value.shape == ()
    for number in (value, grad, proxies):
        assert torch.isfinite(number).all()


@each_loss
@pytest.mark.parametrize("opposite", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_at_a_proxy_is_finite(name, opposite, dtype):
    loss = LOSSES[name]()
    x = opposite * loss.proxies.detach()[:, 0].to(dtype)
    for number in value_and_gradients(loss, x, torch.arange(C)):
        assert torch.isfinite(number).all()


@each_loss
def test_equal_proxies_of_a_class_have_a_finite_gradient(name):
    loss, (x, labels) = LOSSES[name](), sample(0, dtype=torch.float32)
    loss.proxies.data[:] = loss.proxies.data[:, :1]
    for number in value_and_gradients(loss, x, labels):
        assert torch.isfinite(number).all()


@takes_references
@pytest.mark.parametrize("count", [0, 3])
def test_no_terms_are_zero_with_zero_gradient(name, count):
    loss = LOSSES[name]()
    x, y = torch.randn(0 if count else 4, D, requires_grad=True), torch.randn(count, D, requires_grad=True)
    value = loss(x, torch.zeros(len(x), dtype=torch.int64), None, y, torch.arange(count))
    value.backward()
    assert value == 0
    assert x.grad.count_nonzero() == 0
    assert y.grad is None or y.grad.count_nonzero() == 0


@each_loss
def test_wrong_input_raises(name):
    loss = LOSSES[name]()
    with pytest.raises(ValueError, match=rf"embeddings: expected floating point \(n, {D}\), got .* \(2, 3\)"):
        loss(torch.randn(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels: expected integers \(2,\), got torch.float32"):
        loss(torch.randn(2, D), torch.tensor([0.0, 1.0]))
    for labels in ([0, C], [-1, 0]):
        with pytest.raises(ValueError, match=rf"labels: expected classes 0\.\.{C - 1}, got"):
            loss(torch.randn(2, D), torch.tensor(labels))
    with pytest.raises(ValueError, match="expected both or neither"):
        loss(torch.randn(2, D), torch.tensor([0, 1]), None, torch.randn(2, D))
    with pytest.raises(ValueError, match="num_classes: expected an integer of at least 1, got 0"):
        type(loss)(0, D)
    with pytest.raises(ValueError, match="embedding_dim: expected an integer of at least 1"):
        type(loss)(C, 2.5)


@pytest.mark.parametrize("name", ["SoftTriple", "ArcFace", "SubCenterArcFace"])
def test_losses_without_references_raise(name):
    with pytest.raises(ValueError, match=r"ref_emb: expected none, since .* compares only with its own proxies"):
        LOSSES[name]()(torch.randn(2, D), torch.tensor([0, 1]), None, torch.randn(2, D), torch.tensor([0, 1]))


PML = {
    "ProxyAnchor": (lambda: pml_losses.ProxyAnchorLoss(C, D, alpha=8), "proxies", False),
    "ProxyNCA": (lambda: pml_losses.ProxyNCALoss(C, D, softmax_scale=1 / (2 * 0.1)), "proxies", False),
    "SoftTriple": (lambda: pml_losses.SoftTripleLoss(C, D, centers_per_class=3), "fc", True),
    "ArcFace": (lambda: pml_losses.ArcFaceLoss(C, D, margin=math.degrees(0.5), scale=8), "W", True),
    "SubCenterArcFace": (
        lambda: pml_losses.SubCenterArcFaceLoss(
            num_classes=C, embedding_size=D, margin=math.degrees(0.5), scale=8, sub_centers=3
        ),
        "W",
        True,
    ),
}


@each_loss
@pytest.mark.parametrize("miner", [None, miners.MultiSimilarityMiner(), miners.TripletMarginMiner()])
def test_indices_weight_the_samples_as_in_pml(name, miner):
    (x, _), labels = sample(0, 8), torch.arange(8) // 2
    mined = None if miner is None else miner(x.detach(), labels)
    ours, (make, parameter, transposed) = LOSSES[name]().double(), PML[name]
    ours.tau = 0  # SoftTriple's regularizer is not weighted
    theirs = make()
    proxies = ours.proxies.data.flatten(0, 1)
    getattr(theirs, parameter).data = (proxies.T if transposed else proxies).clone()
    value, expected = ours(x, labels, mined), theirs(x, labels, mined)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (value, expected)))
    if mined is not None:
        assert value != ours(x, labels)


@takes_references
def test_only_anchors_weight_the_samples_with_references(name):
    loss, (x, labels), (y, ref_labels) = LOSSES[name]().double(), sample(3), sample(4, 9)
    indices = (torch.tensor([0, 0, 1]), torch.tensor([8, 7, 8]), torch.tensor([6, 6, 5]))
    value = loss(x, labels, indices, y, ref_labels)
    others = (indices[0], torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3]))
    torch.testing.assert_close(loss(x, labels, others, y, ref_labels), value)
    assert value != loss(x, labels, None, y, ref_labels)


@each_loss
def test_wrong_indices_raise(name):
    with pytest.raises(ValueError, match=r"indices_tuple\[1\]: expected rows 0..1, got 2..2"):
        LOSSES[name]()(torch.randn(2, D), torch.arange(2), (torch.tensor([0]), torch.tensor([2]), torch.tensor([1])))


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev])
def test_a_transform_of_torch_func_is_right_or_refused(name, transform):
    criterion = LOSSES[name]()
    x, labels = torch.arange(6.0 * D).view(6, D).cos(), torch.tensor([0, 0, 1, 1, 2, 2])
    batched = x[None] if transform is torch.func.vmap else x
    transformed = transform(lambda embeddings: criterion(embeddings, labels))
    if name in {"ArcFace", "SubCenterArcFace", "SoftTriple"}:
        with pytest.raises(RuntimeError, match=r"^\w+: expected no transform of torch.func"):
            transformed(batched)
        return
    leaf = x.clone().requires_grad_()
    value = criterion(leaf, labels)
    expected = value[None] if transform is torch.func.vmap else torch.autograd.grad(value, leaf)[0]
    assert torch.allclose(transformed(batched), expected, atol=1e-5)

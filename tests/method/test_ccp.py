import copy

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss, TripletMarginLoss
from ccpml.method.external import normalized_for
from ccpml.method.normalize import lipschitz_normalize
from tests.golden import assert_gradient
from tests.method.test_losses import GOLDEN
from tests.synchronization import NoSynchronization, no_synchronization_on_gpu


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("k", [4, 8])
def test_golden(golden, name, k):
    file = golden("losses")
    x = torch.tensor(file["embeddings"], dtype=torch.float64, requires_grad=True)
    proxies = torch.tensor(file[f"proxies_{k}"], dtype=torch.float64)
    proxy_labels = torch.tensor(file[f"proxy_labels_{k}"]).long()
    order = proxy_labels.argsort(stable=True)  # class by class, as (C, K, d)
    criterion = CCPLoss(GOLDEN[name], num_classes=20, embedding_dim=128, proxies_per_class=k).double()
    with torch.no_grad():
        criterion.proxies.copy_(proxies[order].view(20, k, 128))
    value = criterion(x, torch.tensor(file["labels"]))
    value.backward()
    case = f"{name}/ccp_{k}"
    torch.testing.assert_close(value.item(), float(file[f"{case}/loss"]), rtol=1e-5, atol=1e-8)
    assert_gradient(x.grad, file[f"{case}/grad_embeddings"])
    assert_gradient(criterion.proxies.grad.flatten(0, 1), file[f"{case}/grad_proxies"][order])


def batch():
    return torch.randn(8, 4, requires_grad=True), torch.arange(8) // 2


def test_is_the_weighted_sum_of_both_terms():
    loss, (x, labels) = TripletMarginLoss(0.1), batch()
    criterion = CCPLoss(loss, 5, 4, 3, pair_weight=0.3, proxy_weight=0.7)
    refs, ref_labels = criterion.proxies.flatten(0, 1), torch.arange(5).repeat_interleave(3)
    expected = 0.3 * loss(x, labels) + 0.7 * loss(x, labels, None, refs, ref_labels)
    torch.testing.assert_close(criterion(x, labels), expected)
    memory, memory_labels = torch.randn(6, 4), torch.arange(6) // 3
    expected = 0.3 * loss(x, labels, None, memory, memory_labels) + 0.7 * loss(x, labels, None, refs, ref_labels)
    torch.testing.assert_close(criterion(x, labels, None, memory, memory_labels), expected)


def test_is_a_module_with_proxies_as_its_parameter():
    criterion = CCPLoss(ContrastiveLoss(), num_classes=5, embedding_dim=4, proxies_per_class=3)
    assert dict(criterion.named_parameters()).keys() == {"proxies"} == criterion.state_dict().keys()
    assert criterion.proxies.shape == (5, 3, 4)
    x, labels = batch()
    criterion(x, labels).backward()
    assert criterion.proxies.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "theirs",
    [
        pml_losses.ContrastiveLoss(),
        pml_losses.TripletMarginLoss(),
        pml_losses.MultiSimilarityLoss(),
        pml_losses.CircleLoss(),
        pml_losses.NTXentLoss(),
    ],
    ids=lambda theirs: type(theirs).__name__,
)
def test_wraps_losses_of_pytorch_metric_learning(theirs):
    x, labels = batch()
    criterion = CCPLoss(theirs, 5, 4, 3)
    value = criterion(x, labels)
    value.backward()
    q = lipschitz_normalize(criterion.proxies.flatten(0, 1))
    e = lipschitz_normalize(x)
    expected = 0.1 * theirs(e, labels) + theirs(e, labels, ref_emb=q, ref_labels=criterion.proxy_labels)
    torch.testing.assert_close(value, expected)
    assert criterion.proxies.grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32():
    x, labels = batch()
    criterion = CCPLoss(ContrastiveLoss(), 5, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = criterion(x.bfloat16(), labels)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, criterion(x.bfloat16().float(), labels), rtol=0, atol=0)


@pytest.mark.parametrize("labels", [torch.tensor([0, 5]), torch.tensor([-1, 0])])
def test_labels_out_of_range_raise(labels):
    with pytest.raises(ValueError, match=r"labels: expected classes 0\.\.4, got"):
        CCPLoss(ContrastiveLoss(), 5, 4, 3)(torch.randn(2, 4), labels)


def test_wrong_sizes_raise():
    with pytest.raises(ValueError, match=r"embeddings: expected floating point \(n, 4\), got .* \(2, 3\)"):
        CCPLoss(ContrastiveLoss(), 5, 4, 3)(torch.randn(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="proxies_per_class: expected an integer of at least 1, got 0"):
        CCPLoss(ContrastiveLoss(), 5, 4, 0)
    with pytest.raises(ValueError, match="pair_weight, proxy_weight: expected one other than 0, got 0 and 0"):
        CCPLoss(ContrastiveLoss(), 5, 4, 3, 0.0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_batch_as_its_own_reference_excludes_self(dtype):
    x, labels = batch()
    x = x.to(dtype)
    criterion = CCPLoss(TripletMarginLoss(0.1), 5, 4, 3)
    value = criterion(x, labels, None, x, labels)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value, criterion(x, labels), rtol=0, atol=0)


@pytest.mark.parametrize("loss", [ContrastiveLoss(), pml_losses.ContrastiveLoss()])
def test_wrong_references_raise(loss):
    x, labels = batch()
    criterion = CCPLoss(loss, 5, 4, 3, pair_weight=0)
    with pytest.raises(ValueError, match=r"ref_emb: expected floating point \(n, 4\)"):
        criterion(x, labels, None, torch.ones(3, 4, dtype=torch.int64), torch.arange(3))
    with pytest.raises(ValueError, match=r"ref_labels: expected integers \(3,\)"):
        criterion(x, labels, None, torch.ones(3, 4), torch.arange(2))
    with pytest.raises(ValueError, match="expected both or neither"):
        criterion(x, labels, None, None, labels)


@pytest.mark.parametrize("loss", [TripletMarginLoss(0.1), pml_losses.ContrastiveLoss()])
def test_a_step_uses_the_classes_drawn(loss):
    criterion, (x, _) = CCPLoss(loss, 40, 4, 3, class_rate=0.25), batch()
    labels = torch.tensor([0, 0, 39, 39, 7, 7, 7, 21])
    seen = []
    for _ in range(3):
        drawn = copy.deepcopy(criterion.class_sampler)(labels, criterion.classes)
        assert len(drawn) == len(drawn.unique()) == 10
        assert set(labels.tolist()) <= set(drawn.tolist())
        seen.append(drawn)
        criterion.zero_grad()
        value = criterion(x, labels)
        value.backward()
        exact = CCPLoss(loss, 40, 4, 3)
        refs = criterion.proxies[drawn].flatten(0, 1)
        expected = 0.1 * exact.loss(normalized_for(loss, x), labels)
        of_drawn = {"ref_emb": normalized_for(loss, refs), "ref_labels": drawn.repeat_interleave(3)}
        expected = expected + exact.loss(normalized_for(loss, x), labels, **of_drawn)
        torch.testing.assert_close(value, expected)
        others = torch.tensor([c for c in range(40) if c not in drawn])
        assert criterion.proxies.grad[others].count_nonzero() == 0
    assert not torch.equal(seen[0], seen[1])
    resumed = CCPLoss(loss, 40, 4, 3, class_rate=0.25)
    resumed.load_state_dict(criterion.state_dict())
    torch.testing.assert_close(resumed(x, labels), criterion(x, labels))
    whole = CCPLoss(loss, 40, 4, 3)
    with torch.no_grad():
        whole.proxies.copy_(criterion.proxies)
    torch.testing.assert_close(criterion.eval()(x, labels), whole(x, labels))  # evaluation uses all classes


def test_the_seed_determines_the_classes_drawn():
    labels = torch.tensor([1])
    drawn = [
        CCPLoss(ContrastiveLoss(), 100, 4, 1, class_rate=0.05, seed=seed).class_sampler(labels, range(100))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_all_classes_of_the_batch_are_drawn():
    criterion, (x, labels) = CCPLoss(ContrastiveLoss(), 5, 4, 1, class_rate=0.01), batch()
    assert set(labels.tolist()) <= set(criterion.class_sampler(labels, criterion.classes).tolist())
    assert torch.isfinite(criterion(x, labels))


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, float("nan")])
def test_a_class_rate_out_of_range_raises(rate):
    with pytest.raises(ValueError, match=r"class_rate: expected a fraction in \(0, 1\]"):
        CCPLoss(ContrastiveLoss(), 5, 4, 1, class_rate=rate)


def test_a_loss_of_another_library_cannot_be_sharded():
    with pytest.raises(ValueError, match="group: sharded proxies need a PairLoss of ccpml, got ContrastiveLoss"):
        CCPLoss(pml_losses.ContrastiveLoss(), 5, 4, 1, group=object())


@pytest.mark.parametrize("loss", GOLDEN.values(), ids=GOLDEN)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_step_does_not_synchronize(loss, rate, monkeypatch):
    # On a CPU, labels are read; elsewhere a device assertion checks them.
    monkeypatch.setattr("ccpml.method.checks.check_labels", lambda *args: None)
    criterion, net = CCPLoss(loss, 50, 4, 3, class_rate=rate), torch.nn.Linear(6, 4)
    projections = AlternatingProjections(net, criterion)
    for score in (None, 0.5):
        if score is None:
            projections.start(lambda: torch.randn(50, 4, 4))
        else:
            projections.observe(score)
            projections.project(lambda: torch.randn(50, 4, 4))
        with NoSynchronization():
            criterion(net(torch.randn(8, 6)), torch.arange(8) // 2).backward()
            projections.pull()
    assert net.weight.grad.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("loss", GOLDEN.values(), ids=GOLDEN)
def test_a_step_on_a_gpu_does_not_synchronize(loss, rate):
    criterion = CCPLoss(loss, 50, 4, 3, class_rate=rate).cuda()
    x, labels = torch.randn(8, 4, device="cuda", requires_grad=True), (torch.arange(8) // 2).cuda()
    with no_synchronization_on_gpu():
        criterion(x, labels).backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.parametrize("loss", GOLDEN.values(), ids=GOLDEN)
def test_a_step_on_a_gpu_equals_the_cpu(loss):
    criterion, x, labels = CCPLoss(loss, 50, 4, 3), torch.randn(8, 4), torch.arange(8) // 2
    results = []
    for device in ("cpu", "cuda"):
        own, embeddings = copy.deepcopy(criterion).to(device), x.to(device, copy=True).requires_grad_()
        value = own(embeddings, labels.to(device))
        value.backward()
        results.append([value.detach().cpu(), embeddings.grad.cpu(), own.proxies.grad.cpu()])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def alternate(device, state=None):
    """Train two instances of a linear network on a device, from a state of the projections if given."""
    torch.manual_seed(0)
    net, criterion = torch.nn.Linear(6, 4), CCPLoss(TripletMarginLoss(0.3), 5, 4, 2)
    points, x, labels = torch.randn(2, 5, 7, 4), torch.randn(10, 6).to(device), (torch.arange(10) // 2).to(device)
    projections = AlternatingProjections(net, criterion, strength=0.1, patience=1)
    if state is not None:
        projections.load_state_dict(state)  # before the network is moved, as Lightning does
    net.to(device), criterion.to(device)
    optimizer = torch.optim.SGD([*net.parameters(), *criterion.parameters()], lr=0.1)
    if state is None:
        projections.start(lambda: points[0])
    for score in (0.5, 0.4):
        optimizer.zero_grad()
        criterion(net(x), labels).backward()
        projections.pull()
        optimizer.step()
        if projections.observe(score):
            projections.project(lambda: points[1])
    return projections.state_dict(), [value.detach().cpu() for value in (net.weight, net.bias, criterion.proxies)]


@pytest.mark.gpu
def test_alternating_projections_on_a_gpu_equal_those_on_the_cpu():
    states, weights = zip(*(alternate(device) for device in ("cpu", "cuda")), strict=True)
    assert states[1]["instance"] == 1
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
    resumed = [alternate(device, state)[1] for device, state in zip(("cuda", "cpu"), states, strict=True)]
    torch.testing.assert_close(*resumed, rtol=1e-4, atol=1e-6)


def test_a_loss_of_another_library_without_a_reduction_is_refused():
    from pytorch_metric_learning.reducers import DoNothingReducer

    criterion = CCPLoss(pml_losses.ContrastiveLoss(reducer=DoNothingReducer()), 2, 3, 1)
    for criterion.pair_weight in (1.0, 0.0):  # within the batch, and against the proxies
        with pytest.raises(
            ValueError, match="loss: expected a scalar from ContrastiveLoss, got dict; choose a reduction"
        ):
            criterion(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]))

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.reducers import SumReducer

from ccpml import (
    CCPLoss,
    ContrastiveLoss,
    CosineContrastiveLoss,
    MultiSimilarityLoss,
    TripletMarginLoss,
    lipschitz_normalize,
)
from ccpml.baselines import ArcFaceLoss, CrossBatchMemory, SoftTripleLoss
from tests.synchronization import NoSynchronization

D = 4
LOSSES = [
    ContrastiveLoss(0.1, 0.6),
    CosineContrastiveLoss(0.2),
    TripletMarginLoss(0.2),
    MultiSimilarityLoss(),
    ContrastiveLoss(0.1, 0.6, normalize=None),
    pml_losses.ContrastiveLoss(),
    pml_losses.TripletMarginLoss(),
]
each_loss = pytest.mark.parametrize(
    "loss", LOSSES, ids=lambda loss: f"{type(loss).__module__[:5]}-{type(loss).__name__}"
)


def batches(seed, sizes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, D, dtype=dtype, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]


def by_definition(loss, history, memory_batches, start):
    """The loss of the last batch of a history, from lists."""
    x, labels = history[-1]
    phi = lipschitz_normalize if loss.__module__.startswith("pytorch_metric_learning") else lambda v: v
    total = loss(phi(x), labels)
    before = history[:-1][-memory_batches:]
    if len(history) > start and before:
        y, ref_labels = (torch.cat(parts) for parts in zip(*before, strict=True))
        total = total + loss(phi(x), labels, ref_emb=phi(y), ref_labels=ref_labels)
    return total


@each_loss
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(1, 4), st.integers(0, 6))
def test_equals_the_definition(loss, seed, sizes, memory_batches, start):
    criterion = CrossBatchMemory(loss, D, memory_batches, batch_size=4, start=start).double()
    history = []
    for x, labels in batches(seed, sizes):
        history.append((x, labels))
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        value = criterion(ours, labels)
        value.backward()
        expected = by_definition(loss, [*history[:-1], (theirs, labels)], memory_batches, start)
        torch.testing.assert_close(value, expected)
        (expected + 0 * theirs.sum()).backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_pml_computes_the_same_for_a_sum_over_pairs():
    """It stores the batch first and excludes the sample itself: for a sum over pairs, both are equal."""
    size, memory_batches = 4, 3
    pairs = pml_losses.ContrastiveLoss(1 - 1e-5, 0.5, distance=CosineSimilarity(), reducer=SumReducer())
    theirs = pml_losses.CrossBatchMemory(pairs, D, memory_size=(memory_batches + 1) * size)
    ours = CrossBatchMemory(CosineContrastiveLoss(0.5, normalize="l2"), D, memory_batches, size, start=0)
    for x, labels in batches(0, [size] * 9, torch.float32):
        torch.testing.assert_close(ours(x, labels) * size, theirs(x, labels))
    assert set(theirs.state_dict()) == {"embedding_memory", "label_memory"}  # the position in its memory is not saved


def test_no_sample_is_paired_with_itself():
    loss = CosineContrastiveLoss()
    criterion = CrossBatchMemory(loss, D, memory_batches=2, batch_size=4, start=0)
    x, labels = torch.randn(4, D), torch.arange(4)
    torch.testing.assert_close(criterion(x, labels), loss(x, labels))  # nothing is stored yet
    assert criterion(torch.randn(4, D), labels + 10) is not None
    torch.testing.assert_close(criterion.memory[0], x)
    torch.testing.assert_close(criterion.memory_labels[1], labels + 10)


def test_uses_the_memory_only_after_start():
    class Counted(ContrastiveLoss):
        calls = 0

        def accumulate(self, pairs):
            Counted.calls += 1
            return super().accumulate(pairs)

    criterion = CrossBatchMemory(Counted(), D, memory_batches=2, batch_size=2, start=3)
    calls = []
    for x, labels in batches(0, [2] * 6):
        criterion(x, labels)
        calls.append(Counted.calls)
    assert calls == [1, 2, 3, 5, 7, 9]


@pytest.mark.parametrize("sizes", [[4] * 12, [4, 2, 4, 4, 1, 4, 4, 3, 4, 4, 4, 2]])
@pytest.mark.parametrize("at", [2, 6])
def test_a_checkpoint_resumes_exactly(tmp_path, sizes, at):
    make = lambda: CrossBatchMemory(ContrastiveLoss(), D, memory_batches=3, batch_size=4, start=4)  # noqa: E731
    whole, part, history = make(), make(), batches(1, sizes, torch.float32)
    expected = [whole(*batch).item() for batch in history]
    for batch in history[:at]:
        part(*batch)
    torch.save({"criterion": part.state_dict()}, tmp_path / "last.ckpt")
    resumed = make()
    resumed.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["criterion"])
    copied = copy.deepcopy(part)
    for later in (resumed, copied):
        assert [later(*batch).item() for batch in history[at:]] == expected[at:]
        for name, state in whole.state_dict().items():
            torch.testing.assert_close(later.state_dict()[name], state, rtol=0, atol=0)


def test_resumes_as_part_of_a_module():
    outer = torch.nn.ModuleDict({"criterion": CrossBatchMemory(ContrastiveLoss(), D, 2, 4, start=0)})
    history = batches(2, [4, 4, 4])
    for batch in history[:2]:
        outer["criterion"](*batch)
    again = torch.nn.ModuleDict({"criterion": CrossBatchMemory(ContrastiveLoss(), D, 2, 4, start=0)})
    again.load_state_dict(outer.state_dict())
    torch.testing.assert_close(again["criterion"](*history[2]), outer["criterion"](*history[2]), rtol=0, atol=0)


def test_the_state_has_a_fixed_shape():
    criterion = CrossBatchMemory(ContrastiveLoss(), D, memory_batches=3, batch_size=4, start=0)
    shapes = {name: (state.shape, state.dtype) for name, state in criterion.state_dict().items()}
    assert set(shapes) == {"memory", "memory_labels", "sizes", "steps"}
    for batch in batches(0, [4, 1, 4, 4, 2], torch.float32):
        criterion(*batch)
        assert shapes == {name: (state.shape, state.dtype) for name, state in criterion.state_dict().items()}
    assert not list(criterion.parameters())


def test_evaluation_changes_nothing():
    criterion = CrossBatchMemory(ContrastiveLoss(), D, memory_batches=3, batch_size=4, start=1)
    first, second = batches(0, [4, 4])
    criterion(*first)
    before = copy.deepcopy(criterion.state_dict())
    evaluated = criterion.eval()(*second)
    torch.testing.assert_close(criterion.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(criterion.train()(*second), evaluated, rtol=0, atol=0)


@each_loss
def test_half_precision_is_stored_and_computed_in_float32(loss):
    criterion, expected = (CrossBatchMemory(loss, D, 3, 4, start=0) for _ in range(2))
    for x, labels in batches(0, [4, 4, 4], torch.bfloat16):
        x.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = criterion(x, labels)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected(x.float(), labels), rtol=0, atol=0)
        value.backward()
    assert criterion.memory.dtype == torch.float32
    assert not criterion.memory.requires_grad


@each_loss
def test_class_ids_beyond_float32_do_not_collide(loss):
    small, big = (CrossBatchMemory(loss, D, 3, 4, start=0) for _ in range(2))
    for x, labels in batches(0, [4, 4, 4], torch.float32):
        torch.testing.assert_close(big(x, 2**24 + labels), small(x, labels), rtol=0, atol=0)


def test_references_concern_the_first_term():
    loss = ContrastiveLoss()
    criterion = CrossBatchMemory(loss, D, 3, 4, start=0)
    (x, labels), (y, ref_labels), (z, others) = batches(0, [4, 4, 6], torch.float32)
    criterion(x, labels)
    criterion.eval()
    expected = loss(y, ref_labels, None, z, others) + loss(y, ref_labels, None, x, labels)
    torch.testing.assert_close(criterion(y, ref_labels, None, z, others), expected)
    torch.testing.assert_close(criterion(y, ref_labels, None, y, ref_labels), criterion(y, ref_labels))


@each_loss
def test_an_empty_or_single_batch_is_finite(loss):
    criterion = CrossBatchMemory(loss, D, 3, 4, start=0)
    for size in (1, 4, 0, 1, 4):
        x = torch.randn(size, D, requires_grad=True)
        value = criterion(x, torch.zeros(size, dtype=torch.int64))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()


def test_a_memory_of_the_papers_size():
    criterion = CrossBatchMemory(ContrastiveLoss(0.2858, 0.5130), 128, memory_batches=1400, batch_size=32, start=0)
    rng = np.random.default_rng(0)
    criterion.memory.copy_(torch.from_numpy(rng.normal(size=criterion.memory.shape)))
    criterion.load_state_dict({**criterion.state_dict(), "steps": torch.tensor(5000), "sizes": torch.full((1400,), 32)})
    value = criterion(torch.randn(32, 128), torch.arange(32) // 4)
    assert torch.isfinite(value)
    assert criterion.steps == 5001
    assert (criterion.memory_labels[5000 % 1400] == torch.arange(32) // 4).all()


def test_wrong_input_raises():
    criterion = CrossBatchMemory(ContrastiveLoss(), D, 3, 4)
    with pytest.raises(ValueError, match="embeddings: expected at most batch_size = 4 rows, got 5"):
        criterion(torch.randn(5, D), torch.arange(5))
    with pytest.raises(ValueError, match=r"embeddings: expected floating point \(n, 4\)"):
        criterion(torch.randn(4, D + 1), torch.arange(4))
    with pytest.raises(ValueError, match=r"labels: expected integers \(4,\)"):
        criterion(torch.randn(4, D), torch.arange(3))
    with pytest.raises(ValueError, match="expected both or neither"):
        criterion(torch.randn(4, D), torch.arange(4), None, torch.randn(4, D))
    assert criterion.steps == 0
    for name in ("embedding_dim", "memory_batches", "batch_size"):
        with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1, got 0"):
            CrossBatchMemory(ContrastiveLoss(), **{"embedding_dim": D, "memory_batches": 3, "batch_size": 4, name: 0})
    for make in (lambda loss: CrossBatchMemory(loss, D, 3, 4), lambda loss: CCPLoss(loss, 3, D, 2)):
        with pytest.raises(ValueError, match=r"loss: expected a pair loss, got <class .*; pass ContrastiveLoss\(\)"):
            make(ContrastiveLoss)
    with pytest.raises(ValueError, match="start: expected an integer of at least 0, got -1"):
        CrossBatchMemory(ContrastiveLoss(), D, 3, 4, start=-1)


@pytest.mark.parametrize("broken", [slice(None), slice(2), slice(2, 3)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4, 4], [4, 3, 2, 4, 4]])
def test_a_batch_that_is_not_finite_concerns_no_later_one(broken, value, sizes):
    """With mixed precision, the step of such a batch is skipped; the loss was NaN until the memory had forgotten it."""
    criterion, history = CrossBatchMemory(ContrastiveLoss(), D, 3, 4, start=0), batches(0, sizes, torch.float32)
    history[1][0][broken, 1] = value
    losses = [criterion(*batch) for batch in history]
    assert [bool(loss.isfinite()) for loss in losses] == [True, False, True, True, True]


def test_a_memory_of_nothing_finite_is_not_compared_with():
    criterion, history = CrossBatchMemory(ContrastiveLoss(), D, 1, 4, start=0), batches(0, [4, 4, 4], torch.float32)
    history[0][0][:, 1] = torch.inf
    criterion(*history[0])
    x = history[1][0].requires_grad_()
    value = criterion(x, history[1][1])
    value.backward()
    torch.testing.assert_close(value, ContrastiveLoss()(*history[1]))
    assert x.grad.isfinite().all()


def test_what_is_not_finite_is_left_out_of_the_memory():
    criterion, history = CrossBatchMemory(ContrastiveLoss(), D, 3, 4, start=0), batches(0, [4, 4], torch.float32)
    history[0][0][1] = torch.nan
    criterion(*history[0])
    embeddings, labels = history[0][0][[0, 2, 3, 0]], history[0][1][[0, 2, 3, 0]]  # one more stands for the second
    expected = ContrastiveLoss()(*history[1]) + ContrastiveLoss()(*history[1], ref_emb=embeddings, ref_labels=labels)
    torch.testing.assert_close(criterion(*history[1]), expected)


@pytest.mark.parametrize(
    "loss", [ContrastiveLoss(), ContrastiveLoss(normalize="l2"), pml_losses.TripletMarginLoss(0.2)]
)
def test_ccp_of_a_memory_compares_the_batch_with_it_and_the_proxies_once(loss):
    criterion = CCPLoss(CrossBatchMemory(loss, D, 2, 4, start=0), 4, D, 2, pair_weight=0.3)
    memory, plain = CrossBatchMemory(loss, D, 2, 4, start=0), CCPLoss(loss, 4, D, 2, pair_weight=0)
    plain.load_state_dict({name: value for name, value in criterion.state_dict().items() if "loss." not in name})
    for x, labels in batches(0, [4] * 5, torch.float32):
        torch.testing.assert_close(criterion(x, labels % 4), 0.3 * memory(x, labels % 4) + plain(x, labels % 4))
    assert criterion.loss.steps == memory.steps == 5


@pytest.mark.parametrize(
    "loss", [torch.nn.CrossEntropyLoss(), ArcFaceLoss(4, D), SoftTripleLoss(4, D), CCPLoss(ContrastiveLoss(), 4, D, 2)]
)
def test_a_loss_that_takes_no_references_is_refused_when_it_is_given(loss):
    for inner in (loss, pml_losses.MultipleLosses([loss])):
        for make in (lambda loss: CrossBatchMemory(loss, D, 3, 4), lambda loss: CCPLoss(loss, 3, D, 2)):
            with pytest.raises(ValueError, match=f"loss: expected a pair loss, .*ref_emb, got {type(loss).__name__}$"):
                make(inner)


def test_a_step_does_not_synchronize():
    criterion = CrossBatchMemory(CosineContrastiveLoss(), D, 3, 4, start=2)
    history = batches(0, [4] * 6, torch.float32)
    with NoSynchronization():
        for batch in history:
            criterion(*batch)
        with pytest.raises(AssertionError):
            criterion.steps.item()
    assert criterion.steps == 6


@pytest.mark.parametrize("write", ["copy_", "assign", "data"])
def test_a_memory_that_others_write_to_is_used_as_it_is(write):
    """As a rewind to earlier weights, or their average, does: the same as after loading that state."""
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(size, 4, generator=generator), torch.arange(size) // 2) for size in (6, 4, 2, 6, 4, 6)]
    memory, loaded = (CrossBatchMemory(ContrastiveLoss(), 4, 3, 6, start=0) for _ in range(2))
    memory(*batches[0])
    memory(*batches[1])
    early = {name: buffer.clone() for name, buffer in memory.named_buffers()}
    for batch in batches[2:5]:
        memory(*batch)
    for name, buffer in memory.named_buffers():
        if write == "copy_":
            buffer.copy_(early[name])
        elif write == "data":
            buffer.data = early[name].clone()
        else:
            setattr(memory, name, early[name].clone())
    loaded.load_state_dict(early)
    for batch in (batches[5], batches[3]):
        assert torch.equal(memory(*batch), loaded(*batch))
    assert memory.sizes.tolist() == loaded.sizes.tolist() == [6, 4, 6]
    moved = memory.double()
    assert torch.equal(
        moved(batches[2][0].double(), batches[2][1]), loaded.double()(batches[2][0].double(), batches[2][1])
    )

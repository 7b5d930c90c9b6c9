"""A loss that defines nothing but its equation gets blocks, gradients, proxies and ranks."""

import pytest
import torch
from torch import distributed, nn

from ccpml import CCPLoss, MultiSimilarityLoss, PairLoss, TripletMarginLoss
from ccpml.method.normalize import lipschitz_normalize
from ccpml.pairwise import engine
from tests.ranks import run_on_ranks


class Sigmoid(PairLoss):
    """The sigmoid loss of SigLIP: mean over anchors of Σ log(1 + e^{−z(tS + b)}), with trainable t and b."""

    def __init__(self):
        super().__init__()
        self.t, self.b = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(-1.0))
        self.frozen = nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def accumulate(self, pairs):
        logits = self.t * pairs.values + self.b
        softplus = nn.functional.softplus
        return (softplus(-logits) * pairs.positive + softplus(logits) * pairs.negative).sum(1)

    def loss(self, sums):
        return sums.mean() + self.t**2 * self.frozen  # a parameter may also enter after the sums


class HardNegative(PairLoss):
    """Mean over anchors of (m − D of the nearest negative)₊: not a sum, but a minimum over references."""

    uses_distances = True

    def accumulate(self, pairs):
        return (pairs.values + 10 * (1 - pairs.negative)).amin(1)

    def merge(self, one, other):
        return torch.minimum(one, other)

    def loss(self, sums):
        return (2 - sums).relu().mean()


class Lifted(PairLoss):
    """Σ over triplets of (1 + D_ap − D_an)₊²: the positives' distances enter every block."""

    uses_distances = True
    uses_positive_distances = True

    def accumulate(self, pairs):
        terms = (1 + pairs.positive_distances[:, :, None] - pairs.values[:, None, :]).relu() ** 2
        return (terms * pairs.negative[:, None, :]).sum((1, 2))

    def loss(self, sums):
        return sums.sum()


CUSTOM = [Sigmoid, HardNegative, Lifted]
each_custom = pytest.mark.parametrize("kind", CUSTOM)
X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul_(0.6)
LABELS = torch.tensor([0, 0, 1, 1, 2, 9])


def in_plain_torch(kind, x, labels, y, ref_labels, loss):
    x, y = lipschitz_normalize(x), lipschitz_normalize(y)
    same, values = labels[:, None] == ref_labels, x @ y.T
    if kind is Sigmoid:
        signs = torch.where(same, 1.0, -1.0).double()
        terms = torch.log1p(torch.exp(-signs * (loss.t * values + loss.b)))
        return terms.sum(1).mean() + loss.t**2 * loss.frozen
    distances = (x[:, None] - y).norm(dim=2)
    if kind is HardNegative:
        return (2 - distances.masked_fill(same, 10).amin(1)).relu().mean()
    triplets = (1 + distances[:, :, None] - distances[:, None, :]).relu() ** 2
    return (triplets * same[:, :, None] * ~same[:, None, :]).sum()


@each_custom
@pytest.mark.parametrize(("kept", "block"), [(0, 1), (2**25, 1), (2**25, 2**17)])
def test_a_custom_loss_equals_itself_in_plain_torch(kind, kept, block, monkeypatch):
    monkeypatch.setattr(engine, "MAX_CACHED_VALUES", kept)
    monkeypatch.setitem(engine._BLOCK, "cpu", block)
    loss, found = kind().double(), []
    y, ref_labels = torch.randn(600, 4, dtype=torch.float64) / 2, torch.arange(600) % 40
    for compute in (loss, lambda x, labels, _, y, ref_labels: in_plain_torch(kind, x, labels, y, ref_labels, loss)):
        leaves = [X.clone().requires_grad_(), y.clone().requires_grad_()]
        weights = [weight for weight in loss.parameters() if weight.requires_grad]
        value = compute(leaves[0], LABELS, None, leaves[1], ref_labels)
        found.append([value.detach(), *torch.autograd.grad(2 * value, [*leaves, *weights])])
    torch.testing.assert_close(*found)


@each_custom
def test_a_custom_loss_never_pairs_a_sample_with_itself(kind):
    """Within the batch it is the mean or sum over anchors of the loss of each against the others."""
    loss, others = kind().double(), ~torch.eye(6, dtype=torch.bool)
    alone = [loss(X[i : i + 1], LABELS[i : i + 1], None, X[others[i]], LABELS[others[i]]) for i in range(6)]
    expected = torch.stack(alone).sum() if kind is Lifted else torch.stack(alone).mean()
    torch.testing.assert_close(loss(X, LABELS), expected)


@each_custom
def test_a_custom_loss_takes_pairs_given_by_index(kind):
    loss, same = kind().double(), LABELS[:, None] == LABELS
    every = (*torch.where(same & ~torch.eye(6, dtype=torch.bool)), *torch.where(~same))
    torch.testing.assert_close(loss(X, LABELS, every), loss(X, LABELS))


def of_rank(sharded):
    """Values and gradients of CCP with losses computed from their definitions."""
    found = []
    for kind in (*CUSTOM, TripletMarginLoss, MultiSimilarityLoss):
        loss = kind()
        loss.fast = None
        torch.manual_seed(0)
        criterion = CCPLoss(loss, 11, 4, 2, group=distributed.group.WORLD if sharded else None).double()
        x = X.clone().requires_grad_()
        value = criterion(x, LABELS)
        value.backward()
        parts = criterion.gather_classes(criterion.proxies.grad)
        found += [value.detach(), x.grad, parts, *(w.grad for w in loss.parameters() if w.requires_grad)]
    return found


def test_ranks_share_the_references_of_a_definition():
    alone = of_rank(sharded=False)
    for rank in run_on_ranks(of_rank, 2, True):
        torch.testing.assert_close(rank, alone)


def test_a_block_or_a_loss_may_be_constant():
    class Constant(PairLoss):
        def __init__(self, sums, total):
            super().__init__()
            self.sums, self.total = sums, total

        def accumulate(self, pairs):
            return pairs.values.new_zeros(()) if self.sums else pairs.values.sum()

        def loss(self, sums):
            return sums.new_ones(()) if self.total else sums

    for loss in (Constant(True, False), Constant(False, True)):
        x = torch.randn(4, 3, requires_grad=True)
        loss(x, torch.arange(4)).backward()
        assert torch.equal(x.grad, torch.zeros_like(x))


def test_an_undefined_equation_is_named():
    with pytest.raises(NotImplementedError, match=r"Empty: accumulate\(pairs\) is not defined"):
        type("Empty", (PairLoss,), {})()(torch.randn(2, 3), torch.tensor([0, 1]))

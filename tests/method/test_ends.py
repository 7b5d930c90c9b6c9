"""Ends of instances by the covering radius of the proxies."""

import copy

import pytest
import torch

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss, covering_radius, lipschitz_normalize
from ccpml.distributed import rank_range
from ccpml.method import shared_pool as module
from ccpml.method.cover import MAX_COVER_RATIO, left_out_radius
from tests.ranks import run_on_ranks

C, B, D, K = 5, 6, 3, 2
MEANS = 0.7 * torch.nn.functional.normalize(torch.randn(C, 1, D, generator=torch.Generator().manual_seed(0)), dim=2)
POOL, FRESH = MEANS + 0.1 * torch.randn(2, C, B, D, generator=torch.Generator().manual_seed(1))


def started(**options):
    torch.manual_seed(0)
    net, criterion = torch.nn.Linear(4, D), CCPLoss(ContrastiveLoss(), C, D, K)
    projections = AlternatingProjections(net, criterion, **{"ends": "cover", "patience": 2, **options})
    projections.start(lambda: POOL)
    return criterion, projections


def ratio(proxies, points):
    """Mean over classes of the proxies' covering radius over that of fresh centers, after φ."""
    points, proxies = lipschitz_normalize(points), lipschitz_normalize(proxies.detach())
    return (covering_radius(points, proxies).mean() / left_out_radius(points, K).mean()).item()


def test_ends_once_the_proxies_cover_notably_worse_than_fresh_centers():
    criterion, projections = started()
    assert not projections.observe(0.1, lambda: FRESH)
    assert projections.cover_ratio == pytest.approx(ratio(criterion.proxies, FRESH), rel=1e-6)
    with torch.no_grad():
        criterion.proxies.mul_(-3)
    assert ratio(criterion.proxies, FRESH) > MAX_COVER_RATIO
    assert projections.observe(0.2, lambda: FRESH)  # though the score improved
    projections.project(lambda: FRESH)
    assert projections.instance == 1
    assert not projections.observe(0.1, lambda: POOL)


def test_stalled_scores_end_an_instance_too():
    _, projections = started()
    assert [projections.observe(0.1, lambda: FRESH) for _ in range(3)] == [False, False, True]


def test_of_many_classes_evenly_spaced_ones_are_measured(monkeypatch):
    monkeypatch.setattr(module, "evenly_spaced_classes", lambda count: [0, 2, 4])
    criterion, projections = started()
    projections.observe(0.1, lambda: FRESH)
    assert projections.cover_ratio == pytest.approx(ratio(criterion.proxies[::2], FRESH[::2]), rel=1e-6)


def test_ends_by_the_score_alone_need_no_pool():
    _, projections = started(ends="score")
    projections.observe(0.1, lambda: pytest.fail("embedded for nothing"))
    assert projections.cover_ratio is None


def test_of_one_sample_per_class_nothing_is_measured():
    criterion = CCPLoss(ContrastiveLoss(), C, D, 1)
    projections = AlternatingProjections(torch.nn.Linear(4, D), criterion, ends="cover", patience=1)
    projections.start(lambda: POOL[:, :1])
    assert [projections.observe(0.1, lambda: FRESH[:, :1]) for _ in range(2)] == [False, True]
    assert projections.cover_ratio is None


def test_equal_embeddings():
    criterion, projections = started()
    assert projections.observe(0.1, lambda: torch.zeros(C, B, D))  # fresh centers would be at distance 0
    with torch.no_grad():
        criterion.proxies.zero_()
    assert not projections.observe(0.2, lambda: torch.zeros(C, B, D))


def test_a_pool_that_fails_changes_nothing():
    _, projections = started()
    before = copy.deepcopy(projections.state_dict())
    with pytest.raises(ValueError, match="pool: expected finite embeddings"):
        projections.observe(0.1, lambda: torch.full((C, B, D), torch.nan))
    with pytest.raises(ValueError, match="pool: expected embeddings of fresh samples for ends='cover', got none"):
        projections.observe(0.1)
    torch.testing.assert_close(projections.state_dict(), before, rtol=0, atol=0)


def test_a_wrong_end_raises():
    with pytest.raises(ValueError, match="ends: expected 'score' or 'cover', got 'never'"):
        started(ends="never")


def measured_on_ranks():
    found = []
    for shard in (False, True):
        criterion, projections = started()
        if shard:
            criterion.shard(torch.distributed.group.WORLD)
        classes = rank_range(C)
        for points in (FRESH, FRESH[classes.start : classes.stop]):
            projections.observe(0.1, lambda points=points: points)
            found.append(projections.cover_ratio)
    return found


def test_ranks_measure_what_one_process_does():
    criterion, _ = started()
    expected = pytest.approx([ratio(criterion.proxies, FRESH)] * 4, rel=1e-6)
    one, other = run_on_ranks(measured_on_ranks, 2)
    assert one == other == expected

"""evaluate on several ranks: the scores of one process, bit for bit, and evenly shared work."""

import numpy as np
import pytest
import torch

from ccpml.retrieval import evaluate
from ccpml.retrieval.neighbors import ExactSearch
from ccpml.retrieval.tiles import few_nearest
from tests.ranks import run_on_ranks


def sample(n, sizes, dim=16, seed=0):
    """Return shuffled classes of the given sizes, repeated; some vectors are duplicates."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n), np.resize(sizes, n))[:n]
    embeddings = (rng.normal(size=(n, dim))[labels] + rng.normal(size=(n, dim))).astype(np.float32)
    embeddings[: n // 10] = embeddings[n // 10 : n // 10 * 2]
    order = rng.permutation(n)
    return embeddings[order], labels[order]


SETS = {
    "few": sample(60, [3, 5, 1]),
    "tiles": sample(4000, [4, 6, 1]),
    "tiles and chunks": sample(6000, [2] * 60 + [300, 60]),
    "near-ties": (np.repeat(sample(3500, [5])[0][:20], 175, axis=0), sample(3500, [5])[1]),
}


def scores_of(names):
    """Evaluate each set, within it and its first third against the rest, on the default group."""
    return [evaluate(*split, per_query=True, group=torch.distributed.group.WORLD) for split in splits(names)]


def splits(names):
    for name in names:
        x, labels = SETS[name]
        third = len(x) // 3
        yield x, labels
        yield x[:third], labels[:third], x[third:], labels[third:]


@pytest.mark.parametrize("world_size", [2, 3])
def test_equals_one_process_bit_for_bit(world_size):
    expected = [evaluate(*split, per_query=True) for split in splits(SETS)]
    for found in run_on_ranks(scores_of, world_size, list(SETS)):
        for actual, reference in zip(found, expected, strict=True):
            assert actual == reference
            for name in ("map_at_r", "precision_at_1", "r_precision"):
                np.testing.assert_array_equal(getattr(actual.per_query, name), getattr(reference.per_query, name))


def count_work():
    """Count the tiles and chunks that this rank computes, and record its progress."""
    work, mm, nearest = {"tiles": 0, "chunks": 0, "progress": []}, torch.mm, ExactSearch.nearest

    def counted_mm(*args, **options):
        work["tiles"] += 1
        return mm(*args, **options)

    def counted_nearest(*args):
        work["chunks"] += 1
        return nearest(*args)

    torch.mm, ExactSearch.nearest = counted_mm, counted_nearest
    x, labels = sample(8192, [2] * 50 + [100])
    evaluate(
        x,
        labels,
        chunk_elements=2**20,
        progress=lambda done, total: work["progress"].append((done, total)),
        group=torch.distributed.group.WORLD,
    )
    return work


def test_ranks_share_the_work_evenly():
    first, second = run_on_ranks(count_work, 2)
    assert first["tiles"] == second["tiles"] == 4 * 8 - 4 * 3 // 2  # 4 of 8 rows of tiles
    assert abs(first["chunks"] - second["chunks"]) <= 1
    assert first["chunks"] > 10
    for work in (first, second):
        assert work["progress"][-1][0] == work["progress"][-1][1]
        assert work["progress"] == sorted(set(work["progress"]))


def test_tiles_without_wanted_queries_are_skipped(monkeypatch):
    mm, count = torch.mm, []
    monkeypatch.setattr(torch, "mm", lambda *args, **options: count.append(0) or mm(*args, **options))
    wanted = torch.zeros(256, dtype=torch.int64)
    wanted[70] = 5
    points = torch.randn(256, 8)
    found, _ = few_nearest(ExactSearch(points), wanted, side=64)
    assert len(count) == 4
    assert found[70].tolist() == torch.cdist(points[70:71], points)[0].argsort()[1:6].tolist()
    few_nearest(ExactSearch(points), torch.zeros(256, dtype=torch.int64), side=64)
    assert len(count) == 4


def name_of_differing_tensor(change):
    x, labels = (torch.from_numpy(a) for a in sample(50, [5]))
    if torch.distributed.get_rank() == 1:
        x, labels = change(x, labels)
    with pytest.raises(ValueError, match="expected the same tensor on every rank") as error:
        evaluate(x, labels, group=torch.distributed.group.WORLD)
    return str(error.value).partition(":")[0]


def swapped(x, labels):
    return x, labels.roll(1)


def longer(x, labels):
    return torch.cat([x, x[:1]]), torch.cat([labels, labels[:1]])


def nudged(x, labels):
    return x.index_put((torch.tensor([3]), torch.tensor([3])), torch.tensor(0.5)), labels


@pytest.mark.parametrize(("change", "name"), [(swapped, "labels"), (longer, "embeddings"), (nudged, "embeddings")])
def test_different_inputs_are_named_on_every_rank(change, name):
    assert run_on_ranks(name_of_differing_tensor, 2, change) == [name, name]


def fail_on_second_rank():
    if torch.distributed.get_rank() == 1:
        raise KeyError("failure of rank 1")
    torch.distributed.barrier()


def test_failure_of_a_rank_fails_the_test():
    with pytest.raises(AssertionError, match="failure of rank 1"):
        run_on_ranks(fail_on_second_rank, 2)

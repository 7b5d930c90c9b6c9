import time
from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccpml.data import ClassBalancedBatches, Draw, in_chunks, pool_draws, pool_rows
from ccpml.data.sampler import BatchRange


@st.composite
def labeled(draw: st.DrawFn, min_classes: int = 1) -> np.ndarray:
    sizes = draw(st.lists(st.integers(1, 7), min_size=min_classes, max_size=12))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


@settings(max_examples=60, deadline=None)
@given(labeled(), st.integers(1, 5), st.data())
def test_batches_follow_the_rule(labels: np.ndarray, per_class: int, data: st.DataObject) -> None:
    num_classes = int(labels.max()) + 1
    p = data.draw(st.integers(1, num_classes))
    batches = ClassBalancedBatches(labels, p, per_class, seed=data.draw(st.integers(0, 2**40)))
    per_round = num_classes // p
    assert batches.steps_per_round == per_round
    for round_number in range(2):
        seen: list[int] = []
        for step in range(round_number * per_round, (round_number + 1) * per_round):
            batch = batches.batch(step)
            assert len(batch) == p * per_class
            assert {draw.epoch for draw in batch} == {round_number}
            assert len(set(batch)) == len(batch)  # a repeated row has another copy number
            groups = [(key, list(rows)) for key, rows in groupby(batch, lambda draw: int(labels[draw.row]))]
            assert [len(rows) for _, rows in groups] == [per_class] * p
            seen += [key for key, _ in groups]
            for key, rows in groups:
                size = int((labels == key).sum())
                counts = Counter(draw.row for draw in rows)
                assert set(counts.values()) <= {per_class // size, -(-per_class // size)}
                assert all(sorted(d.copy for d in rows if d.row == row) == list(range(n)) for row, n in counts.items())
        assert len(set(seen)) == len(seen)  # a class occurs at most once in a round


@settings(max_examples=40, deadline=None)
@given(labeled(min_classes=4), st.sampled_from([1, 2, 4]), st.integers(0, 50))
def test_the_shares_of_the_ranks_are_the_batch_of_one_process(labels: np.ndarray, world_size: int, step: int) -> None:
    whole = ClassBalancedBatches(labels, 4, 3, seed=1).batch(step)
    parts = [ClassBalancedBatches(labels, 4, 3, 1, rank, world_size).batch(step) for rank in range(world_size)]
    assert [draw for part in parts for draw in part] == whole
    assert {len(part) for part in parts} == {12 // world_size}


def test_batches_have_no_state() -> None:
    labels = np.arange(40) // 4
    batches = ClassBalancedBatches(labels, 3, 2, seed=5)
    forwards = [batches.batch(step) for step in range(20)]
    backwards = [batches.batch(step) for step in reversed(range(20))][::-1]
    assert forwards == backwards == list(ClassBalancedBatches(labels.tolist(), 3, 2, seed=5).steps(0, 20))
    assert forwards != list(ClassBalancedBatches(labels, 3, 2, seed=6).steps(0, 20))
    assert len({tuple(batch) for batch in forwards}) == 20


def test_all_images_are_drawn_equally_often() -> None:
    labels = np.arange(40) // 8
    batches = ClassBalancedBatches(labels, 2, 4, seed=0)
    counts = Counter(draw.row for batch in batches.steps(0, 2000) for draw in batch)
    expected = 2000 * 8 / 40
    assert len(counts) == 40
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_steps_are_sized_and_go_on_when_iterated_again() -> None:
    batches = ClassBalancedBatches([0, 1, 1], 2, 1, seed=0)
    steps = batches.steps(3, 7)
    assert isinstance(steps, BatchRange)
    for start in (3, 7, 11):
        assert len(steps) == 4
        assert list(steps) == [batches.batch(step) for step in range(start, start + 4)]
    next(iter(steps))  # an epoch that was left early counts as one
    assert list(steps) == [batches.batch(step) for step in range(19, 23)]
    assert all(type(draw) is Draw and type(draw.row) is int for batch in steps for draw in batch)
    assert len(ClassBalancedBatches([0, 1], 2, 1, seed=0).steps(7, 3)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes_per_batch": 4}, "classes_per_batch: expected at most 3, the number of training classes, got 4"),
        ({"classes_per_batch": 0}, "classes_per_batch: expected an integer of at least 1, got 0"),
        ({"samples_per_class": 0}, "samples_per_class: expected an integer of at least 1, got 0"),
        ({"world_size": 2}, "classes_per_batch: expected a multiple of 2, the number of ranks, got 3"),
        ({"rank": 1}, "rank"),
        ({"labels": [0, 2]}, "got no image of class 1"),
        ({"labels": [0, 4_006_381_333_931]}, "no image of class 1; number them with np.unique"),  # no array as long
        ({"labels": [-1, 0]}, "0 or more"),
        ({"labels": []}, "labels"),
        ({"labels": [0.5, 1.0]}, "labels"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "labels": [0, 1, 2],
        "classes_per_batch": 3,
        "samples_per_class": 1,
        "seed": 0,
        "rank": 0,
    }
    with pytest.raises(ValueError, match=message):
        ClassBalancedBatches(**good | arguments)
    with pytest.raises(ValueError, match="step"):
        ClassBalancedBatches(**good).batch(-1)


@settings(max_examples=60, deadline=None)
@given(labeled(), st.integers(1, 15), st.integers(0, 5))
def test_pools_exhaust_a_class_before_repeating(labels: np.ndarray, b: int, draw: int) -> None:
    rows = pool_rows(labels, b, seed=3, draw=draw)
    assert rows.dtype == np.int64
    assert rows.shape == (labels.max() + 1, b)
    assert np.array_equal(labels[rows], np.arange(len(rows))[:, None].repeat(b, 1))
    for label, chosen in enumerate(rows.tolist()):
        size = int((labels == label).sum())
        for start in range(0, b, size):  # each repetition is without replacement
            turn = chosen[start : start + size]
            assert len(set(turn)) == len(turn)
    draws = pool_draws(labels, b, seed=3, draw=draw)
    assert [d.row for d in draws] == rows.ravel().tolist()
    assert len(set(draws)) == len(draws)
    assert {d.epoch for d in draws} == {-1 - draw}


def test_pools_are_distinct_and_reproducible() -> None:
    labels = np.arange(200) // 20
    pools = [pool_rows(labels, 5, seed=0, draw=draw) for draw in range(5)]
    assert len({pool.tobytes() for pool in pools}) == 5
    assert np.array_equal(pools[2], pool_rows(labels, 5, seed=0, draw=2))
    assert not np.array_equal(pools[2], pool_rows(labels, 5, seed=1, draw=2))
    with pytest.raises(ValueError, match="per_class"):
        pool_rows(labels, 0, seed=0, draw=0)


def test_pools_draw_all_images_equally_often() -> None:
    counts = np.bincount(np.concatenate([pool_rows([0] * 10, 3, 0, d).ravel() for d in range(2000)]), minlength=10)
    assert (np.abs(counts - 600) < 5 * 600**0.5).all()


def test_chunks() -> None:
    draws = pool_draws([0, 1, 1], 3, seed=0, draw=0)
    assert [len(chunk) for chunk in in_chunks(draws, 4)] == [4, 2]
    assert [draw for chunk in in_chunks(draws, 4) for draw in chunk] == draws
    with pytest.raises(ValueError, match="size"):
        in_chunks(draws, 0)


def test_large_sets_are_quick() -> None:
    """The size of SOP, in time of this process, since test machines are busy."""
    labels = np.concatenate([np.arange(11318), np.random.default_rng(0).integers(0, 11318, 48233)])
    start = time.process_time()
    ClassBalancedBatches(labels, 8, 4, seed=0).batch(0)
    pool_rows(labels, 7, seed=0, draw=0)
    assert time.process_time() - start < 1.5

"""The parts of a report: choice of queries, instances and classes, measures and projections."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ccpml.method import average_covering_radius
from ccpml.report.covers import worst_classes
from ccpml.report.curves import History
from ccpml.report.embedded import Embedded, read_embedded
from ccpml.report.gallery import choose_queries, neighbors_of
from ccpml.report.maps import ProjectedInstance, choose_instances, draw_maps, last_instance
from ccpml.report.style import legible, style, two_lines
from tests.report.runs import make_run


def embedded(points: list[list[float]], labels: list[int], roles: list[str] | None = None) -> Embedded:
    return Embedded(
        embeddings=np.array(points, np.float32),
        labels=np.array(labels),
        class_names=tuple(f"class {label}" for label in range(max(labels) + 1)),
        paths=tuple(f"{row}.png" for row in range(len(labels))),
        roles=np.array(roles or [""] * len(labels)),
    )


def test_queries_are_spread_from_the_worst_to_the_best() -> None:
    scores = np.random.default_rng(1).random(500)
    scores[::7] = np.nan
    chosen = choose_queries(scores, seed=0)
    assert len(chosen) == 8
    assert scores[chosen[0]] == np.nanmin(scores)
    assert scores[chosen[-1]] == np.nanmax(scores)
    assert (np.diff(scores[chosen]) > 0).all()
    assert (choose_queries(scores, seed=0) == chosen).all()


def test_the_seed_orders_queries_with_equal_scores() -> None:
    scores = np.zeros(100)
    assert (choose_queries(scores, 0) != choose_queries(scores, 1)).any()
    assert choose_queries(np.full(5, np.nan), 0).size == 0
    assert sorted(choose_queries(np.array([0.5, np.nan, 0.1]), 0)) == [0, 2]


def test_neighbors_exclude_the_query() -> None:
    split = embedded([[0.0], [0.0], [1.0], [3.0]], [0, 0, 0, 1])
    assert neighbors_of(split, np.array([1, 3]))[0].tolist() == [0, 2, 3]
    assert neighbors_of(split, np.array([1, 3]))[1].tolist() == [2, 0, 1]


def test_neighbors_come_from_the_gallery() -> None:
    split = embedded([[0.0], [0.0], [1.0], [3.0]], [0, 0, 0, 1], ["query", "query", "gallery", "gallery"])
    assert neighbors_of(split, np.array([0]))[0].tolist() == [2, 3]


def test_scores_of_queries_without_references_are_nan() -> None:
    assert np.isnan(embedded([[0.0], [1.0]], [0, 1]).map_at_r()).all()
    scores = embedded([[0.0], [1.0], [1.5], [0.1]], [0, 1, 1, 0], ["query", "query", "gallery", "gallery"]).map_at_r()
    assert scores[:2].tolist() == [1.0, 1.0]
    assert np.isnan(scores[2:]).all()


def test_worst_classes_by_their_samples() -> None:
    split = embedded([[0.0], [4.0], [9.0], [9.5], [20.0]], [0, 0, 1, 1, 2])
    worst = worst_classes(split, np.array([0.5, 1.0, np.nan, np.nan, np.nan]))
    assert [cover.name for cover in worst] == ["class 0", "class 1", "class 2"]
    expected = average_covering_radius(torch.tensor([[0.0], [4.0]]), torch.tensor([0, 0]))
    assert worst[0].radius == pytest.approx(expected)
    assert [cover.map_at_r for cover in worst] == [0.75, None, None]
    assert [cover.images for cover in worst] == [2, 2, 1]


def test_worst_classes_by_their_proxies() -> None:
    split = embedded([[0.5], [0.75], [-0.5], [0.0]], [0, 0, 1, 1])
    proxies = torch.tensor([[[0.5], [4.0]], [[-0.5], [-0.5]]])  # φ maps 4 to 1
    worst = worst_classes(split, np.full(4, np.nan), proxies)
    assert [(cover.label, cover.radius) for cover in worst] == [(1, 0.5), (0, 0.25)]


def test_large_sets_are_subsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.report.covers.MAX_CLASSES", 3)
    monkeypatch.setattr("ccpml.report.covers.MAX_SAMPLES", 2)
    split = embedded([[float(i % 4)] for i in range(40)], [i // 4 for i in range(40)])
    worst = worst_classes(split, np.full(40, np.nan))
    assert [cover.label for cover in worst] == [0, 4, 9]
    assert {cover.radius for cover in worst} == {1.5}  # of the first and the last sample


def test_instances_are_evenly_spaced() -> None:
    files = [Path(f"{number:03d}.npz") for number in range(30)]
    chosen = choose_instances(files)
    assert len(chosen) == 8
    assert (chosen[0], chosen[-1]) == (files[0], files[-1])
    assert choose_instances(files[:8]) == files[:8]


def test_the_projection_keeps_distances_in_a_plane_and_the_orientation_of_the_panel_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    train = read_embedded(run, "train")
    assert train is not None
    flat = np.zeros_like(train.embeddings)
    flat[:, [2, 5]] = train.embeddings[:, [2, 5]]
    last = last_instance(Embedded(flat, train.labels, train.class_names, train.paths, train.roles), None, None, 10)
    first = ProjectedInstance.of(last, {})
    distance = np.linalg.norm(last.samples[0] - last.samples[9])
    assert np.linalg.norm(first.samples[0] - first.samples[9]) == pytest.approx(distance, rel=1e-5)
    mirrored = {label: mean * [-1, 1] for label, mean in first.means.items()}
    again = ProjectedInstance.of(last, mirrored)
    for label, mean in again.means.items():
        assert mean == pytest.approx(mirrored[label], abs=1e-5)


def test_coinciding_points_can_be_drawn(tmp_path: Path) -> None:
    split = embedded([[0.0], [0.0], [0.0]], [0, 0, 1])
    with style():
        assert draw_maps([last_instance(split, torch.zeros(2, 1, 1), None, 1)]).png


def test_switches_are_read_from_the_metrics() -> None:
    rows = [{"step": 10.0 * i, "instance": float(k)} for i, k in enumerate([0, 0, 1, 1, 2, 2])]
    assert History(rows, 10).switches == [20, 40]
    assert History([{"step": 1.0}], 1).switches == []


def test_names_are_legible_and_fit_two_lines() -> None:
    assert legible("aé✓") == "aé✓"
    assert legible("漢\n\udcff") == "U+6F22U+000AU+DCFF"
    assert two_lines("short", 12) == "short"
    assert two_lines("Korean/character01", 15) == "Korean/\ncharacter01"
    assert two_lines("images/Korean/character01", 12) == "Korean/\ncharacter01"
    assert two_lines("x" * 40, 10) == "x" * 10 + "\n" + "x" * 9 + "…"

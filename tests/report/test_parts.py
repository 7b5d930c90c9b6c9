"""The parts of a report: choice of queries, instances and classes, measures and projections."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontEntry, findfont, fontManager, get_font

from ccpml.method import average_covering_radius
from ccpml.report import page
from ccpml.report.covers import worst_classes
from ccpml.report.curves import History
from ccpml.report.curves import _geometry as draw_geometry_figure
from ccpml.report.curves import _progress as draw_progress_figure
from ccpml.report.embedded import Embedded, read_embedded
from ccpml.report.gallery import choose_queries, gallery_rows, neighbors_of
from ccpml.report.images import Images
from ccpml.report.maps import ProjectedInstance, choose_instances, draw_maps, last_instance
from ccpml.report.style import Layout, legible, style, two_lines
from ccpml.report.tiles import Row
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


def test_neighbors_beyond_r_are_faded_and_a_perfect_query_has_no_red_mark() -> None:
    split = embedded([[0.0], [0.1], [0.2], [3.0], [3.1], [3.2], [0.45]], [0, 0, 0, 1, 1, 1, 1])
    rows = gallery_rows(split, split.map_at_r(), Images("folder:x"), seed=0)
    assert {row.numbers for row in rows if row.name == "class 0"} == {"MAP@R 1.000"}
    for row in rows:
        query, *tiles = row.tiles
        assert (query.right, query.faded) == (None, False)
        references = 2 if row.name == "class 0" else 3
        assert [tile.faded for tile in tiles] == [rank >= references for rank in range(6)]
        for tile in tiles:
            right = tile.caption == row.name
            assert tile.right is (None if tile.faded and not right else right)
        if row.name == "class 0":
            assert [tile.right for tile in tiles] == [True, True, None, None, None, None]
    assert any(tile.right is False for row in rows for tile in row.tiles)
    assert any(tile.right and tile.faded for row in rows for tile in row.tiles)


@pytest.mark.parametrize("scores", [[1.0, 1.0], [0.0, 0.0], [0.0, 0.5, 1.0], [0.97, 0.98]])
@pytest.mark.parametrize("layout", [Layout(), Layout(4.0, in_browser=True)])
def test_axes_of_scores_end_at_0_and_1(scores: list[float], layout: Layout) -> None:
    rows = [{"step": 10.0 * (i + 1), "map_at_r": score, "loss": 2 * score} for i, score in enumerate(scores)]
    with style():
        figure = draw_progress_figure(History(rows, 10), layout)
        figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    assert [axes.get_position().height > 0.25 for axes in figure.axes] == [True, True]
    assert 0 <= low < high <= 1
    assert low <= min(scores)
    assert high >= max(scores)


def test_other_fonts_of_the_system_are_used_for_characters_that_the_first_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = findfont("STIXGeneral")
    missing = get_font(file).get_charmap().keys() - get_font(findfont("DejaVu Sans")).get_charmap().keys()
    other = chr(min(c for c in missing if chr(c).isprintable()))
    entry = FontEntry(fname=file, name="STIXGeneral", style="normal", weight=400, stretch="normal")
    monkeypatch.setattr(fontManager, "ttflist", [entry, *fontManager.ttflist])
    with style(["name", other]):
        assert mpl.rcParams["font.family"] == ["sans-serif", "STIXGeneral"]
        assert legible(f"a{other}") == f"a{other}"
    with style(["name"]):
        assert mpl.rcParams["font.family"] == ["sans-serif"]
        assert legible(other) == f"U+{ord(other):04X}"


def test_coinciding_points_can_be_drawn(tmp_path: Path) -> None:
    split = embedded([[0.0], [0.0], [0.0]], [0, 0, 1])
    with style():
        assert draw_maps([last_instance(split, torch.zeros(2, 1, 1), None, 1)]).png


@pytest.mark.parametrize("layout", [Layout(), Layout(width=4.0)])
def test_the_best_score_stands_above_the_curve(layout: Layout) -> None:
    rows = [{"step": 10.0 * n, "map_at_r": score, "loss": 1.0} for n, score in enumerate([0.3, 0.4, 0.55, 0.5])]
    with style():
        top = draw_progress_figure(History(rows, 20), layout).axes[0]
    (label,) = [text for text in top.texts if text.get_text().startswith("best")]
    assert label.get_va() == "bottom"
    assert label.xyann[1] > 0


@pytest.mark.parametrize("layout", [Layout(), Layout(width=4.0)])
def test_numbers_beside_the_axes_are_not_cut_off(layout: Layout) -> None:
    names = ("train_covering_radius", "val_covering_radius", "train_interclass_distance", "val_interclass_distance")
    names = (*names, "proxy_covering_radius", "proxy_spread")
    rows = [{"step": step, **dict.fromkeys(names, value)} for step, value in ((4.0, 0.02), (8.0, 0.01))]
    with style():
        figure = draw_geometry_figure(History(rows, 4), layout)
        FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        assert min(label.get_window_extent().x0 for label in axes.get_yticklabels()) > 0


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


def test_two_names_of_classes_keep_their_order_in_any_script() -> None:
    html = page.rows([Row("\u062a\u0641\u0627\u062d", " score 0.9", [], suggested="-x")], "")
    assert "<strong><bdi>\u062a\u0641\u0627\u062d</bdi> → <bdi>-x</bdi>?</strong> score 0.9" in html

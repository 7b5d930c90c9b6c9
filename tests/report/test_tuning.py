import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("optuna", reason="Optuna is an extra: ccpml[tune]")

from ccpml.report.tuning import Scale, draw_contour, draw_history, draw_search, draw_slices, triangulate
from ccpml.runs.settings import Settings
from ccpml.tuning.results import Result
from ccpml.tuning.search_space import Choices, Range
from ccpml.tuning.study import Search

STRENGTH = Range("strength", 1e-6, 0.1, log=True)
PROXIES = Range("proxies_per_class", 1, 16)
RATE = Choices("lr", (1e-3, 1e-5, 1e-4))
SPACE = (STRENGTH, PROXIES, RATE)


def results(count, states=("complete", "complete", "pruned", "failed", "running")):
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        values = {
            "strength": float(10 ** rng.uniform(-6, -1)),
            "proxies_per_class": int(rng.integers(1, 17)),
            "lr": float(rng.choice(RATE.values)),
        }
        state = states[number % len(states)]
        score = None if state in {"failed", "running"} else float(rng.uniform(0.2, 0.6))
        made.append(Result(number, state, values, score))
    return made


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).reshape(-1, 3)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_a_search_has_all_its_pictures(tmp_path, count):
    search = Search(Settings(), SPACE, tmp_path, "s")
    paths = draw_search(search, results(count), {"strength": 0.7, "proxies_per_class": 0.2, "lr": 0.1})
    assert [path.name for path in paths] == [
        "history.png",
        "slices.png",
        "contour-strength-proxies_per_class.png",
        "contour-strength-lr.png",
        "contour-proxies_per_class-lr.png",
    ]
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 300


def test_a_search_without_a_score_has_no_pictures(tmp_path):
    search = Search(Settings(), SPACE, tmp_path, "s")
    assert draw_search(search, results(3, states=("failed", "running")), {}) == []
    assert not list(tmp_path.iterdir())


def test_pruned_trials_and_equal_scores_can_be_drawn():
    for made in (
        results(4, states=("pruned",)),
        [Result(one.number, "complete", one.values, 0.0) for one in results(9, states=("complete",))],
        [Result(number, "complete", {"strength": 1e-3, "proxies_per_class": 2}, 0.5) for number in range(5)],
    ):
        assert draw_history(made).png
        assert draw_slices(SPACE[:2], made, {}).png
        assert draw_contour(STRENGTH, PROXIES, made).png


def test_the_contour_is_interpolated_between_complete_trials_alone():
    made = results(30, states=("complete",))
    colored = [len(np.unique(pixels(draw_contour(STRENGTH, PROXIES, some)), axis=0)) for some in (made, made[:1])]
    pruned = [Result(one.number, "pruned", one.values, one.score) for one in made]
    share = [np.mean((pixels(draw_contour(STRENGTH, PROXIES, some)) > 250).all(1)) for some in (made, pruned)]
    assert colored[0] > colored[1]
    assert share[0] < 0.7 < share[1]


def test_triangles_have_the_mean_where_values_repeat_and_none_on_a_line():
    x, y = np.array([0.0, 1, 0, 1, 1]), np.array([0.0, 0, 1, 1, 1])
    triangles, means = triangulate(x, y, np.array([0.1, 0.2, 0.3, 0.4, 0.6]))
    assert len(triangles.triangles) == 2
    np.testing.assert_allclose(sorted(means), [0.1, 0.2, 0.3, 0.5])
    assert triangulate(x, x, np.arange(5.0)) is None
    assert triangulate(x, np.zeros(5), np.arange(5.0)) is None
    assert triangulate(x[:2], y[:2], np.arange(2.0)) is None


@pytest.mark.parametrize(
    ("field", "ticks"),
    [
        (STRENGTH, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (PROXIES, [2, 4, 6, 8, 10, 12, 14, 16]),
        (Range("lr", 1e-4, 1e-3, log=True), [1e-4, 2e-4, 5e-4, 1e-3]),
        (Range("lr", 2.1e-4, 2.2e-4, log=True), [2.1e-4, 2.12e-4, 2.14e-4, 2.16e-4, 2.18e-4, 2.2e-4]),
        (Range("lr", 1e-4, 1.1e-4, log=True), [1e-4, 1.1e-4]),
        (Range("decay", 0.5, 1.0), [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
    ],
)
def test_ticks_are_round_numbers(field, ticks):
    assert Scale(field).ticks() == pytest.approx(ticks)
    positions = Scale(field).positions(ticks)
    assert np.all(np.diff(positions) > 0)


def test_choices_are_placed_by_their_order():
    np.testing.assert_array_equal(Scale(RATE).positions([1e-3, 1e-5, 1e-4]), [2, 0, 1])

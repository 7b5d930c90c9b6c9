import pytest

from ccpml.benchmark.spread import Change, Gain, Spread, changes


def history(*rows: tuple[int, float]) -> list[dict[str, float]]:
    return [{"instance": instance, "train_covering_radius": radius} for instance, radius in rows]


def test_ends_of_the_first_and_the_last_instance() -> None:
    models = [
        history((0, 0.9), (0, 0.5), (1, 0.7), (1, 0.4), (2, 0.3)),
        history((0, 0.2), (1, 0.6)),
        history((0, 0.1), (0, 0.05)),  # no projection
        [],
    ]
    found = changes(models)
    assert found.keys() == {"train_covering_radius"}
    assert found["train_covering_radius"] == Change(pytest.approx(0.35), pytest.approx(0.45), 1, 2)


def test_nothing_to_compare() -> None:
    assert changes([]) == {}
    assert changes([history((0, 0.5))]) == {}
    assert changes([[{"instance": 0}, {"instance": 1}]]) == {}


def test_gains_of_equal_scores_have_no_p_value() -> None:
    assert Gain.of("plain", [0.5, 0.5], [0.25, 0.25]).p is None
    assert Gain.of("plain", [0.5], [0.25]).p is None
    assert Gain.of("plain", [0.5, 0.6], [0.25, 0.3]).p is not None


def test_a_spread_needs_values() -> None:
    with pytest.raises(ValueError, match="expected one or more"):
        Spread.of([])

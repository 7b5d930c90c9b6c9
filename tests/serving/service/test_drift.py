"""Drift: the test of Kolmogorov and Smirnov, and what it is fed with."""

import time

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstwobign

from ccpml.serving.service.drift import Drift, kolmogorov_smirnov, reference_distances
from tests.serving.service.conftest import encoded


@pytest.mark.parametrize("seed", range(5))
def test_the_statistic_is_that_of_scipy_and_the_p_value_close_to_its_exact_one(seed):
    rng = np.random.default_rng(seed)
    first = rng.gamma(2, 1, 300).round(1).astype(np.float32)  # with ties
    second = rng.gamma(2, 1 + 0.1 * seed, 120).astype(np.float32)
    statistic, p_value = kolmogorov_smirnov(first, second)
    expected = ks_2samp(first, second)
    assert statistic == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=0.15, abs=1e-4)
    root = np.sqrt(300 * 120 / 420)
    assert p_value == pytest.approx(kstwobign.sf((root + 0.12 + 0.11 / root) * statistic), abs=1e-9)


def test_samples_of_one_distribution_seldom_drift_and_others_do():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        drift = Drift(rng.normal(0.5, 0.1, 500).astype(np.float32))
        for distance in rng.normal(0.5, 0.1, 200):
            drift.add(distance)
        alarms += drift.report().drifting
    assert alarms <= 2
    for _ in range(500):
        drift.add(rng.normal(0.6, 0.1))
    report = drift.report()
    assert report.drifting
    assert (report.reference, report.recent) == (500, 500)


def test_small_samples_say_nothing():
    drift = Drift(np.full(500, 0.1, np.float32))
    for _ in range(49):
        drift.add(1.9)
    assert drift.report() == (None, None, 500, 49, False)
    drift.add(1.9)
    assert drift.report().drifting


def test_reference_distances_are_to_the_nearest_other_item(index):
    vectors = index.vectors(range(1, 21)).astype(np.float64)
    between = np.linalg.norm(vectors[:, None] - vectors[None], axis=2) + 10 * np.eye(20)
    assert np.allclose(np.sort(reference_distances(index)), np.sort(between.min(axis=1)), atol=1e-6)
    assert len(reference_distances(index, count=5)) == 5
    assert len(reference_distances(index, seconds=-1)) == 0


def test_queries_from_elsewhere_are_noticed_by_the_service(connect):
    client = connect()
    while client.get("/api/drift").json()["reference"] != 20:  # measured in the background
        time.sleep(0.01)
    client.app.state.service.drift.set_reference(np.linspace(0.01, 0.1, 100, dtype=np.float32))
    rng = np.random.default_rng(0)
    for _ in range(50):
        noise = encoded(rng.integers(0, 2, (2, 2, 3), np.uint8) * 255)
        client.post("/api/search", files={"picture": noise}, data={"k": "1"})
    found = client.get("/api/drift").json()
    assert found["drifting"] is True
    assert found["statistic"] > 0.9
    assert found["searches"] == 50
    assert "\nccpml_drift 1\n" in client.get("/metrics").text

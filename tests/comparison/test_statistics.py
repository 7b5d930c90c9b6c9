"""Tables of scores and their differences: against the functions for one score, and Holm's procedure."""

import numpy as np
import pytest

from ccpml.comparison.statistics import SCORES, compare_tables, holm
from ccpml.retrieval import class_interval, paired_difference


def test_holm_rejects_what_the_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(5) ** 3
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for step, at in enumerate(np.argsort(p)):
                if p[at] > level / (len(p) - step):
                    break
                rejected.add(int(at))
            assert rejected == set(np.flatnonzero(holm(p) <= level).tolist())


def test_tables_equal_one_score_at_a_time():
    rng, labels = np.random.default_rng(0), np.arange(60) % 12
    tables = [rng.random((len(SCORES), 60)) for _ in range(3)]
    tables[2][0] = tables[0][0] + 0.1 + 0.02 * rng.random(60)
    for table in tables:
        table[:, 7] = np.nan  # a query that does not count
    estimates, differences = compare_tables(tables, labels)
    for k, own in enumerate(estimates):
        for s, name in enumerate(SCORES):
            assert own[name].value == pytest.approx(np.nanmean(tables[k][s]))
            expected = class_interval(tables[k][s], labels, bounds=(0, 1))
            assert (own[name].low, own[name].high) == pytest.approx(expected)
    for k, own in enumerate(differences, 1):
        for s, name in enumerate(SCORES):
            expected = paired_difference(tables[k][s], tables[0][s], labels, bounds=(-1, 1))
            found = own[name]
            assert (found.value, found.low, found.high, found.p_value) == pytest.approx(tuple(expected))
            assert found.p_value <= found.p_adjusted <= min(1.0, 2 * found.p_value)
    assert differences[1]["map_at_r"].verdict == "better"
    assert compare_tables([tables[2], tables[0]], labels)[1][0]["map_at_r"].verdict == "worse"
    assert compare_tables([tables[0], tables[0]], labels)[1][0]["map_at_r"].verdict == "equal"


def test_one_class_has_no_interval():
    tables = [np.random.default_rng(k).random((len(SCORES), 5)) for k in range(2)]
    estimates, differences = compare_tables(tables, np.zeros(5, int))
    assert estimates[0]["map_at_r"].low is None
    assert differences[0]["map_at_r"].p_value is None
    assert differences[0]["map_at_r"].verdict == "not distinguishable"

"""Approximate search, small rows and re-ranking of candidates, with small sizes in place of large ones."""

from types import SimpleNamespace

import numpy as np
import pytest

from ccpml.reranking import METHODS
from ccpml.serving import DamagedIndexError
from ccpml.serving.search import approximate
from ccpml.serving.search.approximate import (
    LowRecallError,
    Recall,
    default_dtype,
    open_approximate,
    write_default_dtype,
)
from ccpml.serving.search.exact import nearest_rows
from ccpml.serving.search.reranked import Reranked
from ccpml.serving.search.scan import Exact

NONE = np.empty(0, np.int64)
KINDS = ("hnsw", "int8", "float16")


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    monkeypatch.setattr(approximate, "_QUERIES", 150)


def make_view(count=2000, removed=NONE, generation=1, seed=0, dim=16):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(100, dim))[rng.integers(100, size=20000)] + rng.normal(size=(20000, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)[:count]
    return SimpleNamespace(rows=rows, removed=np.sort(removed), snapshot=SimpleNamespace(generation=generation))


def shared(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [None, 0.9, 0.6, 0.3, 0.01])
@pytest.mark.parametrize("removals", [0, 100, 1200])
def test_recall_with_filters_and_removals(kind, fraction, removals, tmp_path):
    rng = np.random.default_rng(1)
    scan = open_approximate(tmp_path, make_view(), kind)
    view = make_view(2100, removed=rng.choice(2100, removals, replace=False))  # some were added since
    kept = np.setdiff1d(np.arange(2100), view.removed)
    passing = None if fraction is None else np.sort(rng.choice(kept, int(len(kept) * fraction), replace=False))
    queries = view.rows[-150:] + np.float32(0.01)
    distances, rows = scan.nearest(view, queries, 10, passing)
    expected = nearest_rows(queries, view.rows, 10, view.removed, passing)
    assert np.isin(rows, kept if passing is None else passing).all()
    assert shared(rows, expected[1]) >= (0.99 if fraction == 0.01 else 0.97)
    np.testing.assert_allclose(distances, np.linalg.norm(view.rows[rows] - queries[:, None], axis=2), atol=1e-6)
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_is_used_extended_and_built_again(kind, tmp_path):
    view, built = make_view(), []
    first = open_approximate(tmp_path, view, kind, progress=built.append)
    assert sum(built) == 2000
    file = tmp_path / "cache" / f"{kind}.bin"
    assert (again := open_approximate(tmp_path, view, kind, progress=built.append)).recall == first.recall
    assert sum(built) == 2000
    assert again.notes == []
    more = open_approximate(tmp_path, make_view(2100), kind, progress=built.append)
    assert more.notes == ["100 pictures were added since it was built, and are searched exactly"]
    many = open_approximate(tmp_path, make_view(2500), kind, progress=built.append)
    assert len(many.structure) == 2500
    other = open_approximate(tmp_path, make_view(2500, generation=2), kind)
    assert other.notes == [f"{file}: of other rows; built again"]
    other = open_approximate(tmp_path, make_view(2500, generation=2, seed=5), kind)
    assert other.notes == [f"{file}: of other rows; built again"]
    assert open_approximate(tmp_path, make_view(300, generation=2, seed=5), kind).notes[0].endswith("built again")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "header"])
def test_a_damaged_cache_is_built_again(damage, tmp_path):
    view = make_view(400)
    whole = open_approximate(tmp_path, view, "hnsw").nearest(view, view.rows[:20], 5, None)
    file = tmp_path / "cache" / "hnsw.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    changed = {"flip": bytes(data), "cut": data[:-100], "empty": b"", "text": b"hello\n", "header": data[:9]}[damage]
    file.write_bytes(changed)
    scan = open_approximate(tmp_path, view, "hnsw")
    why = "damaged, or of another version" if damage in {"text", "header"} else "damaged"
    assert scan.notes == [f"{file}: {why}; built again"]
    np.testing.assert_array_equal(scan.nearest(view, view.rows[:20], 5, None)[1], whole[1])
    assert open_approximate(tmp_path, view, "hnsw").notes == []


def test_a_cache_that_cannot_be_written_is_used_all_the_same(tmp_path):
    (tmp_path / "cache").write_text("a file")
    view = make_view(400)
    scan = open_approximate(tmp_path, view, "int8")
    assert scan.notes[-1].endswith("it is built again next time")
    assert scan.nearest(view, view.rows[:3], 1, None)[1].tolist() == [[0], [1], [2]]


def test_another_generation_is_searched_exactly(tmp_path):
    scan = open_approximate(tmp_path, make_view(400), "hnsw")
    view = make_view(300, generation=2, seed=3)
    np.testing.assert_array_equal(
        scan.nearest(view, view.rows[:9], 7, None)[1], nearest_rows(view.rows[:9], view.rows, 7, NONE)[1]
    )


def test_another_kind_is_no_damage_of_the_index(tmp_path):
    with pytest.raises(ValueError, match="kind: expected hnsw, float16, int8, got 'HNSW'"):
        open_approximate(tmp_path, make_view(400), "HNSW")


def test_low_recall_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "_measure", lambda *_: [(64, 1000, 0.8, 0.8), (128, 1000, 0.93, 0.92)])
    with pytest.raises(LowRecallError, match=r"recall@10 of at least 0.95, measured recall@10 0.9200 \(95 % interval"):
        open_approximate(tmp_path, make_view(400), "hnsw", 0.95)
    assert open_approximate(tmp_path, make_view(400), "hnsw", 0.9).effort == 128


def test_the_measured_recall_is_that_of_other_queries(tmp_path, monkeypatch):
    """A structure that misses what has an odd number is measured at one half."""
    view = make_view(1500)
    scan = open_approximate(tmp_path, view, "int8")
    found = type(scan.structure).candidates

    def half(self, queries, count, effort):
        candidates = found(self, queries, len(self) // 4, effort)
        return np.where(candidates % 2 == 1, -1, candidates)

    monkeypatch.setattr(type(scan.structure), "candidates", half)
    measured = approximate._measure(scan.structure, view)
    assert measured[0][2] == pytest.approx(0.5, abs=0.05)
    assert measured[0][3] == pytest.approx(0.5, abs=0.05)


def test_equal_rows_are_no_loss(tmp_path):
    view = make_view(600)
    view.rows[:] = view.rows[:10].repeat(60, axis=0)
    assert open_approximate(tmp_path, view, "int8").recall.value == 1


def test_wilson_interval():
    low, high = Recall(0.9, 100).interval  # Newcombe, Statistics in Medicine 17, 1998, for 90 of 100
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
    assert Recall(1.0, 1000).interval[1] == 1
    assert Recall(1.0, 1000).interval[0] == pytest.approx(1000 / (1000 + 1.959964**2))


@pytest.mark.parametrize("method", METHODS)
def test_candidates_are_ranked_again_by_the_method(method, monkeypatch):
    monkeypatch.setattr("ccpml.serving.search.reranked.MIN_CANDIDATES", 30)
    view, passing = make_view(200), np.arange(0, 200, 2)
    distances, rows = Reranked(Exact(), method).nearest(view, view.rows[1:4], 6, passing)
    for query, found, near in zip(view.rows[1:4], rows, distances, strict=True):
        candidates = nearest_rows(query[None], view.rows, 30, NONE, passing)[1][0]
        expected = METHODS[method](query[None], view.rows[candidates], 6).indices[0]
        assert found.tolist() == candidates[expected].tolist()
        np.testing.assert_allclose(near, np.linalg.norm(view.rows[found] - query, axis=1), atol=1e-6)


def test_unknown_method_and_nothing_to_rank():
    with pytest.raises(
        ValueError, match="method: expected one of k-reciprocal, query-expansion, augmentation, got best"
    ):
        Reranked(Exact(), "best")
    view = make_view(10)
    distances, rows = Reranked(Exact(), "k-reciprocal").nearest(view, view.rows[:2], 3, NONE)
    assert distances.shape == rows.shape == (2, 0)


def test_a_cache_of_another_kind_is_built_again(tmp_path):
    view = make_view(400)
    open_approximate(tmp_path, view, "hnsw")
    file = tmp_path / "cache" / "int8.bin"
    (tmp_path / "cache" / "hnsw.bin").rename(file)
    scan = open_approximate(tmp_path, view, "int8")
    assert scan.notes == [f"{file}: of another kind (hnsw); built again"]
    assert scan.structure.facts()["bytes_per_row"] == view.rows.shape[1]


@pytest.mark.parametrize("kind", ["hnsw", "float16"])
def test_rows_that_are_not_finite_are_named(kind, tmp_path):
    view = make_view(400)
    view.rows[:] = np.nan
    with pytest.raises(DamagedIndexError, match=r"rows\.1\.f32: damaged \(rows: expected finite .*restore all of the"):
        open_approximate(tmp_path, view, kind)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{}", "damaged"), ("[", "damaged"), ('{"dtype": "int4"}', "expected one of float32"), (None, "Is a directory")],
)
def test_a_damaged_default_is_named(content, reason, tmp_path):
    file = tmp_path / "scan.json"
    assert default_dtype(tmp_path) == "float32"
    write_default_dtype(tmp_path, "int8")
    assert default_dtype(tmp_path) == "int8"
    file.unlink()
    file.mkdir() if content is None else file.write_text(content)
    with pytest.raises(DamagedIndexError, match=rf"scan\.json: .*{reason}.*; choose the type again"):
        default_dtype(tmp_path)

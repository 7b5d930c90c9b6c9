from itertools import product
from pathlib import Path

import numpy as np
import pytest

from ccpml.benchmark import ensemble
from ccpml.benchmark.ensemble import score_ensembles
from ccpml.files import write_arrays
from tests.benchmark.finished import CLASSES, PER_CLASS, embeddings_of, make_benchmark

LABELS = np.arange(CLASSES).repeat(PER_CLASS)


def by_definition(parts: list[np.ndarray]) -> dict[str, float]:
    """φ of the joined embeddings, then MAP@R, P@1 and P@R from their definitions."""
    joined = np.concatenate([part.astype(np.float64) for part in parts], axis=1)
    joined /= np.maximum(1.0, np.linalg.norm(joined, axis=1, keepdims=True))
    distances = np.linalg.norm(joined[:, None] - joined[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    relevant = PER_CLASS - 1
    true = LABELS[np.argsort(distances, axis=1)[:, :relevant]] == LABELS[:, None]
    precision = true.cumsum(1) / np.arange(1, relevant + 1)
    return {
        "map_at_r": float((precision * true).sum(1).mean() / relevant),
        "precision_at_1": float(true[:, 0].mean()),
        "r_precision": float(true.mean()),
    }


def test_an_ensemble_is_scored_by_its_definition(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", folds=4, repeats=1, methods=["plain"])
    found = score_ensembles(made, list(made.cells()), progress=False)["contrastive-plain"]
    scores = found.scores[0, 0, 0, 0]
    expected = by_definition([embeddings_of(seed) for seed in range(4)])
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_all_combinations_of_models_and_those_of_one_repeat(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", repeats=3, folds=2, methods=["plain"])
    seeds = {(cell.repeat, cell.fold): seed for seed, cell in enumerate(made.cells())}
    found = score_ensembles(made, list(made.cells()), progress=False)["contrastive-plain"]
    assert set(found.scores) == set(product(range(3), repeat=2))
    for repeats, scores in found.scores.items():
        expected = by_definition([embeddings_of(seeds[repeat, fold]) for fold, repeat in enumerate(repeats)])
        assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert set(found.of_repeats()) == {0, 1, 2}
    assert found.of_repeats()[1] == found.scores[1, 1]


def test_scores_are_kept_until_embeddings_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_benchmark(tmp_path / "out", methods=["plain"])
    cells = list(made.cells())
    first = score_ensembles(made, cells, progress=False)
    scored = []
    score = ensemble._score
    monkeypatch.setattr(ensemble, "_score", lambda *arguments: scored.append(1) or score(*arguments))
    assert score_ensembles(made, cells, progress=False) == first
    assert scored == []
    file = cells[0].path / "embeddings" / "test.npz"
    with np.load(file) as arrays:
        write_arrays(file, **{**arrays, "embeddings": embeddings_of(77)})
    again = score_ensembles(made, cells, progress=False)
    assert len(scored) == 2, "it is part of two of the four combinations"
    assert again != first
    kept = tmp_path / "out" / "ensembles" / "contrastive-plain.json"
    for damaged in ("{cut off", kept.read_text().replace("0.", "1.", 1)):
        kept.write_text(damaged)
        assert score_ensembles(made, cells, progress=False) == again


def test_models_with_damaged_embeddings_are_left_out(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", methods=["plain"])
    cells = list(made.cells())
    (cells[0].path / "embeddings" / "test.npz").write_bytes(b"PK damaged")
    (cells[3].path / "embeddings" / "test.npz").unlink()
    found = score_ensembles(made, cells, progress=False)["contrastive-plain"]
    assert set(found.scores) == {(1, 0)}
    assert found.of_repeats() == {}
    assert len(found.problems) == 2
    assert all("embeddings" in problem for problem in found.problems)


def test_models_of_other_images_are_not_mixed(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", methods=["plain"], repeats=1)
    cells = list(made.cells())
    file = cells[1].path / "embeddings" / "test.npz"
    with np.load(file) as arrays:
        write_arrays(file, **{**arrays, "paths": arrays["paths"][::-1]})
    found = score_ensembles(made, cells, progress=False)["contrastive-plain"]
    assert found.scores == {}
    assert "expected the test images of" in found.problems[0]
    assert "other paths, from row 0 on" in found.problems[0]
    found = score_ensembles(made, list(made.cells()), progress=False)["contrastive-plain"]
    assert found.scores == {}
    assert "train it again on the same data" in found.problems[0]


def test_a_single_fold_has_no_ensembles(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", methods=["plain"], folds=1)
    assert score_ensembles(made, list(made.cells()), progress=False)["contrastive-plain"].scores == {}

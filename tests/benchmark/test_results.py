from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ccpml.benchmark.ablations import ablation_rows
from ccpml.benchmark.results import collect_results
from tests.benchmark.finished import drawn, make_benchmark


def test_means_and_deviations_over_repeats(tmp_path: Path) -> None:
    """The models of a repeat are averaged first; the spread is over repeats, not over models."""
    made = make_benchmark(tmp_path / "out", repeats=3, folds=2)
    maps = {(c.row.name, c.repeat, c.fold): drawn(seed)["map_at_r"] for seed, c in enumerate(made.cells())}
    plain, ccp = collect_results(made, progress=False)
    means = {
        name: np.array([np.mean([maps[name, repeat, fold] for fold in range(2)]) for repeat in range(3)])
        for name in ("contrastive-plain", "contrastive-ccp")
    }
    assert plain.separated["map_at_r"].mean == pytest.approx(means["contrastive-plain"].mean())
    assert plain.separated["map_at_r"].std == pytest.approx(means["contrastive-plain"].std(ddof=1))
    assert plain.separated["map_at_r"].count == 3
    assert plain.validation is not None
    assert plain.validation.mean == pytest.approx(means["contrastive-plain"].mean() + 0.1)
    assert (plain.gains, len(plain.cells), plain.expected) == ({}, 6, 6)
    gain = ccp.gains["separated"]
    differences = means["contrastive-ccp"] - means["contrastive-plain"]
    assert gain.mean == pytest.approx(differences.mean())
    assert gain.std == pytest.approx(differences.std(ddof=1))
    assert gain.won == (differences > 0).sum()
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(3))
    assert gain.p == pytest.approx(2 * stats.t.sf(abs(t), df=2))


def test_the_deviations_over_repeats_and_over_all_combinations(tmp_path: Path) -> None:
    (plain,) = collect_results(make_benchmark(tmp_path / "out", repeats=3, folds=2, methods=["plain"]), progress=False)
    repeats = [scores["map_at_r"] for scores in plain.ensembles.of_repeats().values()]
    every = [scores["map_at_r"] for scores in plain.ensembles.scores.values()]
    assert (len(repeats), len(every)) == (3, 9)
    independent, all_combinations = plain.concatenated["map_at_r"], plain.combinations["map_at_r"]
    assert (independent.mean, independent.std) == (
        pytest.approx(np.mean(repeats)),
        pytest.approx(np.std(repeats, ddof=1)),
    )
    assert all_combinations.mean == pytest.approx(np.mean(every))
    assert all_combinations.std == pytest.approx(np.std(every, ddof=1))


def test_one_repeat_has_no_deviation(tmp_path: Path) -> None:
    results = collect_results(make_benchmark(tmp_path / "out", repeats=1), progress=False)
    assert results[0].separated["map_at_r"].std is None
    gain = results[1].gains["concatenated"]
    assert (gain.std, gain.p, gain.count) == (None, None, 1)


def test_missing_and_damaged_cells_are_listed_and_do_not_affect_the_others(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", repeats=2, folds=2)
    cells = {(cell.row.method, cell.repeat, cell.fold): cell for cell in made.cells()}
    (cells["ccp", 0, 0].path / "scores.json").unlink()
    cells["ccp", 0, 0].path.with_name("repeat0-fold0.log").write_text("...\nccpml: error: out of memory\n")
    (cells["ccp", 1, 1].path / "scores.json").write_text('{"test": {}}')
    plain, ccp = collect_results(made, progress=False)
    assert (len(plain.cells), len(ccp.cells), ccp.expected) == (4, 2, 4)
    assert "C2-CCP, repeat 0, fold 0: not finished: ccpml: error: out of memory" in ccp.problems
    assert any("not the scores of a finished run" in problem for problem in ccp.problems)
    assert ccp.concatenated == {}
    assert ccp.gains["separated"].count == 2, "over the folds that both have"


def test_an_ablation_is_compared_with_the_plain_loss_of_the_same_value(tmp_path: Path) -> None:
    rows = ablation_rows("classes_per_batch=2,4", ["c2"], ["plain", "ccp"])
    made = make_benchmark(tmp_path / "out", rows=rows, folds=1, ablation="classes_per_batch")
    over = {result.row.title: result.gains for result in collect_results(made, progress=False)}
    assert over["C2-CCP (classes_per_batch=4)"]["separated"].over == "contrastive-plain-classes_per_batch=4"

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml.benchmark.ablations import ablation_rows
from ccpml.benchmark.results import collect_results
from ccpml.report import ablation
from ccpml.report.ablation import draw_ablation, draw_table
from tests.benchmark.finished import drawn, make_benchmark


def drawn_pixels(file: Path) -> int:
    """The number of pixels that are not background."""
    with Image.open(file) as picture:
        return int((np.asarray(picture.convert("L")) < 250).sum())


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[ablation.Figure]:
    """All figures drawn by the test."""
    made: list[ablation.Figure] = []

    class Recorded(ablation.Figure):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(ablation, "Figure", Recorded)
    return made


def test_an_ablation_shows_all_values_and_repeats(tmp_path: Path, figures: list[ablation.Figure]) -> None:
    rows = ablation_rows("batch", ["c2", "ms"])
    made = make_benchmark(tmp_path / "out", rows=rows, folds=1, repeats=2, ablation="batch")
    file = draw_ablation(made, collect_results(made, progress=False), made.out)
    assert file == made.out / "ablation.png"
    assert drawn_pixels(file) > 1000
    validation, test = figures[0].axes
    assert [label.get_text() for label in test.get_xticklabels()] == ["16", "32", "64", "128"]
    assert test.get_legend_handles_labels()[1] == ["C2", "C2-CCP", "MS", "MS-CCP"]
    cells = list(made.cells())
    expected = sorted(100 * drawn(seed)["map_at_r"] for seed in range(len(cells)))
    small = [y for line in test.lines if line.get_marker() == "." for y in line.get_ydata()]
    assert sorted(small) == pytest.approx(expected)
    assert sum(line.get_marker() == "." for line in validation.lines) == len(rows)
    dotted = {line.get_xdata()[0] for line in test.lines if line.get_linestyle() == ":"}
    assert dotted == {1}, "32 is the default"


def test_an_ablation_of_words_labels_its_axis_with_them(tmp_path: Path, figures: list[ablation.Figure]) -> None:
    made = make_benchmark(
        tmp_path / "out", rows=ablation_rows("augmentation", ["c2"]), folds=1, repeats=1, ablation="augmentation"
    )
    draw_ablation(made, collect_results(made, progress=False), made.out)
    assert [label.get_text() for label in figures[0].axes[0].get_xticklabels()] == ["train", "eval"]


def test_a_table_shows_all_rows_and_the_scores_of_the_paper(tmp_path: Path, figures: list[ablation.Figure]) -> None:
    made = make_benchmark(tmp_path / "out", ["c2", "proxy_anchor"], data="cub", folds=4, repeats=2)
    results = collect_results(made, progress=False)
    file = draw_table(made, results, made.out)
    assert file == made.out / "table.png"
    concatenated, separated = figures[0].axes
    assert [label.get_text() for label in concatenated.get_yticklabels()] == ["C2", "C2-CCP", "ProxyAnchor"]
    diamonds = [line.get_xdata()[0] for line in concatenated.lines if line.get_marker() == "d"]
    assert diamonds == pytest.approx([26.47, 28.02, 26.53])
    means = [line.get_xdata()[0] for line in separated.lines if line.get_marker() == "o"]
    assert not any(line.get_clip_on() for line in separated.lines if line.get_marker() == "o")  # whole at 100 %
    assert means == pytest.approx([100 * result.separated["map_at_r"].mean for result in results])


def test_rows_without_models_are_drawn_empty(tmp_path: Path) -> None:
    made = make_benchmark(tmp_path / "out", repeats=1)
    for cell in made.cells():
        (cell.path / "scores.json").unlink()
    assert drawn_pixels(draw_table(made, collect_results(made, progress=False), made.out)) > 0

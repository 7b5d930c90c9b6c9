"""The page: what it shows, that it loads nothing, and pictures that are gone."""

import re

import numpy as np
import pytest
from PIL import Image

from ccpml.comparison.compare import compare_runs
from ccpml.comparison.page import write_page
from ccpml.comparison.pictures import _draw
from ccpml.report.style import Layout, style
from tests.comparison.runs import PER_CLASS, make_run

NAMES = [f"class{number:02d}" for number in range(10)] + ["<b>odd</b> & 漢字"]


def test_the_page_shows_queries_won_and_lost(tmp_path):
    photos = tmp_path / "photos"
    for number, name in enumerate(NAMES[:8]):  # the pictures of the others are gone
        (photos / name).mkdir(parents=True)
        for image in range(PER_CLASS):
            Image.fromarray(np.full((20, 30, 3), 20 * number, np.uint8)).save(photos / name / f"{image}.png")
    paths = [
        make_run(tmp_path / name, NAMES, noise=noise, folder=str(photos), method=method)
        for name, noise, method in (("plain", 1.0, "plain"), ("ccp", 0.9, "ccp"))
    ]
    found = compare_runs(paths)
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    [versus] = found.versus
    rows = 2 * (len(versus.queries_won) + len(versus.queries_lost))
    assert page.count('<ul class="tiles">') == rows > 4
    assert page.count('<li class="query">') == rows
    assert '<li class="right' in page
    assert '<li class="wrong' in page
    assert "images are missing here, such as" in page
    assert "<b>odd</b>" not in page
    assert not re.search(r"""(src|href|srcset)=["'](?!data:)""", page)
    assert "<script" not in page
    assert "Won by ccp" in page
    assert "What differs" in page


@pytest.mark.parametrize("layout", [Layout(), Layout(width=4.0)])
def test_perfect_runs_that_do_not_differ_can_be_drawn(tmp_path, layout):
    found = compare_runs([make_run(tmp_path / name, NAMES, noise=0.0) for name in ("one", "other")])
    with style():
        figure = _draw(found, found.versus[0], layout)
        figure.draw_without_rendering()
    differences, classes = figure.axes
    assert classes.get_xlim()[1] == classes.get_ylim()[1] == 1
    assert [line.get_marker() for line in classes.lines[1:]] == ["o"]  # neither above nor below the line
    assert differences.get_xlim()[0] <= -0.001 < 0.001 <= differences.get_xlim()[1] < 0.1
    assert all(axes.get_position().height > 0.25 for axes in figure.axes)  # the layout has room for the axes
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "equal on every query" in page
    assert "whose MAP@R changes most" not in page


def test_cells_have_the_names_of_their_columns_for_phones(tmp_path):
    found = compare_runs([make_run(tmp_path / name, NAMES, noise=noise) for name, noise in (("a", 1.0), ("<b>", 0.9))])
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(r'<td data-name="difference">[+−]', page)
    assert page.count('<td data-name="&lt;b&gt;">') >= 7

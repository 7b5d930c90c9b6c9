"""The page: what it shows, that it loads nothing, and pictures that are gone."""

import re

import numpy as np
from PIL import Image

from ccpml.comparison.compare import compare_runs
from ccpml.comparison.page import write_page
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

"""Pages of reports on the screens of phones, in a browser."""

import pytest

from ccpml.report import page
from ccpml.report.head import test_scores as score_table
from tests.serving.service.browser import CHROMIUM, launched

pytest.importorskip("playwright", reason="Playwright is a tool of development")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

SCORES = {"map_at_r": 0.1746, "precision_at_1": 0.875, "recall_at_1": 1.0, "queries": 12345, "left_out": 0}
SETTINGS = {
    "projections.max_nonimproving": "1",
    "allow_partial": "false",
    "test_classes": "['" + "Golden-Delicious', '" * 9 + "']",
    "data": "folder:/home/somebody/" + "photographs/" * 12,
}
CUT_OFF = """() => [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth).length"""
OVERLAPPED = """() => [...document.querySelectorAll("th, td")].filter(cell => {
  const range = document.createRange(); range.selectNodeContents(cell);
  const text = range.getBoundingClientRect(), box = cell.getBoundingClientRect();
  return text.bottom > box.bottom + 1 || text.right > box.right + 1;
}).map(cell => cell.textContent)"""


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.mark.parametrize("width", [360, 375, 390, 1280])
def test_no_text_of_a_table_is_cut_off_or_over_another(browser, tmp_path, width):
    features = {**SCORES, "dimensions": 2048}
    body = score_table({"test": SCORES, "features": features}) + page.facts([("best on validation", "MAP@R " * 40)])
    body += page.details("All settings", page.facts(SETTINGS.items()))
    heads = ("promised", "distance", "absent, accepted", "present, rejected")
    body += page.table(heads, [("0.95", "0.412", "0.021 (0.05)", "0.34 (0.48)")] * 3, "numbers dense")
    file = tmp_path / "report.html"
    file.write_text(page.document("a run", body), encoding="utf-8")
    with browser.new_context(viewport={"width": width, "height": 800}) as context:
        opened = context.new_page()
        opened.goto(file.as_uri())
        opened.evaluate("() => document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert opened.evaluate("() => document.documentElement.scrollWidth") <= width
        assert opened.evaluate(OVERLAPPED) == []
        assert opened.evaluate(CUT_OFF) == 0

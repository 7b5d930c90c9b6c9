"""The whole report, from run directories written by hand."""

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from ccpml.report import write_report
from ccpml.report.sections import PICTURES
from ccpml.runs.directory import RunDirectory
from tests.report.runs import NAMES, SCORES, make_run

_VOID = {"meta", "img", "br", "source", "wbr"}
_TAGS = {
    "html",
    "head",
    "title",
    "style",
    "body",
    "section",
    "h1",
    "h2",
    "h3",
    "p",
    "pre",
    "div",
    "figure",
    "figcaption",
}
_TAGS |= {"table", "tr", "th", "td", "details", "summary", "ul", "li", "picture", "strong", "bdi", "span"} | _VOID


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails if a tag is left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.images: list[dict[str, str]] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})
        if tag not in _VOID:
            self._open.append(tag)
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._open and self._open[-1] in {"td", "th"}:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def ccp(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = make_run(tmp_path_factory.mktemp("runs") / "<em>run & co")
    write_report(run)
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = make_run(tmp_path_factory.mktemp("runs") / "plain", "plain", roles=True)
    write_report(run)
    return run


def read(run: RunDirectory) -> Page:
    return Page(run.report_file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("which", ["ccp", "plain"])
def test_the_page_is_well_formed_and_self_contained(which: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(which)
    page = read(run)
    assert page.tags <= _TAGS
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "href"
        if name in {"src", "srcset"}:
            assert re.match(r"data:image/(png|jpeg|svg\+xml);base64,[\w+/=]+$", value)
    text = run.report_file.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("which", ["ccp", "plain"])
def test_pictures_are_files_too(which: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(which)
    files = {path.name: path for path in (run.path / "pictures").iterdir()}
    assert sorted(files) == sorted(
        f"{name}.png" for name in ("progress", "geometry", "maps", "gallery", "worst_test", "worst_training")
    )
    for path in files.values():
        with Image.open(path) as image:
            image.load()
            assert image.width == 1440
            assert image.convert("L").getextrema()[0] < 128  # not empty


@pytest.mark.parametrize("which", ["ccp", "plain"])
def test_the_page_shows_curves_and_maps_as_vectors_with_a_layout_for_phones(
    which: str, request: pytest.FixtureRequest
) -> None:
    page = read(request.getfixturevalue(which))
    wide, narrow = (svg_files(page, name) for name in ("src", "srcset"))
    assert len(wide) == len(narrow) == 3  # progress, geometry, maps
    for files, width in ((wide, 720), (narrow, 288)):  # points
        for svg in files:
            assert float(ElementTree.fromstring(svg).attrib["width"].removesuffix("pt")) == width
            assert not re.search(r"(href|src)=\"[^#\"]", svg)
    names = "".join(ElementTree.fromstring(wide[2]).itertext())
    assert "漢字" in names
    assert "U+6F22" not in names


def svg_files(page: Page, attribute: str) -> list[str]:
    start = "data:image/svg+xml;base64,"
    values = [value for name, value in page.attributes if name == attribute and value.startswith(start)]
    return [base64.b64decode(value.removeprefix(start)).decode() for value in values]


def test_every_image_has_a_description(ccp: RunDirectory) -> None:
    images = read(ccp).images
    assert all("alt" in image for image in images)
    assert all(image["alt"] for image in images if "svg" in image["src"][:20])
    assert any(image["alt"].endswith(": right") for image in images)


def test_names_below_images_break_after_a_slash(ccp: RunDirectory) -> None:
    text = ccp.report_file.read_text(encoding="utf-8")
    assert '<span dir="auto">漢字/<wbr>\u0627\u0644' in text


def test_names_are_escaped(ccp: RunDirectory) -> None:
    text = ccp.report_file.read_text(encoding="utf-8")
    page = read(ccp)
    assert "<script" not in text.lower()
    assert "<em>" not in text
    assert "<i>" not in text
    assert "<b>" not in text
    assert NAMES[0] in page.cells
    assert NAMES[1] in page.cells
    assert "<i>broken</i>.png: the file is empty" in page.texts
    assert any("<em>run & co" in piece for piece in page.texts)


def test_the_page_shows_the_scores_of_the_run(ccp: RunDirectory) -> None:
    cells = read(ccp).cells
    start = cells.index("MAP@R")
    header, values = cells[start : start + len(SCORES)], cells[start + len(SCORES) : start + 2 * len(SCORES)]
    assert header == ["MAP@R", "P@1", "P@R", "R@1", "R@2", "R@4", "R@8", "queries", "left out"]
    assert values[:-2] == [f"{value:.4f}" for value in list(SCORES.values())[:-2]]
    assert values[-2:] == ["1,234", "1"]
    assert "MAP@R 0.3339 at step 50 of 60" in cells
    assert "7 classes, 37 images" in cells


def test_paths_in_commands_are_quoted(ccp: RunDirectory) -> None:
    commands = next(text for text in read(ccp).texts if text.startswith("ccpml train"))
    assert f"--config '{ccp.settings_file}' --run '{ccp.path}-again'" in commands


def test_missing_images_are_counted(ccp: RunDirectory) -> None:
    text = "".join(read(ccp).texts)
    assert re.search(
        r"images are missing here, such as .*\.png: cannot be opened \(No such file .*\); restore them", text
    )


def test_a_report_with_its_images_is_kept_where_they_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    write_report(run, keep=True)  # the first one is written, whatever is missing
    assert "missing here" in capsys.readouterr().err
    pictures = {file: file.read_bytes() for file in (run.path / "pictures").iterdir()}
    run.report_file.write_text("the page of another machine")
    problems = list[str]()
    assert write_report(run, problems, keep=True) == run.report_file
    assert run.report_file.read_text() == "the page of another machine"
    assert {file: file.read_bytes() for file in (run.path / "pictures").iterdir()} == pictures
    assert (
        "left as it was, with its images and without what is new; `ccpml report` writes it again"
        in capsys.readouterr().err
    )
    assert problems
    write_report(run)
    assert run.report_file.read_text() != "the page of another machine"


def test_only_runs_with_projections_mention_proxies(ccp: RunDirectory, plain: RunDirectory) -> None:
    with_proxies, without = ("".join(read(run).texts) for run in (ccp, plain))
    for text in ("Training samples and proxies", "Squares are", "radius of its proxies", "radius of the proxies"):
        assert text in with_proxies
        assert text not in without
    assert "among the gallery" in without
    assert "all other test images" in with_proxies


def test_writing_again_gives_the_same_files(plain: RunDirectory) -> None:
    run = plain
    before = {path: path.read_bytes() for path in [run.report_file, *(run.path / "pictures").iterdir()]}
    for path in before:
        path.write_bytes(b"old")
    settings = dict(mpl.rcParams)
    mpl.rcParams["text.color"] = "pink"
    try:
        write_report(run)
        assert mpl.rcParams["text.color"] == "pink"
    finally:
        mpl.rcParams["text.color"] = settings["text.color"]
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in run.path.rglob("*.tmp*")) == []


def test_sections_without_their_files_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for path in [*run.embeddings.iterdir(), *run.instances.iterdir(), run.metrics_file, run.weights_file]:
        path.unlink()
    scores = json.loads(run.scores_file.read_text())
    del scores["versions"], scores["hardware"], scores["commit"]
    run.scores_file.write_text(json.dumps(scores))
    pictures = [run.path / "pictures" / name for name in sorted(PICTURES)]
    own = run.path / "pictures" / "own.png"
    for path in (*pictures, own):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"of an earlier report, or of somebody")
    write_report(run)
    page = read(run)
    assert not page.images
    assert "0.4123" in page.cells
    assert [*own.parent.iterdir()] == [own]


def test_a_run_of_one_validation_without_a_projection(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", validations=1, instances=0)
    for path in run.embeddings.iterdir():
        path.unlink()
    write_report(run)
    page = read(run)
    assert "no alternating projection" in "".join(page.texts)
    assert not any("Curves" in image["alt"] for image in page.images)  # a single point is no curve, but numbers
    with run.metrics_file.open(encoding="utf-8") as lines:
        assert f"{float(next(csv.DictReader(lines))['map_at_r']):.4f}" in page.cells


def test_an_unfinished_run_has_no_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.scores_file.unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        write_report(run)
    assert not run.report_file.exists()


def test_glyphs_are_found_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ccpml.data import ImageTable
    from ccpml.data.sources.source import Source
    from ccpml.report.images import Images

    pixels = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 4, 4), np.uint8)
    source = Source(ImageTable(pixels, np.arange(3), ("a", "b", "c"), name="glyphs"))
    monkeypatch.setattr("ccpml.report.images.load_source", lambda name: source)
    images = Images("glyphs")
    found = images.small("glyphs[2]")
    assert found is not None
    assert found.shape == (4, 4, 3)
    assert (found == 2).all()
    assert images.small("glyphs[7]") is None
    assert [*images.missing] == ["glyphs[7]"]
    assert Images("folder:x").small("glyphs[2]") is None

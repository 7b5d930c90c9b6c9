"""The page, in Chromium."""

import re

import pytest

from ccpml.calibration import Certificate
from ccpml.serving.service.page import read_page
from tests.serving.embedders import ColorEmbedder
from tests.serving.service.browser import AUDIT, CHROMIUM, COLORS, draw_index, drawn, launched, serving

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
TOKEN = "drawn-pictures-token"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of the drawn pictures, with their index."""
    folder = tmp_path_factory.mktemp("page")
    draw_index(folder)
    return folder


@pytest.fixture(scope="module")
def site(files):
    with serving(files / "drawn.index", ColorEmbedder(), feedback=True, max_bytes=50_000) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Open a page with options of its context; at the end, no script of any has failed or been refused."""
    contexts, problems = [], []

    def start(address, **options):
        contexts.append(
            browser.new_context(viewport=options.pop("viewport", {"width": 1200, "height": 800}), **options)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Content Security" in line.text else None)
        page.goto(address)
        page.wait_for_selector("#names button", state="attached")  # what is searched is known
        return page

    yield start
    for context in contexts:
        context.close()
    assert problems == []


def results(page, wanted=r"\d+ results?"):
    """Wait for results; return their labels."""
    page.wait_for_function(
        "(wanted) => new RegExp(`^${wanted}$`).test(document.getElementById('title').textContent)"
        " && !document.querySelector('.busy')",
        arg=wanted,
    )
    return page.locator(".card .label").all_text_contents()


def distances(page):
    """The distances that the results show."""
    return [float(text.split()[1]) for text in page.locator(".facts").all_text_contents()]


def upload(page, *pictures):
    page.set_input_files(
        "#file", [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in pictures]
    )


def data_transfer(page, content, name="dropped.png"):
    return page.evaluate_handle(
        "([bytes, name]) => { const data = new DataTransfer();"
        " data.items.add(new File([Uint8Array.from(bytes)], name, { type: 'image/png' })); return data; }",
        [list(content), name],
    )


def test_the_page_is_one_file_that_loads_nothing_else_and_may_run_nothing_else():
    content, policy = read_page()
    text = content.decode()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(|<link rel=["']?style""", text)
    assert not re.search(r"""\son\w+\s*=\s*["']|\sstyle\s*=|innerHTML|eval\(""", text)
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


@in_browser
def test_an_example_a_result_and_the_way_back(site, open_page):
    page = open_page(site)
    page.click(".picture >> nth=0")
    first = results(page)
    assert len(first) == 20
    assert len(set(first[:9])) == 1
    assert page.evaluate("document.activeElement.id") == "title"
    example, second = page.url, page.locator(".picture").nth(3).get_attribute("data-id")
    page.locator(".picture").nth(3).click()
    page.wait_for_url(f"**/#id={second}&of=*")
    page.wait_for_function(f"() => document.querySelector('#shown img').alt.includes('picture {second} ')")
    results(page)
    page.go_back()
    page.wait_for_url(example)
    assert results(page) == first
    page.go_back()
    page.wait_for_function("() => document.getElementById('title').textContent.startsWith('Start')")
    page.go_forward()
    assert results(page) == first
    page.reload()
    assert results(page) == first


@in_browser
def test_a_picture_is_chosen_dropped_or_pasted_and_several_are_one_query(site, open_page):
    page = open_page(site)
    upload(page, ("mine.png", drawn(COLORS["green"], 900)))
    assert results(page)[:10] == ["green"] * 10
    assert page.locator("#about").text_content().startswith("mine.png · ")
    assert re.fullmatch(r"20 results", page.locator("#title").text_content())
    page.dispatch_event("body", "drop", {"dataTransfer": data_transfer(page, drawn(COLORS["blue"], 901))})
    page.wait_for_selector("text=dropped.png")
    page.wait_for_function("() => document.querySelector('.label')?.textContent === 'blue'")
    page.evaluate(
        "(data) => document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        data_transfer(page, drawn(COLORS["yellow"], 902), "pasted.png"),
    )
    page.wait_for_selector("text=pasted.png")
    page.wait_for_function("() => document.querySelector('.label')?.textContent === 'yellow'")
    upload(page, ("a.png", drawn(COLORS["red"], 903)), ("b.png", drawn(COLORS["red"], 904)))
    page.wait_for_selector("text=2 pictures of one thing")
    page.wait_for_function("() => document.querySelector('.label')?.textContent === 'red'")
    page.click("text=× >> nth=0")
    page.wait_for_selector("#about:has-text('b.png')")
    page.go_back()
    page.wait_for_selector("text=2 pictures of one thing")
    page.reload()
    page.wait_for_selector("text=choose it once more")


@in_browser
def test_a_picture_chosen_before_the_service_has_described_itself_is_searched_for(site, open_page):
    page = open_page(site)
    waiting = []
    page.route("**/api/info", lambda route: waiting.append(route))  # noqa: PLW0108  # it needs attributes
    page.goto(f"{site}?again")
    upload(page, ("early.png", drawn(COLORS["blue"], 908)))
    page.wait_for_function("() => location.hash === '#upload=1'")
    waiting[0].continue_()
    assert results(page)[:10] == ["blue"] * 10


@in_browser
def test_filters_and_their_errors_at_the_box(site, open_page):
    page = open_page(f"{site}#id=1")
    results(page)
    page.click("#names >> text=price")
    assert page.input_value("#where") == "price "
    page.fill("#where", "price >= 10 and label = 'green'")
    page.press("#where", "Enter")
    assert results(page, "10 results") == ["green"] * 10
    assert "where=price" in page.url
    page.fill("#where", "price >= and")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-problem:visible")
    assert "character" in page.locator("#where-problem").text_content()
    assert page.get_attribute("#where", "aria-invalid") == "true"
    assert page.locator("#title").text_content() == "No results"
    assert not page.locator("#grid li").count()
    page.fill("#where", "labl = 'red'")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-problem:has-text('unknown field')")
    assert page.locator("#where-problem").text_content().startswith("labl: ")
    page.fill("#where", "price > 1000")
    page.press("#where", "Enter")
    page.wait_for_selector("#none:visible")
    assert page.locator("#title").text_content() == "No results"
    page.click("text=Remove the filter")
    assert len(results(page)) == 20
    assert page.input_value("#where") == ""
    assert not page.locator("#where-problem").is_visible()


@in_browser
def test_the_slider_limits_the_distance_and_duplicates_are_hidden(site, open_page):
    page = open_page(f"{site}#id=1")
    results(page)
    searches = []
    page.on("request", lambda request: searches.append(request.url) if request.url.endswith("/search") else None)
    page.evaluate(
        "(s => { s.value = 20; s.dispatchEvent(new Event('input')); s.dispatchEvent(new Event('change')); })"
        "(document.getElementById('bound'))"
    )
    assert results(page, r"\d results")[:5] == ["red"] * 5
    assert page.locator("#bound-value").text_content() == "up to 0.20"
    assert searches == []  # what is nearer was known
    assert all(distance <= 0.2 for distance in distances(page))
    page.focus("#bound")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    copies = page.locator(".card")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 1")
    assert "red" in copies.text_content()  # the copy of the picture, at distance 0
    page.keyboard.press("End")
    assert len(results(page, "20 results")) == 20
    assert searches == []
    page.goto(f"{site}#id=2&distance=0.1")
    page.wait_for_selector("#shown img[alt*='picture 2 ']")
    assert len(results(page)) < 10
    page.focus("#bound")
    page.keyboard.press("End")
    assert len(results(page, "20 results")) == 20
    assert len(searches) == 2  # what is farther was not known
    assert page.locator(".twin").count() == 1
    page.check("#unique")
    page.wait_for_function("() => !document.querySelector('.twin') && !document.querySelector('.busy')")
    assert len(results(page)) == 20
    assert "unique" in page.url


@in_browser
def test_certified_precisions_are_shown_and_set_by_the_slider(files, open_page, tmp_path):
    embedder = ColorEmbedder(path=tmp_path)
    Certificate(embedder.fingerprint, 0.95, {0.8: 0.5, 0.9: 0.2, 0.99: 0.05}, answers=3).write(tmp_path)
    with serving(files / "drawn.index", embedder) as address:
        page = open_page(f"{address}#id=12")
        assert len(results(page)) == 20
        shown = page.locator(".sure").all_text_contents()
        assert len(shown) == 3  # the answers that the certificate speaks of
        assert set(shown) <= {"≥ 80\u00a0%", "≥ 90\u00a0%", "≥ 99\u00a0%"}
        assert "confidence 95" in page.locator("#note").text_content()
        page.focus("#bound")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => location.hash.includes('precision=0.8')")
        assert page.get_attribute("#bound", "aria-valuetext") == "≥ 80\u00a0%, up to 0.50"
        assert set(results(page)) == {"green"}
        page.keyboard.press("End")
        page.wait_for_function("() => location.hash.includes('precision=0.99')")
        page.wait_for_selector("#none:visible, .card:visible")
        assert all(distance <= 0.05 for distance in distances(page))


@in_browser
def test_why_shows_a_map_over_each_picture_and_verdicts_are_sent(site, open_page, files):
    page = open_page(site)
    upload(page, ("mine.png", drawn(COLORS["red"], 905)))
    results(page)
    page.click(".why >> nth=1")
    page.wait_for_selector("#why-text:visible")
    assert "do not show whether the result is right" in page.locator("#why-text").text_content()
    sizes = page.evaluate(
        "['query-photo', 'query-map', 'item-photo', 'item-map'].map((id) => {"
        " const e = document.getElementById(id); return [e.naturalWidth, e.naturalHeight, e.alt]; })"
    )
    assert [size[:2] for size in sizes] == [[60, 48], [256, 205], [60, 48], [256, 205]]
    assert sizes[1][2].startswith("Map: the region that matters most is at the ")
    page.uncheck("#map-on")
    assert not page.locator("#query-map").is_visible()
    page.check("#map-on")
    wrong, texts = page.evaluate(AUDIT)
    assert wrong == []
    assert texts > 30
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.classList.contains('why')")
    page.click("[aria-label='Result 2 is wrong']")
    page.wait_for_selector("[aria-label='Result 2 is wrong'][aria-pressed=true]")
    assert "Noted: result 2 is wrong." in page.locator("#status").text_content()


@in_browser
def test_wrong_and_large_files_are_named_and_a_service_that_is_gone_is_said(site, open_page):
    page = open_page(site)
    upload(page, ("notes.png", b"these are notes"))
    page.wait_for_selector("#problem:visible")
    assert page.locator("#problem-text").text_content().startswith("notes.png: not an image")
    assert page.locator(".card").count() == 0
    upload(page, ("large.png", bytes(50_001)))
    page.wait_for_selector("#problem-text:has-text('large.png has')")
    assert "at most 50\u00a0kB. Nothing was sent." in page.locator("#problem-text").text_content()
    page.context.set_offline(True)
    upload(page, ("fine.png", drawn(COLORS["red"], 907)))
    page.wait_for_selector("#problem-text:has-text('cannot be reached')")
    page.context.set_offline(False)
    page.click("#again")
    assert results(page)[:5] == ["red"] * 5
    assert not page.locator("#problem").is_visible()


@in_browser
def test_a_token_is_asked_for_and_thumbnails_are_fetched_with_it(files, browser, open_page):
    with serving(files / "drawn.index", ColorEmbedder(), token=TOKEN) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#token[open]")
        page.fill("#token-value", "another-token-altogether")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-problem:visible")
        page.fill("#token-value", f"{TOKEN[:3]}\u2026")  # as copied from where it was shortened
        page.click("#token button")
        page.wait_for_selector("#token-problem:has-text('copy it again')")
        page.fill("#token-value", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('.card img[src^=blob]').length > 3")
        page.wait_for_function("() => document.querySelector('.card img').naturalWidth > 0")
        page.click(".picture >> nth=0")
        assert len(results(page)) == 20
        context.close()


@in_browser
def test_a_link_to_a_picture_of_another_index_shows_none_of_this_one(site, open_page):
    page = open_page(site)
    page.click(".picture >> nth=0")
    results(page)
    link = page.url
    assert "&of=" in link
    assert results(open_page(link))
    page = open_page(link.replace("&of=", "&of=0"))
    page.wait_for_selector("#problem-text:has-text('another index now')")
    assert page.locator(".picture").count() == 0
    page.click("#again")
    page.wait_for_selector(".picture")


@in_browser
def test_a_filter_that_is_not_understood_is_shown_on_a_narrow_screen(site, open_page):
    page = open_page(f"{site}#id=1&where=prize%20%3C%202", viewport={"width": 390, "height": 844})
    page.wait_for_selector("#where-problem:has-text('prize'):visible")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_has_no_sideways_scrolling_and_every_text_is_legible(site, open_page, scheme):
    page = open_page(f"{site}#id=1", viewport={"width": 390, "height": 844}, color_scheme=scheme)
    results(page)
    assert not page.locator("#where").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wrong, texts = page.evaluate(AUDIT)
    assert wrong == []
    assert texts > 20
    page.click("#limits summary")
    page.fill("#where", "price like")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-problem:visible")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() && !e.closest('.unseen'))"
        ".map((e) => e.getBoundingClientRect().right)"
    )
    assert max(boxes) <= 390
    wrong, texts = page.evaluate(AUDIT)
    assert wrong == []
    assert texts > 10
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) > 380) == (scheme == "light")


@in_browser
def test_everything_is_reached_and_done_by_keyboard_with_a_visible_focus(site, open_page):
    page = open_page(site, reduced_motion="reduce")
    page.evaluate("document.activeElement.blur()")
    reached = []
    while len(reached) < 60:
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(
            "(() => { const e = document.activeElement, shown = e.id === 'file' ? e.nextElementSibling : e,"
            " style = getComputedStyle(shown);"
            " return [e === document.body ? null : e.id || e.dataset.id || e.textContent,"
            " style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2]; })()"
        )
        if name in reached or name is None:
            break
        assert outlined, name
        reached.append(name)
    assert reached[:3] == ["skip", "file", "where"]
    assert {"label", "price", "bound", "unique"} <= set(reached)
    assert sum(name.isdigit() for name in reached) == page.locator(".picture").count()
    page.focus("#skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"
    page.keyboard.press("Tab")
    links = [page.locator(".picture").nth(n).get_attribute("data-id") for n in range(page.locator(".picture").count())]
    columns = page.evaluate("getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length")
    for key, at in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns), ("Home", 0), ("End", -1)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.id") == links[at]
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/#id={links[-1]}&of=*")
    assert len(results(page)) == 20
    assert page.locator("[role=status]").first.text_content().startswith("nearest first")
    assert page.evaluate("getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"

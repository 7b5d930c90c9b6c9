"""Take the screenshots of the page of the service for the documentation.

Usage: ``python tools/take_screenshots.py <address> <picture> [<picture> ...]``, with the address of a service that was
started with ``ccpml serve shop.index --feedback``, and pictures of one thing. Needs playwright and Chromium.
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

OUTPUT: Final = Path(__file__).parents[1] / "docs" / "images"
MAX_BYTES: Final = 150_000
_WIDE: Final = {"width": 1040, "height": 780}
_PHONE: Final = {"width": 390, "height": 780}


def main() -> None:
    """Write ``search-*.jpg``."""
    address, *pictures = sys.argv[1:]
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = _searched(browser, address, pictures, viewport=_WIDE)
        _take(page, "search-results")
        page.click(".why >> nth=1")
        page.wait_for_selector("#why-text:visible", timeout=120_000)
        page.mouse.move(0, 0)
        _take(page.locator("#why"), "search-why")
        _take(_searched(browser, address, pictures, viewport=_WIDE, color_scheme="dark"), "search-dark")
        _take(_searched(browser, address, pictures, viewport=_PHONE), "search-narrow")
        browser.close()


def _searched(browser: Browser, address: str, pictures: list[str], **options: Any) -> Page:
    """Return the page with the results of a search by pictures."""
    page = browser.new_context(**options).new_page()
    page.goto(address)
    page.set_input_files("#file", pictures)
    page.wait_for_selector(".label")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)
    return page


def _take(part: Any, name: str) -> None:
    """Write a screenshot."""
    file = OUTPUT / f"{name}.jpg"
    image = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    for quality in (92, 88, 84, 80, 75):
        image.save(file, quality=quality, optimize=True)
        if file.stat().st_size <= MAX_BYTES:
            break
    print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

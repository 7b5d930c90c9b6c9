"""Services on free ports over an index of drawn pictures, and what a machine can check of the access to a page."""

import io
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image

from ccpml.serving import Index, Picture
from ccpml.serving.service import ServiceSettings, create_app
from tests.serving.embedders import ColorEmbedder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
COLORS = {"red": (210, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 210), "yellow": (230, 220, 50)}

AUDIT = Path(__file__).with_name("audit.js").read_text(encoding="utf-8")
"""Return what is wrong with contrast, names and landmarks, and the number of texts that were looked at."""


@contextmanager
def launched():
    """Start Chromium without a window; yield it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def drawn(color, seed: int, size=(60, 48)) -> bytes:
    """A picture of one color with noise, a PNG."""
    rng = np.random.default_rng(seed)
    pixels = np.array(color) * rng.uniform(0.75, 1, (4, 4, 1)) + rng.normal(0, 6, (4, 4, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def draw_index(folder: Path) -> Path:
    """Make an index of 40 pictures in 4 colors, with a price; the last red one is a copy of the first."""
    pictures = []
    for label, (name, color) in enumerate(COLORS.items()):
        for number in range(10):
            file = folder / f"{name}-{number}.png"
            file.write_bytes(drawn(color, 100 * label + number % 9 if name == "red" else 100 * label + number))
            pictures.append(Picture(file, name, {"price": 10 * label + number, "shelf": "A" if number < 5 else None}))
    with Index.create(folder / "drawn.index", ColorEmbedder()) as index:
        index.add(pictures)
    return folder / "drawn.index"


@contextmanager
def serving(path: Path, embedder: ColorEmbedder, **settings):
    """Serve an index on a free port of this machine; yield the address."""
    with Index.open(path, embedder) as index, socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(index, embedder, ServiceSettings(**settings))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()

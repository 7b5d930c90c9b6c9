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

AUDIT = """() => {
  const wrong = [], shown = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest(".unseen, .skip");
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const contrast = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const check = (e, style, what) => { const ratio = contrast(channels(style.color), ground(e));
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${what}`); };
  let texts = 0;
  for (const e of document.body.querySelectorAll("*")) {
    if (!shown(e)) continue;
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (text && !["SCRIPT", "STYLE"].includes(e.tagName)) { texts++; check(e, getComputedStyle(e), text); }
    if (e.placeholder) check(e, getComputedStyle(e, "::placeholder"), e.placeholder);
  }
  for (const e of document.querySelectorAll("input, button, a, dialog, section, [role=search], ul[id], img")) {
    const ids = (e.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean);
    const name = e.getAttribute("aria-label") || ids.map((id) => document.getElementById(id)?.textContent).join(" ")
      || [...(e.labels || [])].map((l) => l.textContent).join(" ")
      || (["BUTTON", "A"].includes(e.tagName) ? e.textContent : "");
    if (e.tagName === "IMG" ? !e.hasAttribute("alt") : !name.trim()) wrong.push(`no name: ${e.outerHTML.slice(0, 90)}`);
  }
  for (const e of document.querySelectorAll("[aria-describedby], [aria-labelledby], label[for], output[for]"))
    for (const list of ["aria-describedby", "aria-labelledby", "for"])
      for (const id of (e.getAttribute(list) || "").split(" ").filter(Boolean))
        if (!document.getElementById(id)) wrong.push(`no element ${id}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id is used twice");
  for (const one of ["main", "header", "h1", "[role=search]", "html[lang]", "[role=status]"])
    if (!document.querySelector(one)) wrong.push(`no ${one}`);
  return [wrong, texts];
}"""
"""Return what is wrong with contrast, names and landmarks, and the number of texts that were looked at."""


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

"""HTML of the page: self-contained, without scripts or external resources."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from PIL import Image

from ccpml.report.images import Pixels
from ccpml.report.style import Picture
from ccpml.report.tiles import Row, Tile

__all__ = ["code", "details", "document", "facts", "figure", "listing", "paragraph", "rows", "section", "table", "text"]

_CSS: Final = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 1000px; background: #fff; color: #1f2933;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-top: 1rem; border-top: 1px solid #e0e5e9; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li { overflow-wrap: anywhere; }
p { margin: .5rem 0 .75rem; max-width: 75ch; }
.lead { color: #52606d; margin-bottom: 1.25rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.5rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .6rem; color: #52606d; font-size: .95rem; max-width: 80ch; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
.name { margin: 1.1rem 0 .35rem; font-size: .95rem; max-width: none; overflow-wrap: anywhere; }
.name strong { margin-right: .8em; }
.tiles { display: grid; grid-template-columns: repeat(10, minmax(0, 1fr)); gap: .6rem; margin: 0; padding: 0;
  list-style: none; }
.tiles li { position: relative; font-size: .72rem; line-height: 1.25; text-align: center; overflow-wrap: break-word; }
.tiles div { display: flex; align-items: center; justify-content: center; aspect-ratio: 1; margin-bottom: .3rem;
  background: #eef1f3; outline: 1px solid #d5dbe0; color: #6b7680; }
.tiles img { width: 100%; height: 100%; object-fit: contain; }
.tiles .tiny { image-rendering: pixelated; }
.tiles span { display: -webkit-box; overflow: hidden; -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
.query div { outline: 2px solid #1f2933; }
.right div { outline: 3px solid #00825a; }
.wrong div { outline: 3px dashed #cc3311; }
.right::after, .wrong::after { position: absolute; top: -.5em; right: -.5em; width: 1.4em; height: 1.4em;
  border: 1px solid #fff; border-radius: 50%; color: #fff; font: bold .75rem/1.4em sans-serif;
  print-color-adjust: exact; }
.right::after { content: "✓"; background: #00825a; }
.wrong::after { content: "✗"; background: #cc3311; }
.faded div, .faded::after { opacity: .35; }
.faded span { color: #52606d; }
table { border-collapse: collapse; margin: .75rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e8ecef;
  overflow-wrap: anywhere; }
th { font-weight: 600; color: #52606d; white-space: nowrap; }
th + td { min-width: 5em; }
.numbers th, .numbers td { text-align: right; padding: .4rem .9rem; white-space: nowrap; }
.numbers td:first-child, .numbers th:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 10em; }
.dense th, .dense td { padding: .4rem .5rem; font-size: .92rem; }
.dense td:first-child, .dense th:first-child { min-width: 5em; }
.scores th, .scores td { padding: .4rem .6rem; }
.scores td:first-child, .scores th:first-child { white-space: nowrap; min-width: 0; }
.scores td { font-size: 1.05rem; font-weight: 600; }
.compared td:first-child { white-space: normal; min-width: 7em; font-size: .9rem; }
pre { margin: .5rem 0 1rem; padding: .75rem 1rem; background: #f4f6f8; border-radius: 6px; overflow-x: auto;
  font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: #0b5c97; }
@media (max-width: 640px) {
  th { white-space: normal; overflow-wrap: normal; }
  details th, details td { padding-right: .5rem; font-size: .85rem; }
  .tiles { grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .7rem .5rem; }
  .tiles li { font-size: .64rem; }
  .numbers th, .numbers td { padding: .4rem .3rem; }
  .numbers td:first-child, .numbers th:first-child { min-width: 5em; }
  .scores tbody { display: grid; grid-auto-flow: column; grid-template-rows: repeat(var(--columns), auto);
    justify-content: start; }
  .scores tr { display: contents; }
  .scores th, .scores td, .scores th:first-child { padding: .3rem 1rem .3rem 0; text-align: left; white-space: nowrap; }
  .scores.compared td:first-child, .scores.compared th:first-child { white-space: normal; }
  .dense, .dense tbody, .dense tr { display: block; }
  .dense tr { padding: .35rem 0; border-bottom: 1px solid #e0e5e9; }
  .dense tr:first-child { display: none; }
  .dense td { display: flex; justify-content: space-between; gap: .8rem; padding: .1rem 0; border: 0;
    white-space: normal; overflow-wrap: anywhere; }
  .dense td::before { content: attr(data-name); color: #52606d; overflow-wrap: anywhere; }
  .dense td:first-child { font-weight: 600; }
  .dense.compared td:first-child::before { content: none; }
  .numbers.dense td { padding: .1rem 0; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  h2 { break-after: avoid; }
  figure, table, pre { break-inside: avoid; }
  figure img { max-height: 24cm; }
}
"""


def document(title: str, body: Iterable[str]) -> str:
    """Return the whole page, from a plain-text title and HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{text(title)}</title>
<style>{_CSS}</style>
</head>
<body>
{"".join(body)}</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """Return a section, from a plain-text title and HTML."""
    return f"<section>\n<h2>{text(title)}</h2>\n{''.join(parts)}</section>\n"


def paragraph(words: str, lead: bool = False) -> str:
    """Return a paragraph of plain text."""
    return '<p class="lead">' + text(words) + "</p>\n" if lead else f"<p>{text(words)}</p>\n"


def code(lines: str) -> str:
    """Return lines of code."""
    return f"<pre>{text(lines)}</pre>\n"


def listing(items: Iterable[str]) -> str:
    """Return a list of plain texts."""
    return "<ul>\n" + "".join(f"<li>{text(item)}</li>\n" for item in items) + "</ul>\n"


def details(summary: str, *parts: str) -> str:
    """Return HTML folded under a plain-text summary."""
    return f"<details>\n<summary>{text(summary)}</summary>\n{''.join(parts)}</details>\n"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of two columns, names and values, from plain text."""
    body = "".join(f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>\n' for name, value in rows)
    return f"<table>\n{body}</table>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    """Return a table with a header, from plain text."""
    kind += " compared" if header[0] == "" else ""  # the rows have names
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    names = [text(cell) for cell in header]  # beside the values on a phone, where a row of a dense table is a block
    cells = ("".join(f'<td data-name="{n}">{text(c)}</td>' for n, c in zip(names, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{row}</tr>\n" for row in cells)
    columns = f"--columns: {len(header)}"  # rows, where a phone shows the scores of a row below each other
    return f'<div class="scroll"><table class="{kind}" style="{columns}">\n<tr>{head}</tr>\n{body}</table></div>\n'


def figure(picture: Picture, caption: str) -> str:
    """Return a picture with its plain-text caption; if it has a layout for phones, they show that."""
    size = f'alt="{text(picture.alt)}" width="{picture.width}" height="{picture.height}"'
    if not picture.svg:
        return _captioned(f'<div class="scroll"><img src="{_data("image/png", picture.png)}" {size}></div>', caption)
    wide, narrow = (_data("image/svg+xml", svg) for svg in (picture.svg, picture.narrow))
    source = f'<source media="(max-width: 640px)" srcset="{narrow}">'
    return _captioned(f'<picture>{source}<img src="{wide}" {size}></picture>', caption)


def rows(rows: Iterable[Row], caption: str) -> str:
    """Return rows of images under the names of their classes, with a plain-text caption."""
    parts = []
    for row in rows:
        tiles = "".join(_tile(tile, place < row.lead) for place, tile in enumerate(row.tiles))
        instead = f" → <bdi>{text(row.suggested)}</bdi>?" if row.suggested else ""
        name = f'<p class="name"><strong><bdi>{text(row.name)}</bdi>{instead}</strong>{text(row.numbers)}</p>'
        parts.append(f'{name}\n<ul class="tiles">\n{tiles}</ul>\n')
    return _captioned("".join(parts), caption)


def _tile(tile: Tile, is_query: bool) -> str:
    mark = {None: "", True: "right", False: "wrong"}[tile.right]
    kind = " ".join(filter(None, (mark, "faded" if tile.faded else "", "query" if is_query else "")))
    shown = "image cannot be read"
    if tile.image is not None:
        is_tiny = max(tile.image.shape[:2]) <= 48
        alt = text(f"{tile.caption}: {mark}" if mark else tile.caption)
        shown = f'<img class="{"tiny" if is_tiny else "photo"}" src="{_encoded(tile.image, is_tiny)}" alt="{alt}">'
    # A name is broken after a slash, and within a word only if that has no room of its own.
    caption = f'<span dir="auto">{text(tile.caption).replace("/", "/<wbr>")}</span>' if tile.caption else ""
    return f'<li class="{kind}"><div>{shown}</div>{caption}</li>\n'


def _encoded(pixels: Pixels, is_tiny: bool) -> str:
    """Return an image as a URL: tiny ones exactly, others as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if is_tiny else "JPEG", quality=85)
    return _data("image/png" if is_tiny else "image/jpeg", buffer.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _captioned(content: str, caption: str) -> str:
    return f"<figure>\n{content}\n<figcaption>{text(caption)}</figcaption>\n</figure>\n"


def text(value: str) -> str:
    """Return plain text escaped, with control characters and lone surrogates replaced."""
    allowed = "".join(c if c.isprintable() or c in "\n\t " or ord(c) >= 0xA0 else "�" for c in value)
    return escape(allowed.encode("utf-8", "replace").decode("utf-8"))

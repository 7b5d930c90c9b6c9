"""HTML of the page: self-contained, without scripts or external resources."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from ccpml.report.style import Picture

__all__ = ["code", "details", "document", "facts", "figure", "listing", "paragraph", "section", "table", "text"]

_CSS: Final = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 1000px; background: #fff; color: #1f2933;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-top: 1rem; border-top: 1px solid #e0e5e9; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0 .75rem; max-width: 75ch; }
.lead { color: #52606d; margin-bottom: 1.25rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.5rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .6rem; color: #52606d; font-size: .95rem; max-width: 80ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e8ecef;
  overflow-wrap: anywhere; }
th { font-weight: 600; color: #52606d; white-space: nowrap; }
.numbers th, .numbers td { text-align: right; padding: .4rem .9rem; white-space: nowrap; }
.numbers td:first-child, .numbers th:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 10em; }
.scores td:first-child, .scores th:first-child { white-space: nowrap; min-width: 0; }
.scores td { font-size: 1.15rem; font-weight: 600; }
pre { margin: .5rem 0 1rem; padding: .75rem 1rem; background: #f4f6f8; border-radius: 6px; overflow-x: auto;
  font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: #0b5c97; }
@media (max-width: 640px) {
  th { white-space: normal; overflow-wrap: normal; }
  figure img { max-width: none; width: 720px; }
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
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="scroll"><table class="{kind}">\n<tr>{head}</tr>\n{body}</table></div>\n'


def figure(picture: Picture, caption: str) -> str:
    """Return a picture with its plain-text caption."""
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    image = f'<img src="{source}" alt="{text(picture.alt)}" width="{picture.width}" height="{picture.height}">'
    return f'<figure>\n<div class="scroll">{image}</div>\n<figcaption>{text(caption)}</figcaption>\n</figure>\n'


def text(value: str) -> str:
    """Return plain text escaped, with control characters and lone surrogates replaced."""
    allowed = "".join(c if c.isprintable() or c in "\n\t " or ord(c) >= 0xA0 else "�" for c in value)
    return escape(allowed.encode("utf-8", "replace").decode("utf-8"))

"""A picture of searches: queries on the left, their answers by rank beside them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ccpml.fonts import characters_of, font_file, fonts_for
from ccpml.serving.items import Hit

__all__ = ["Answer", "MontageRow", "draw_montage"]

PER_LINE: Final = 10
"""Answers beside each other; further ones are below."""

_SIDE, _GAP, _MARGIN, _LINE, _SIZE = 160, 14, 20, 19, 14  # in pixels: tiles, between them, around, text
_INK, _MUTED, _PAPER, _TILE, _EDGE = "#1f2933", "#6b7680", "#ffffff", "#eef1f3", "#d5dbe0"
_RIGHT, _WRONG = "#00825a", "#cc3311"  # as in reports
_FONT: Final = "DejaVu Sans"  # comes with matplotlib


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer and its picture, uint8 (H, W, 3); None if that cannot be read."""

    hit: Hit
    picture: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class MontageRow:
    """A query and its answers.

    Attributes:
        name: Name of the query.
        label: Its class; empty if unknown.
        pictures: Its pictures, uint8 (H, W, 3) each; None for one that cannot be read.
        answers: Answers by rank.
    """

    name: str
    label: str
    pictures: Sequence[NDArray[np.uint8] | None]
    answers: Sequence[Answer]


def draw_montage(rows: Sequence[MontageRow]) -> bytes:
    """Draw queries and their answers, each with its label and distance; return a PNG.

    Where the classes of query and answer are both known, a mark and a frame show whether they are the same: a check
    mark in a green frame, a cross in a dashed red one.
    """
    texts = [row.name + row.label for row in rows]
    texts += [answer.hit.item.label + answer.hit.item.path for row in rows for answer in row.answers]
    pen = _Pen(tuple(fonts_for(texts, _FONT)))
    columns = 1 + min(PER_LINE, max((len(row.answers) for row in rows), default=1) or 1)
    lines = [max(1, -(-len(row.answers) // PER_LINE)) for row in rows]
    tile_height = _SIDE + 2 * _LINE + _GAP
    width = 2 * _MARGIN + columns * (_SIDE + _GAP) + _GAP
    image = Image.new("RGB", (width, 2 * _MARGIN + tile_height * sum(lines) + _GAP * (len(rows) - 1)), _PAPER)
    draw, top = ImageDraw.Draw(image), _MARGIN
    for row, count in zip(rows, lines, strict=True):
        bottom = top + count * tile_height - _GAP
        _draw_query(image, draw, pen, row, top)
        middle = _MARGIN + _SIDE + _GAP
        draw.line((middle, top, middle, bottom), fill=_EDGE, width=2)
        if not row.answers:
            pen.write(draw, "no answer", middle + _GAP, top + _SIDE // 2, _SIDE, _MUTED)
        for place, answer in enumerate(row.answers):
            left = middle + _GAP + place % PER_LINE * (_SIDE + _GAP)
            _draw_answer(image, draw, pen, row.label, answer, left, top + place // PER_LINE * tile_height)
        top = bottom + 2 * _GAP
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _draw_query(image: Image.Image, draw: ImageDraw.ImageDraw, pen: "_Pen", row: MontageRow, top: int) -> None:
    """Draw the pictures of a query in a square grid, with its name and label."""
    grid = next(side for side in range(1, len(row.pictures) + 2) if side * side >= len(row.pictures))
    side = _SIDE // grid
    for place, picture in enumerate(row.pictures):
        _draw_picture(image, draw, pen, picture, _MARGIN + place % grid * side, top + place // grid * side, side)
    pen.write(draw, row.name, _MARGIN, top + _SIDE + 4, _SIDE, _INK)
    pen.write(draw, row.label, _MARGIN, top + _SIDE + 4 + _LINE, _SIDE, _MUTED)


def _draw_answer(
    image: Image.Image, draw: ImageDraw.ImageDraw, pen: "_Pen", label: str, answer: Answer, left: int, top: int
) -> None:
    item = answer.hit.item
    _draw_picture(image, draw, pen, answer.picture, left, top, _SIDE)
    if label and item.label:
        _mark(draw, label == item.label, left, top)
    pen.write(draw, item.label or item.path.rpartition("/")[2], left, top + _SIDE + 4, _SIDE, _INK)
    pen.write(draw, f"{answer.hit.distance:.3f}", left, top + _SIDE + 4 + _LINE, _SIDE, _MUTED)


def _draw_picture(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    pen: "_Pen",
    picture: NDArray[np.uint8] | None,
    left: int,
    top: int,
    side: int,
) -> None:
    """Draw a picture within a square, keeping its aspect ratio."""
    draw.rectangle((left, top, left + side - 1, top + side - 1), _TILE, _EDGE)
    if picture is None:
        pen.write(draw, "not readable", left + 4, top + side // 2 - _LINE // 2, side - 8, _MUTED)
        return
    height, width = picture.shape[:2]
    scale = (side - 2) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = Image.Resampling.NEAREST if max(height, width) <= side // 3 else Image.Resampling.LANCZOS
    small = Image.fromarray(picture).resize(size, method)
    image.paste(small, (left + (side - size[0]) // 2, top + (side - size[1]) // 2))


def _mark(draw: ImageDraw.ImageDraw, right: bool, left: int, top: int) -> None:
    """Draw frame and sign; the sign and the dashes tell right from wrong without color."""
    color, last = _RIGHT if right else _WRONG, _SIDE - 1
    draw.rectangle((left, top, left + last, top + last), outline=color if right else "#f6d2c8", width=4)
    for start in range(0, 0 if right else _SIDE, 18):
        end = min(start + 10, last)
        for y in (top, top + last - 3):
            draw.rectangle((left + start, y, left + end, y + 3), color)
        for x in (left, left + last - 3):
            draw.rectangle((x, top + start, x + 3, top + end), color)
    x, y = left + last - 17, top + 17
    draw.ellipse((x - 12, y - 12, x + 12, y + 12), color, "white", 1)
    font = ImageFont.truetype(font_file(_FONT, "bold"), 15)
    draw.text((x, y), "✓" if right else "✗", "white", font, anchor="mm")


class _Pen:
    """Writes text in the first font that has each character; one that none has is written as ``U+4E2D``."""

    def __init__(self, families: tuple[str, ...]) -> None:
        self._fonts = [(characters_of((family,)), _font(family)) for family in families]

    def write(self, draw: ImageDraw.ImageDraw, text: str, left: float, top: int, width: int, color: str) -> None:
        """Write a line, shortened to a width: the leading folders of a path are cut first, then the end."""
        while "/" in text.rstrip("/") and self._width(text) > width:
            text = text.partition("/")[2]
        if self._width(text) > width:
            count = next((n for n in range(min(len(text), 60), 0, -1) if self._width(text[:n] + "…") <= width), 0)
            text = text[:count].rstrip() + "…"
        for part, font in self._parts(text):
            draw.text((left, top + _SIZE), part, color, font, anchor="ls")
            left += font.getlength(part)

    def _width(self, text: str) -> float:
        return sum(font.getlength(part) for part, font in self._parts(text))

    def _parts(self, text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """Return a text in parts that have one font each."""
        parts = list[tuple[str, ImageFont.FreeTypeFont]]()
        for character in text:
            fonts = (font for known, font in self._fonts if ord(character) in known)
            font = next(fonts, None) if character.isprintable() else None
            shown, font = (f"U+{ord(character):04X}", self._fonts[0][1]) if font is None else (character, font)
            if parts and parts[-1][1] is font:
                parts[-1] = parts[-1][0] + shown, font
            else:
                parts.append((shown, font))
        return parts


@cache
def _font(family: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file(family), _SIZE)

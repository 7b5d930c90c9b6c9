"""Answers of a search on standard output: as a table for readers, as JSON, or as CSV."""

import csv
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich.cells import cell_len, set_cell_size

from ccpml.serving.filters.tree import name_of_key

if TYPE_CHECKING:
    from ccpml.calibration import Certificate
    from ccpml.serving import Hit, Query, Reply

__all__ = ["CsvAnswers", "JsonAnswers", "Printer", "TextAnswers", "name_of", "precision_of"]

_MAX_LABEL: Final = 24
_UNBOUNDED: Final = 1_000_000


class Printer(Protocol):
    """Prints the replies to queries, one after the other."""

    def reply(self, reply: "Reply") -> None:
        """Print a reply."""

    def end(self) -> None:
        """Print what comes after the last one."""


def precision_of(certificate: "Certificate | None", reply: "Reply", hit: "Hit") -> float | None:
    """Return the certified precision of an answer: for as many as the certificate covers, to a query of one picture."""
    one = len(reply.query.pictures) + len(reply.query.ids) == 1
    return certificate.precision_at(hit.distance) if certificate and one and hit.rank <= certificate.answers else None


def name_of(query: "Query", short: bool = False) -> str:
    """Return the name of a query: its paths, or names of files alone, and ids."""
    paths = [picture.path.name if short else str(picture.path) for picture in query.pictures]
    return ", ".join([*paths, *(f"id {key}" for key in query.ids)])


class TextAnswers:
    """Prints a table for each query, as wide as the terminal; if there is none, as wide as its paths."""

    def __init__(self, certificate: "Certificate | None", empty: str) -> None:
        self._certificate = certificate
        self._empty = empty
        self._begun = False

    def reply(self, reply: "Reply") -> None:
        """Print a table."""
        if reply.hits is None:
            return
        width = max(60, shutil.get_terminal_size().columns) if sys.stdout.isatty() else _UNBOUNDED
        label = f"  ({_printable(reply.label)})" if reply.label else ""
        title = shorten(_printable(name_of(reply.query)), width - cell_len(label))
        print(f"{chr(10) if self._begun else ''}{title}{label}")
        self._begun = True
        if not reply.hits:
            print(self._empty)
            return
        rows = [["rank", "id", "distance", "label", "path"]]
        rows += [
            [str(hit.rank), str(hit.item.id), f"{hit.distance:.4f}", _printable(hit.item.label), _shown(hit.item.path)]
            for hit in reply.hits
        ]
        if self._certificate:
            found = [precision_of(self._certificate, reply, hit) for hit in reply.hits]
            for row, text in zip(rows, ["certified", *("-" if p is None else f"{p:g}" for p in found)], strict=True):
                row.insert(3, text)
        print("\n".join(_aligned(rows, width)))

    def end(self) -> None:
        """Print nothing."""


class JsonAnswers:
    """Prints one JSON document, in UTF-8, with a line for each query.

    Args:
        facts: What the document says first.
    """

    def __init__(self, certificate: "Certificate | None", facts: dict[str, Any]) -> None:
        _use_utf8()
        self._certificate = certificate
        self._skipped = list[dict[str, str]]()
        self._separator = "\n"
        print(
            "{" + "".join(f"{_json(key)}: {_json(value)},\n " for key, value in facts.items()) + '"queries": [', end=""
        )

    def reply(self, reply: "Reply") -> None:
        """Print a query and its answers."""
        self._skipped += [{"path": error.name, "reason": error.reason} for error in reply.skipped]
        query: dict[str, Any] = {
            "paths": [str(picture.path) for picture in reply.query.pictures],
            "ids": list(reply.query.ids),
            "label": reply.label,
            "hits": None if reply.hits is None else [self._values(reply, hit) for hit in reply.hits],
        }
        print(f"{self._separator}  {_json(query)}", end="")
        self._separator = ",\n"

    def end(self) -> None:
        """Print pictures that cannot be read."""
        print(f'],\n "unreadable": {_json(self._skipped)}}}')

    def _values(self, reply: "Reply", hit: "Hit") -> dict[str, Any]:
        values = {"rank": hit.rank, "distance": hit.distance, **asdict(hit.item)}
        if self._certificate:
            values["certified_precision"] = precision_of(self._certificate, reply, hit)
        return values


class CsvAnswers:
    """Prints a line for each answer, in UTF-8; metadata are columns.

    Args:
        columns: Names of the columns of metadata.
    """

    def __init__(self, certificate: "Certificate | None", columns: Sequence[str]) -> None:
        _use_utf8()
        self._certificate, self._columns = certificate, columns
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        own = ["query", "rank", "distance", *(["certified_precision"] if certificate else []), "id", "path", "label"]
        self._writer.writerow([*own, *(f"metadata.{name}" if name in own else name_of_key(name) for name in columns)])

    def reply(self, reply: "Reply") -> None:
        """Print the answers to a query."""
        for hit in reply.hits or ():
            precision = precision_of(self._certificate, reply, hit)
            own = [name_of(reply.query), hit.rank, hit.distance, *([precision] if self._certificate else [])]
            metadata = (hit.item.metadata.get(name) for name in self._columns)
            shown = (str(value).lower() if isinstance(value, bool) else value for value in metadata)
            self._writer.writerow([*own, hit.item.id, hit.item.path, hit.item.label, *shown])

    def end(self) -> None:
        """Print nothing."""


def _aligned(rows: Sequence[Sequence[str]], width: int) -> Iterable[str]:
    """Yield rows of a table; the last two columns, label and path, are aligned left and shortened to fit."""
    *numbers, label, _ = ([cell_len(cell) for cell in column] for column in zip(*rows, strict=True))
    widths = [max(column) for column in numbers]
    label_width = min(max(label), _MAX_LABEL)
    rest = width - sum(widths) - 2 * len(widths) - label_width - 2
    for *cells, name, path in rows:
        left = [cell.rjust(size) for cell, size in zip(cells, widths, strict=True)]
        yield "  ".join([*left, set_cell_size(shorten(name, label_width), label_width), shorten(path, rest)])


def shorten(text: str, width: int) -> str:
    """Shorten a text in its middle to a number of columns of a terminal; more is kept of its end.

    Example:
        >>> shorten("/data/photos/mugs/IMG_1234.jpg", 20)
        '/data/…/IMG_1234.jpg'
    """
    if cell_len(text) <= width:
        return text
    start, end = (width - 1) // 3, width - 1 - (width - 1) // 3
    while cell_len(text[:start]) > (width - 1) // 3:
        start -= 1
    while cell_len(text[len(text) - end :]) > width - 1 - (width - 1) // 3:
        end -= 1
    return f"{text[:start]}…{text[len(text) - end :]}"


def _shown(path: str) -> str:
    """Return a path, relative to the working folder if it is below it."""
    try:
        return _printable(str(Path(path).relative_to(Path.cwd())))
    except (ValueError, OSError):
        return _printable(path)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _use_utf8() -> None:
    """Write standard output in UTF-8 from here on; bytes of names that are not UTF-8 are escaped."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")

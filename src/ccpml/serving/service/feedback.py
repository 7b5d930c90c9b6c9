"""Verdicts of people about answers: a log, and a table of images with labels that training and calibration read."""

import csv
import io
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from filelock import FileLock, Timeout

from ccpml.files import WriteError, write_bytes
from ccpml.numbers import counted
from ccpml.progress import print_note
from ccpml.serving.index import Index
from ccpml.serving.items import Item, own_picture
from ccpml.serving.picture_index import PictureIndex
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.uploads import Upload

__all__ = ["FEEDBACK_FILE", "VERDICTS_FILE", "Feedback", "RecentQueries", "Verdict", "is_in_feedback", "table_of"]

FEEDBACK_FILE: Final = "feedback.csv"
VERDICTS_FILE: Final = "verdicts.csv"

_DIGEST: Final = 64  # characters of a SHA-256
_MAX_LOG_BYTES: Final = 50_000_000
_OF_A_CLIENT: Final = re.compile(rf"pictures/[0-9a-f]{{{_DIGEST}}}\.\w+")
_BEGUN: Final = re.compile(rb"[\dTZ:-]{0,20}(,|$)")  # a line of the log, or the time with which it begins
_UNWRITABLE: Final = re.compile("[\ud800-\udfff\r\n]")  # in a path: bytes that are no UTF-8, and line breaks


class Verdict(NamedTuple):
    """One line of the log.

    Attributes:
        time: When it was given, UTC.
        query: The item that was searched for, by its number, or the SHA-256 of the picture.
        query_path: The image file of the query; empty for a picture that was not kept.
        id: The hit.
        path: Its image file.
        label: Its label; for an item without one, ``item-<id>``.
        verdict: ``right`` or ``wrong``.
    """

    time: str
    query: str
    query_path: str
    id: str
    path: str
    label: str
    verdict: str


class RecentQueries:
    """The pictures that were searched for last, in memory: feedback names one by the digest of its content.

    Args:
        max_bytes: Bytes that are kept.
    """

    def __init__(self, max_bytes: int = 64_000_000) -> None:
        self._max_bytes, self._size = max_bytes, 0
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, Upload] = OrderedDict()

    def add(self, upload: Upload) -> None:
        """Keep a picture, and drop the oldest ones that do not fit beside it."""
        with self._lock:
            if self._pictures.pop(upload.digest, None) is None:
                self._size += len(upload.content)
            self._pictures[upload.digest] = upload
            while self._size > self._max_bytes:
                self._size -= len(self._pictures.popitem(last=False)[1].content)

    def find(self, digest: str) -> Upload:
        """Return a picture by the SHA-256 of its content.

        Raises:
            RefusedError: If it is not kept any more.
        """
        with self._lock:
            found = self._pictures.get(digest)
        if found is None:
            raise RefusedError(404, "query_hash: no such picture was searched for lately; search again")
        return found


class Feedback:
    """The verdicts about the answers of an index, in two files of its directory.

    ``verdicts.csv`` has a line for each verdict, and is only appended to; a verdict is on the disk when it is
    acknowledged. ``feedback.csv`` follows from it: path and label of the queries and hits of verdicts that are right,
    as ``csv:`` data. A verdict about the same query and hit replaces the one before. Items that have moved since, or
    have another label, are written as they are in the index now, if that is in a directory, and files whose contents
    were replaced have the label of the new item; pictures that are not found are left out, with a note.

    Args:
        index: The index.
    """

    def __init__(self, index: PictureIndex) -> None:
        self._index, self._folder = index, index.path
        self._items, self._version = dict[int | str, Item | None](), -1  # by id or path, of the index at that version
        self._missing = 0  # pictures that were left out of the table written last
        self._unread = 0  # lines of the log that could not be read the last time

    def record(self, query: Item | Upload, hit: Item, verdict: str, now: float | None = None) -> int:
        """Record a verdict; return the number of verdicts.

        Args:
            query: The item that was searched for, or the picture, which is kept in the folder ``pictures`` of the index
                if the verdict is right.
            hit: The hit.
            verdict: ``right`` or ``wrong``.
            now: Seconds since the epoch; the present time by default.

        Raises:
            RefusedError: If the log is full.
            WriteError: If a file cannot be written.
        """
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        with self._locked():
            if isinstance(query, Item):
                name, path = str(query.id), self._path_of(query)
            else:
                name, path = query.digest, self._keep(query) if verdict == "right" else ""
            line = Verdict(moment, name, path, str(hit.id), self._path_of(hit), _label_of(hit), verdict)
            verdicts = self._append(line)
            self._write_table(verdicts)
            return len(verdicts)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the files, of all processes that serve the index."""
        file = self._folder / "feedback.lock"
        try:
            lock = FileLock(file, timeout=10).acquire()
        except Timeout as error:
            raise RefusedError(503, "another verdict is being written; try again", {"Retry-After": "1"}) from error
        except OSError as error:
            raise WriteError(error.errno, error.strerror, str(file)) from error
        with lock:
            yield

    def _keep(self, upload: Upload) -> str:
        file = self._folder / "pictures" / f"{upload.digest}{upload.suffix}"
        if not file.exists():
            write_bytes(file, upload.content)
        return f"pictures/{file.name}"

    def _path_of(self, item: Item) -> str:
        """Return the path of an item, relative if it is in the directory of the index, which may be moved.

        A picture that came through the service is there, although the index may name the place before the move.
        """
        folder = self._folder.absolute()
        path = Path(own_picture(folder, item.path, item.content_hash))
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else item.path

    def _find(self, key: int | str) -> Item | None:
        """Return the item of an id or a path in the index as it is now; None if there is none, or it is on a server."""
        if not isinstance(self._index, Index):  # a server would be asked for each item
            return None
        if self._version != self._index.version:
            self._items, self._version = {}, self._index.version
        if key not in self._items:
            try:
                self._items[key] = self._index.item(key) if isinstance(key, int) else self._index.at(key)
            except (KeyError, OverflowError):  # there is none, or the log was edited
                self._items[key] = None
        return self._items[key]

    def _now(self, verdict: Verdict) -> Verdict:
        """Return a verdict with the paths and the label that its items have now."""
        for name, key in (("path", verdict.id), ("query_path", verdict.query)):
            item = self._item_now(key, getattr(verdict, name))
            if item is None:  # it was removed, or is a picture by the digest of its content
                continue
            now = self._path_of(item)
            if (self._folder / now).is_file() or now == getattr(verdict, name):
                verdict = verdict._replace(**{name: now})
                if name == "path":
                    verdict = verdict._replace(label=_label_of(item))
        return verdict

    def _item_now(self, key: str, path: str) -> Item | None:
        """Return what a query or hit of the log is in the index now: its item, or the one with the same contents."""
        item = self._find(int(key)) if _is_id(key) else None
        if item is None and _is_id(key) and _OF_A_CLIENT.fullmatch(path):  # named by its contents, and added again
            item = self._find(str(self._folder.absolute() / path))
        return item

    def _replaced(self, verdicts: Iterable[Verdict]) -> dict[str, str]:
        """Return the labels of files by path that are other items now than those that were judged.

        Whoever replaces the contents of a file, by another picture or by a retouched one, makes it a new item.
        """
        labels = dict[str, str]()
        for verdict in verdicts:
            for path, key in ((verdict.path, verdict.id), (verdict.query_path, verdict.query)):
                if path and _is_id(key) and self._item_now(key, path) is None:
                    item = self._find(str(self._folder.absolute() / path))
                    if item is not None and (item.label or verdict.label != f"item-{verdict.id}"):
                        labels[path] = _label_of(item)
        return labels

    def _append(self, line: Verdict) -> list[Verdict]:
        """Append to the log, behind its last whole line; return all of it."""
        file = self._folder / VERDICTS_FILE
        try:
            known = file.read_bytes() if file.exists() else b""
            if len(known) > _MAX_LOG_BYTES:
                raise RefusedError(507, "the log of verdicts is full")
            whole = _without_torn_line(known)
            added = _text([line] if whole else [Verdict._fields, line])
            if whole and not whole.endswith(b"\n"):
                added = b"\n" + added
            number = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.ftruncate(number, len(whole))
                os.lseek(number, len(whole), os.SEEK_SET)
                data = memoryview(added)
                while data:
                    data = data[os.write(number, data) :]
                os.fsync(number)
            finally:
                os.close(number)
        except OSError as error:
            raise WriteError(error.errno, error.strerror, str(file)) from error
        verdicts, unread = read_verdicts(whole + added)
        if unread > self._unread:
            print_note(f"{file}: leaves out {counted(unread, 'line')} of another form; restore them from a copy")
        self._unread = unread
        return verdicts

    def _write_table(self, verdicts: Sequence[Verdict]) -> None:
        found, replaced = table_of(map(self._now, verdicts)), self._replaced(verdicts)
        written = [row for row in found if not _UNWRITABLE.search(row[0])]
        rows = [(path, replaced.get(path, label)) for path, label in written if (self._folder / path).is_file()]
        file, there = self._folder / FEEDBACK_FILE, dict(rows)
        missing = [path for path, _ in found if path not in there]
        if len(missing) > self._missing:
            why = "not found, or of a name that a table cannot hold"
            print_note(f"{file}: leaves out {counted(len(missing), 'picture')} ({why}), such as {missing[-1]}")
        self._missing = len(missing)
        if rows:
            write_bytes(file, _text([("path", "label"), *rows]))
        else:  # a table without rows is no data
            file.unlink(missing_ok=True)


def _label_of(item: Item) -> str:
    """Return the label of an item; one without is a class of its own."""
    return item.label or f"item-{item.id}"


def _is_id(key: str) -> bool:
    """Whether a query or hit of the log is an item, and not a picture by the digest of its content."""
    return len(key) < _DIGEST and key.isdecimal()


def is_in_feedback(folder: Path, path: str) -> bool:
    """Whether the table of an index names a picture in its directory; a table that cannot be read may."""
    try:
        return path.encode() in (folder / FEEDBACK_FILE).read_bytes()  # also where a program has written it otherwise
    except FileNotFoundError:
        return False
    except OSError:
        return True


def read_verdicts(content: bytes) -> tuple[list[Verdict], int]:
    """Return the verdicts of a log, each in a line, and the number of lines that are none."""
    lines = content.decode("utf-8-sig", "replace").replace("\r\n", "\n").split("\n")
    rows = [row for line in lines if line.strip(", ;\t") and (row := _cells(line)) != list(Verdict._fields)]
    verdicts = [Verdict(*row) for row in rows if len(row) == len(Verdict._fields) and row[-1] in {"right", "wrong"}]
    return verdicts, len(rows) - len(verdicts)


def _without_torn_line(content: bytes) -> bytes:
    """Return a log without its last line if writing that was interrupted; others may lack the end of the line only."""
    start = content.rfind(b"\n") + 1
    last = content[start:]
    is_torn = _BEGUN.match(last) is not None or ",".join(Verdict._fields).encode().startswith(last)
    return content[:start] if is_torn and not read_verdicts(last)[0] else content


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # it is damaged
        return []


def table_of(verdicts: Iterable[Verdict]) -> list[tuple[str, str]]:
    """Return paths and labels of the queries and hits of right verdicts, each path once, in the order of the verdicts.

    A hit has its own label, and gives it to the query; a query has the label of the first hit that it is right for.
    """
    last = {(verdict.query, verdict.id): verdict for verdict in verdicts}
    right = [verdict for verdict in last.values() if verdict.verdict == "right"]
    table = {verdict.path: verdict.label for verdict in reversed(right)}
    rows = dict[str, str]()
    for verdict in right:
        rows.setdefault(verdict.query_path, table.get(verdict.query_path, verdict.label))
        rows.setdefault(verdict.path, verdict.label)
    rows.pop("", None)
    return list(rows.items())


def _text(rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows as lines of CSV; values with line breaks would spread over several, and have spaces instead."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([" ".join(value.splitlines()) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")

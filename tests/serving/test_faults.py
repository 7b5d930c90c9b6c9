"""Every write of an index fails once for a full disk and once for a broken one; nothing that was acknowledged is lost.

The calls of the system that write rows fail, and each statement of SQLite that writes. After each failure the index is
verified, and the same change is made again, until nothing is left that has not failed.
"""

import errno
import os
import re
import shutil
import sqlite3

import pytest

from ccpml.cli.common.hints import describe
from ccpml.files import WriteError
from ccpml.serving import Index
from ccpml.serving.errors import DamagedIndexError
from ccpml.serving.storage.store import Store
from tests.faults import FailingCalls
from tests.serving.changes import EMBEDDER, change, changed, check_search, state_of

ERRORS = (errno.ENOSPC, errno.EIO)
NAMES = {errno.ENOSPC: "SQLITE_FULL", errno.EIO: "SQLITE_IOERR_WRITE"}
STATEMENTS = ("BEGIN IMMEDIATE", "INSERT", "UPDATE", "DELETE", "COMMIT", "PRAGMA incremental", "PRAGMA wal", "BEGIN;")
CHANGES = (
    ("add", [0, 1, 2, 3], 1),
    ("add", [2, 3, 4], 2),
    ("sync", [0, 1, 2, 5], 3),
    ("remove", [0, 5], 4),
    ("compact", [], 5),
)


class EachOnce:
    """Faults that come once each, one in a change: of each call or statement, with each error."""

    def __init__(self):
        self.left, self.failed = {}, None

    def __call__(self, call, path):
        if call == "fsync" and path.is_dir():
            call = "fsync of a folder"
        return self.next(call, ERRORS if call != "open" else (errno.EACCES,))

    def statement(self, text):
        name = next((word for word in STATEMENTS if text.lstrip().startswith(word)), None)
        return None if name is None else self.next(f"{name} {text.split()[-1]}", ERRORS)

    def next(self, call, errors):
        left = self.left.setdefault(call, list(errors))
        if self.failed or not left:
            return None
        self.failed = call, left[0]
        return left.pop(0)


class FailingConnection(sqlite3.Connection):
    """A connection whose statements fail as those of a database on a full or broken disk."""

    faults: EachOnce

    def _check(self, text):
        number = self.faults.statement(text)
        if number is not None:
            error = sqlite3.OperationalError("failed on request")
            error.sqlite_errorname = NAMES[number]
            raise error

    def execute(self, text, *arguments):
        self._check(text)
        return super().execute(text, *arguments)

    def executemany(self, text, *arguments):
        self._check(text)
        return super().executemany(text, *arguments)

    def executescript(self, text):
        self._check(text)
        return super().executescript(text)


@pytest.fixture
def faults(monkeypatch):
    faults = EachOnce()
    connect = sqlite3.connect

    def failing(*arguments, **options):
        db = connect(*arguments, factory=FailingConnection, **options)
        db.faults = faults
        return db

    monkeypatch.setattr("ccpml.serving.storage.store.sqlite3.connect", failing)
    for module in ("storage.rows", "index"):
        monkeypatch.setattr(f"ccpml.serving.{module}.os", FailingCalls(faults))
    return faults


def without_faults(faults, work):
    """Return the result of ``work`` while nothing fails."""
    before, faults.failed = faults.failed, faults.failed or "nothing"
    try:
        return work()
    finally:
        faults.failed = before


def check(path, allowed):
    """Check that a fresh reader finds one of the allowed states, sound."""
    with Index.open(path, EMBEDDER) as index:
        found = state_of(index)
        assert index.verify().problems == []
        check_search(index, found)
        for number in range(6):
            assert found.get(number) in {state.get(number) for state in allowed}
        return found


def test_every_write_fails_and_nothing_is_lost(tmp_path, faults):
    path, ends, state = tmp_path / "x.index", 0, {}

    def attempt(work):
        nonlocal ends
        faults.failed = None
        try:
            work()
        except WriteError as error:
            _, number = faults.failed
            ends += 1
            sentence = describe(error)
            assert re.fullmatch(rf"{tmp_path}/\S+: cannot be written \({os.strerror(number)}\); [\w ,]+", sentence)
            return False
        assert faults.failed is None
        return True

    while not attempt(lambda: Index.create(path, EMBEDDER).close()):
        assert list(tmp_path.iterdir()) == []
    for kind, numbers, version in CHANGES:
        after = changed(state, kind, numbers, version)
        for _ in range(200):
            with Index.open(path, EMBEDDER) as index:
                finished = attempt(lambda index=index: change(index, kind, numbers, version))  # noqa: B023
                without_faults(faults, lambda: check(path, [state, after]))  # noqa: B023
            if finished:
                break
        state = without_faults(faults, lambda: check(path, [after]))  # noqa: B023
    assert {"open", "pwrite", "ftruncate", "fsync", "rename", "fsync of a folder"} <= set(faults.left)
    assert {word for word in STATEMENTS if any(call.startswith(word) for call in faults.left)} == set(STATEMENTS)
    assert ends > 30
    assert not any(faults.left.values())


def test_a_full_database_is_a_sentence_and_the_change_can_be_made_once_there_is_space(tmp_path):
    path = tmp_path / "x.index"
    with Index.create(path, EMBEDDER) as index:
        change(index, "add", range(5), 1)
        db = index._store._opened_writer()
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(WriteError, match=r"index.sqlite: cannot be written \(No space left on device\)"):
            change(index, "add", range(30), 2)
        assert state_of(index) == dict.fromkeys(range(5), 1)
        assert index.verify().problems == []
        change(index, "add", range(30), 2)  # the writer has begun again, without the limit
        assert index.verify() == (30, [], [], set())


@pytest.mark.parametrize("is_writing", [False, True], ids=["before a change", "within a change"])
@pytest.mark.parametrize("kind", ["add", "sync", "remove", "compact"])
def test_an_index_in_place_of_the_one_that_was_opened_is_not_touched(tmp_path, monkeypatch, kind, is_writing):
    """As where an index is built again while a service has it open: rows are written by the path of their file."""
    path, moved = tmp_path / "index", tmp_path / "moved"
    with Index.create(path, EMBEDDER) as index:
        change(index, "add", range(9), 1)

    def replace():
        path.rename(moved)
        with Index.create(path, EMBEDDER) as other:
            change(other, "add", range(20, 29), 5)
        return {file: file.read_bytes() for file in path.iterdir()}

    with Index.open(path, EMBEDDER) as index:
        change(index, "add", [10], 1)
        change(index, "remove", [10], 1)
        if is_writing:  # between the lock and the first transaction
            before, add_fields = {}, Store.add_fields

            def replaced(store):
                monkeypatch.setattr(Store, "add_fields", add_fields)
                add_fields(store)
                before.update(replace())

            monkeypatch.setattr(Store, "add_fields", replaced)
        else:
            before = replace()
        with pytest.raises(DamagedIndexError, match="another file took its place since it was opened; open it again"):
            change(index, kind, range(3), 2)
        assert {file: file.read_bytes() for file in path.iterdir()} == before
        shutil.rmtree(path)
        with pytest.raises(DamagedIndexError, match=r"index\.sqlite: (cannot be read \(No such file|not found)"):
            change(index, kind, range(3), 2)
        assert not path.exists()
    with Index.open(moved, EMBEDDER) as index:
        assert state_of(index) == dict.fromkeys(range(9), 1)


@pytest.mark.parametrize("kind", ["add", "remove", "compact"])
def test_an_index_that_another_process_changes_meanwhile_is_verified_as_it_was(tmp_path, kind):
    path = tmp_path / "x.index"
    with Index.create(path, EMBEDDER) as index:
        change(index, "add", range(9), 1)
        change(index, "remove", [3], 2)
    done = []

    def change_once(rows):
        if not done:
            done.append(kind)
            with Index.open(path, EMBEDDER) as other:
                change(other, kind, [5], 3)

    with Index.open(path) as index:
        assert index.verify(change_once) == (8, [], [], set())
    assert done


@pytest.mark.parametrize(
    "call", [state_of, lambda index: change(index, "add", [7], 3), lambda index: check_search(index, {1: 1})]
)
def test_an_index_that_is_copied_over_an_open_one_is_not_mixed_with_it(tmp_path, call):
    """Into the same files, as cp and rsync --inplace do."""
    for name, numbers in (("live", range(5)), ("new", range(20, 29))):
        with Index.create(tmp_path / name, EMBEDDER) as index:
            change(index, "add", numbers, 1)
    with Index.open(tmp_path / "live", EMBEDDER) as index:
        assert state_of(index) == dict.fromkeys(range(5), 1)
        shutil.copytree(tmp_path / "new", tmp_path / "live", dirs_exist_ok=True, copy_function=shutil.copyfile)
        with pytest.raises(DamagedIndexError, match="another file took its place since it was opened; open it again"):
            call(index)
    with Index.open(tmp_path / "live", EMBEDDER) as index:
        assert state_of(index) == dict.fromkeys(range(20, 29), 1)
        assert index.verify().problems == []

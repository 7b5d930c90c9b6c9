import errno
import json
import os
import re

import numpy as np
import pytest
from filelock import FileLock, Timeout

from ccpml.files import (
    WriteError,
    exclusive_lock,
    load_json,
    require_space,
    temporary_path,
    waiting_lock,
    write_arrays,
    write_bytes,
    write_json,
    write_text,
)
from tests.faults import FailingCalls
from tests.locks import held_by_another_process


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"é": 1.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1.5}
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_arrays_load_without_pickle(tmp_path):
    write_arrays(tmp_path / "x.npz", x=np.arange(3), names=np.array(["a", "bc"]))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert file["x"].tolist() == [0, 1, 2]
        assert file["names"].tolist() == ["a", "bc"]


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.npz: x: expected numbers or text, got objects"):
        write_arrays(tmp_path / "x.npz", x=np.array([{}]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call, number):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr("ccpml.files.os", FailingCalls(lambda name, path: number if name == call else None))
        with pytest.raises(WriteError) as error:
            write_bytes(path, b"new")
    assert str(error.value).startswith(f"{path}: cannot be written ({os.strerror(number)}); ")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    write_bytes(path, b"new")
    assert path.read_text() == "new"


def test_too_little_memory_is_no_fault_of_the_file():
    error = WriteError(errno.ENOMEM, "Cannot allocate memory", "a.npz")
    assert str(error) == "a.npz: out of memory; free some memory, or allow more (ulimit -v)"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/x\.txt: cannot be written \((File exists|Not a directory)\)"):
        write_text(tmp_path / "file" / "x.txt", "")


def test_a_link_to_nothing_in_the_way_of_a_file_is_named(tmp_path):
    """As to a disk that is not there now."""
    (tmp_path / "disk").symlink_to(tmp_path / "none")
    for name in ("disk/x.txt", "disk/a/b/x.txt"):
        with pytest.raises(
            WriteError, match=r"x\.txt: cannot be written, as .*/disk links to nothing; restore what it"
        ):
            write_text(tmp_path / name, "a")


def test_a_lock_is_exclusive_until_its_process_ends(tmp_path):
    path = tmp_path / "x.lock"
    with held_by_another_process(path) as process:
        with pytest.raises(ValueError, match=r"x\.lock: another process is busy; wait"), exclusive_lock(path, "busy"):
            pass
        process.kill()
        process.wait()
        with exclusive_lock(path, "busy"):
            pass
    with exclusive_lock(path, "busy"):
        pass


def test_space(tmp_path):
    require_space(tmp_path, 1, "a byte")
    with pytest.raises(ValueError, match=r"a lot needs 1000000\.0 TB, got .* of free space"):
        require_space(tmp_path, 10**18, "a lot")


def test_waiting_for_a_lock_says_so(tmp_path, capsys):
    path = tmp_path / "x.lock"
    with held_by_another_process(path) as process:
        with pytest.raises(Timeout), waiting_lock(FileLock(path), "busy", timeout=1.2):
            pass
        assert capsys.readouterr().err == "busy; waiting ...\n"
        process.kill()
        process.wait()
        with waiting_lock(FileLock(path), "busy"):
            pass
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 255, "x" * 251 + ".npz", "ü" * 127, "a." + "b" * 253, ".hidden"])
def test_a_name_of_legal_length_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert temporary_path(tmp_path / name).name.startswith(".")
    assert len(os.fsencode(temporary_path(tmp_path / name).name)) <= 255


def test_a_name_that_is_too_long_is_named(tmp_path):
    with pytest.raises(WriteError, match=r"x: cannot be written \(File name too long\); choose a shorter name"):
        write_text(tmp_path / ("x" * 256), "text")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": "\xb3"}', "not JSON: expected UTF-8 text, got byte 0xb3"),
        (b'{"a": 1,\n"b"}', "not JSON: line 2: Expecting ':' delimiter"),
        (b"[" * 100_000, "not JSON: it is nested too deeply"),
    ],
)
def test_what_is_not_json_is_said_in_our_words(tmp_path, content, reason):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_json(file)

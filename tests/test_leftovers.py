"""What a killed process has left is removed by the next that writes to the same place, and by no other."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ccpml.cleaning.results import _new_folder
from ccpml.files import remove_leftovers, remove_leftovers_below, temporary_path
from ccpml.serving import Index
from tests.serving.embedders import ColorEmbedder


def ended() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def clean(path: Path) -> None:
    with _new_folder(path):
        pass


@pytest.mark.parametrize("write", [remove_leftovers, clean, lambda path: Index.create(path, ColorEmbedder()).close()])
@pytest.mark.parametrize("name", ["results", "results.csv", "a[b]*.x", "line\nbreak", "x" * 255])
def test_leftovers_of_ended_processes_alone_are_removed(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    own = temporary_path(tmp_path / name).name
    gone = own.replace(f".{os.getpid()}.", f".{ended()}.")
    kept = [own.replace(f".{os.getpid()}.", f".{os.getppid()}."), ".other.1.tmp", own.replace(".tmp", ".tmp2")]
    for left in (gone, *kept):
        (tmp_path / left).mkdir()
        (tmp_path / left / "part").touch()
    write(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} - {name} == set(kept)


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "missing" / "file")


def test_leftovers_of_ended_processes_below_a_folder_are_removed(tmp_path: Path) -> None:
    inner = tmp_path / "checkpoints"
    inner.mkdir()
    kept = [f".last.{os.getpid()}.tmp.ckpt", ".last.tmp.ckpt", "last.1.tmp.ckpt", ".lock"]
    for name in (f".last.{ended()}.tmp.ckpt", f".lock.{ended()}.tmp", *kept):
        (inner / name).touch()
    remove_leftovers_below(tmp_path)
    assert {path.name for path in inner.iterdir()} == set(kept)

"""Closed streams, pipes that nobody reads, full disks, and terminals without Unicode."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from ccpml.cli.terminal import prepare_warnings
from ccpml.data import loading

COMMAND = f"{sys.executable} -m ccpml"


def shell(line: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    line = f'set -o pipefail; ccpml() {{ {COMMAND} "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, check=False, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_neither_the_exit_code_nor_what_the_others_get(closed: str) -> None:
    for verb in ("--version", "nonsense"):
        whole, part = shell(f"ccpml {verb}"), shell(f"ccpml {verb} {closed}")
        assert part.returncode == whole.returncode
        assert part.stdout in {whole.stdout, b""}
        assert part.stderr in {whole.stderr, b""}


@pytest.mark.parametrize("verb", [["--help"], ["train", "--help"], ["nonsense"]])
def test_a_pipe_that_nobody_reads_ends_the_command_quietly(verb: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": writing, "stderr": subprocess.PIPE}
    if verb == ["nonsense"]:
        streams = {"stdout": subprocess.PIPE, "stderr": writing}
    result = subprocess.run([sys.executable, "-m", "ccpml.cli", *verb], check=False, timeout=300, **streams)
    os.close(writing)
    assert result.returncode == 141
    assert not result.stdout
    assert not result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["--help", "train --help", "search --help"])
def test_output_to_a_full_disk_is_one_sentence_that_names_the_output(unbuffered: str, arguments: str) -> None:
    result = shell(f"ccpml {arguments} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (result.returncode, result.stderr.splitlines()[-1:]) == (
        1,
        [b"ccpml: error: standard output: No space left on device; free some space"],
    )
    assert result.stderr.count(b"ccpml: error") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_messages_that_find_no_space_do_not_end_the_work(folder: Path) -> None:
    whole = shell(f"ccpml data check folder:{folder}")
    lost = shell(f"ccpml data check folder:{folder} 2> /dev/full")
    assert (whole.returncode, lost.returncode) == (0, 1)  # as messages are lost
    assert lost.stdout == whole.stdout
    assert shell("ccpml nonsense 2> /dev/full").returncode == 2


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("verb", ["train", "tune"])
def test_help_is_shown_in_any_encoding(encoding: str, verb: str) -> None:
    result = shell(f"ccpml {verb} --help", PYTHONIOENCODING=encoding, COLUMNS="40")
    assert (result.returncode, result.stderr) == (0, b"")
    text = result.stdout.decode(encoding)
    assert ("λ" if encoding == "utf-8" else "lambda") in text
    assert "\\u" not in text


def test_a_home_that_cannot_be_written_is_no_news() -> None:
    program = "import sys; from ccpml.cli import main; main(); import matplotlib; print(matplotlib.get_configdir())"
    homeless = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPLCONFIGDIR"))}
    command = [sys.executable, "-c", program, "--version"]
    environment = {**homeless, "HOME": "/dev/null"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert "/dev/null" not in result.stdout


def test_commands_work_without_a_home(folder: Path, tmp_path: Path) -> None:
    for environment in ({"HOME": "/dev/null/home"}, {"HOME": ""}):
        result = shell(f"cd {tmp_path}; unset XDG_CACHE_HOME; ccpml data check folder:{folder}", **environment)
        assert (result.returncode, b"complete" in result.stdout) == (0, True)
        assert not list(tmp_path.iterdir())


def test_a_current_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    result = shell(f"cd {tmp_path / 'gone'}; rmdir {tmp_path / 'gone'}; ccpml evaluate {tmp_path}")
    message = b"ccpml: error: current folder: was removed; change to another one\n"
    assert (result.returncode, result.stderr) == (2, message)


def test_warnings_of_pillow_are_not_shown(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("1", (16_000, 16_000)).save(tmp_path / name / "huge.tif", compression="group4")
    result = shell(f"ccpml data check folder:{tmp_path}")
    assert result.returncode == 1
    assert b"too large: expected at most 250 million pixels" in result.stdout
    assert b"Warning" not in result.stderr


def test_warnings_of_ccpml_are_notes_and_those_of_others_are_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("default")
        prepare_warnings()
        warnings.warn_explicit("glyphs cannot be cached", UserWarning, loading.__file__, 75)
        warnings.warn_explicit("a library", UserWarning, "/lib/a.py", 75)
    assert capsys.readouterr().err == "note: glyphs cannot be cached\n"
    assert [str(other.message) for other in others] == ["a library"]


@pytest.mark.parametrize("verb", ["data check folder:{folder}", "search {folder}/x.index q.jpg", "report {folder}/run"])
def test_too_little_address_space_is_named_before_libraries_end_the_process(verb: str, tmp_path: Path) -> None:
    (tmp_path / "x.index").mkdir()
    (tmp_path / "x.index/index.sqlite").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/experiment.yaml").touch()
    result = shell(f"ulimit -v 200000; ccpml {verb.format(folder=tmp_path)}")
    assert result.returncode == 1
    assert b"error: address space: expected at least" in result.stderr
    assert result.stderr.endswith(b"got 204.8 MB; allow more (ulimit -v)\n")

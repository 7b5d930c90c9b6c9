import re
from pathlib import Path

import pytest

import ccpml
from ccpml.progress import announce, print_note

SOURCES = sorted(Path(ccpml.__file__).parent.rglob("*.py"))


def test_notes_and_announcements_are_single_lines_that_no_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    print_note("a\nb\x1b[2J: 1 class")
    announce("drawing a\nb.png")
    assert capsys.readouterr().err == "note: a\\nb\\x1b[2J: 1 class\ndrawing a\\nb.png ...\n"


def test_no_other_place_prints_notes() -> None:
    """Names of files, which notes may hold, are escaped in one place."""
    unescaped = re.compile(r'print\(\s*f?"note: (?!\{printable\()')
    assert [path for path in SOURCES if unescaped.search(path.read_text(encoding="utf-8"))] == []

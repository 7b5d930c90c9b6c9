import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccpml.data.sources.image_index import positive_int, read_lines, relative_path


@given(st.lists(st.sampled_from(["..", ".", "a", "a b", "é", "", "C:", "\\", "~"]), min_size=1, max_size=5))
def test_paths_are_inside_the_folder_or_refused(parts: list[str]) -> None:
    text = "/".join(parts)
    try:
        path = relative_path(text, "here")
    except ValueError:
        return
    inside = os.path.normpath(os.path.join("/folder", str(path)))  # noqa: PTH118 -- as the system resolves it
    assert inside.startswith("/folder/")


@pytest.mark.parametrize("text", ["a/b.jpg", "odd name #1 – é%20.jpg", "a:b.jpg", "...jpg", "a..b/c.JPG"])
def test_unusual_names(text: str) -> None:
    assert str(relative_path(text, "here")) == text


@pytest.mark.parametrize("text", ["", ".", "/a", "../a", "a/../../b", "a//b", "a\0b", "a\\..\\b"])
def test_paths_that_lead_out_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"here: expected a path inside"):
        relative_path(text, "here")


@given(st.lists(st.text("ab é\t", min_size=1), max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_any_line_ending(tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, mark: bool) -> None:
    file = tmp_path_factory.mktemp("index") / "index.txt"
    file.write_bytes(end.join(["first", *lines]).encode("utf-8-sig" if mark else "utf-8"))
    found = list(read_lines(file))
    expected = [(f"{file}, line {n}", line.strip()) for n, line in enumerate(["first", *lines], 1) if line.strip()]
    assert [tuple(line) for line in found] == expected


def test_invalid_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.txt: index file not found"):
        list(read_lines(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf \r\n")
    with pytest.raises(ValueError, match=r"empty\.txt: file is empty"):
        list(read_lines(tmp_path / "empty.txt"))
    (tmp_path / "latin.txt").write_bytes(b"a\nb\nc\xe9d\n")
    with pytest.raises(ValueError, match=r"latin\.txt, line 3: expected UTF-8"):
        list(read_lines(tmp_path / "latin.txt"))
    with pytest.raises(ValueError, match="cannot be read"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "²", "１"])
def test_invalid_positive_integers(text: str) -> None:
    with pytest.raises(ValueError, match="here: id: expected a positive integer"):
        positive_int(text, "id", "here")
    assert positive_int("12", "id", "here") == 12

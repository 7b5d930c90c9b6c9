"""Synchronization with data whose paths are written in several ways: a file is one picture."""

import os
from pathlib import Path

import pytest

from ccpml.serving import Index, find_pictures
from tests.serving.embedders import ColorEmbedder
from tests.serving.test_sync import CountingEmbedder, counts, write


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        write(tmp_path / "photos" / f"class{number % 2}" / f"{number}.png", number)
    return tmp_path / "photos"


def test_a_file_has_one_name_however_its_path_is_written(photos, tmp_path, monkeypatch):
    """As of a table in a folder of its own: its pictures are those of the folder, and not further ones."""
    table = tmp_path / "tables" / "list.csv"
    table.parent.mkdir()
    files = sorted(photos.glob("*/*.png"))
    rows = "".join(f"../{file.relative_to(tmp_path)},{file.parent.name},{n}\n" for n, file in enumerate(files))
    table.write_text(f"path,label,price\n{rows}")
    (tmp_path / "link").symlink_to(files[0].parent)
    monkeypatch.chdir(table.parent)
    ways = (
        f"../{photos.name}/*/*.png",
        "../link/../*/*.png",
        f"{tmp_path}/tables/../{photos.name}/*/*.png",
        f"/{photos}/*/*.png",
        str(table),
    )
    with Index.create(tmp_path / "tables" / ".." / "own.index", ColorEmbedder()) as index:
        assert index.path == tmp_path / "own.index"
        index.sync(photos.as_posix())
        before = [item.id for item in index.items()]
        for data in ways:
            assert counts(index.sync(find_pictures(data))) == (0, 0, 0, 0, len(files)), data
        assert [item.id for item in index.items()] == before
        assert {item.path for item in index.items()} == set(map(str, files))
        assert all("price" in item.metadata for item in index.items())
        first = index.items()[0]
        assert index.at(f"../{files[0].relative_to(tmp_path)}") == index.at(files[0]) == index.at(first.path) == first
        odd = write(photos / "class0" / os.fsdecode(b"caf\xe9.png"), 9)
        index.add([odd])
        assert index.at(odd).path == str(odd)
        assert index.at("nothing.png") is None


@pytest.mark.parametrize("kind", ["pattern", "table"])
def test_an_index_whose_names_have_dots_from_an_earlier_version_goes_on(photos, tmp_path, monkeypatch, kind):
    table = tmp_path / "tables" / "list.csv"
    table.parent.mkdir()
    files = sorted(photos.glob("*/*.png"))
    table.write_text("path\n" + "".join(f"../{file.relative_to(tmp_path)}\n" for file in files))
    data = str(table) if kind == "table" else f"{tmp_path}/tables/../{photos.name}/*/*.png"
    embedder = CountingEmbedder()
    with Index.create(tmp_path / "own.index", embedder) as index:
        with monkeypatch.context() as earlier:
            for module in ("items", "collect"):
                earlier.setattr(f"ccpml.serving.{module}.plain_path", Path.absolute)
            index.sync(data)
            assert all("/../" in item.path for item in index.items())
        write(files[0], 77)
        done = index.sync(data)
        assert counts(done) == (0, 1, 0, 0, len(files) - 1)
        assert {item.path for item in index.items()} == set(map(str, files))
        assert list(index.sources()) == [find_pictures(data).source]
        assert embedder.count == len(files) + 1


def test_a_row_behind_a_link_to_itself_is_left_out(photos, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    table = tmp_path / "list.csv"
    table.write_text("path\nphotos/class0/0.png\nloop/../photos/class0/2.png\nloop/x.png\n")
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as index:
        done = index.sync(str(table))
        assert done.added + len(done.skipped) == 3
        assert any("loop" in str(error) for error in done.skipped)

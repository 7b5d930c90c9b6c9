"""Synchronization with a folder: what is embedded, kept, renamed and removed."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml import artifacts
from ccpml.serving import Index, SourceConflictError, find_pictures
from ccpml.serving.items import Picture
from tests.serving.embedders import ColorEmbedder


class CountingEmbedder(ColorEmbedder):
    """Counts what it embeds."""

    count = 0

    def embed(self, images):
        self.count += len(images)
        return super().embed(images)


def write(file, seed):
    file.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def photos(tmp_path):
    for number in range(6):
        write(tmp_path / "photos" / f"class{number % 2}" / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.fixture
def embedder():
    return CountingEmbedder()


@pytest.fixture
def index(tmp_path, photos, embedder):
    with Index.create(tmp_path / "x.index", embedder) as index:
        result = index.sync(str(photos))
        assert (result.added, embedder.count) == (6, 6)
        embedder.count = 0
        yield index


def counts(result):
    return result.added, result.changed, result.renamed, result.removed, result.unchanged


def by_name(index):
    return {Path(item.path).name: item for item in index.items()}


def test_labels_are_subfolders_and_paths_absolute(index, photos):
    assert {(item.path, item.label) for item in index.items()} == {
        (str(photos / f"class{number % 2}" / f"{number}.png"), f"class{number % 2}") for number in range(6)
    }
    item = by_name(index)["3.png"]
    assert (item.width, item.height) == (30, 20)


def test_only_what_is_new_or_changed_is_embedded(index, photos, embedder):
    assert counts(index.sync(str(photos))) == (0, 0, 0, 0, 6)
    assert embedder.count == 0
    before = by_name(index)
    write(photos / "class1" / "1.png", 100)  # other contents
    os.utime(photos / "class0" / "2.png", (1, 1))  # another time
    write(photos / "class0" / "new.png", 7)
    (photos / "class0" / "4.png").unlink()
    (photos / "class9").mkdir()
    (photos / "class0" / "0.png").rename(photos / "class9" / "moved.png")
    result = index.sync(f"folder:{photos}")
    assert (counts(result), embedder.count) == ((1, 1, 1, 1, 3), 2)
    after = by_name(index)
    assert set(after) == {"1.png", "2.png", "3.png", "5.png", "new.png", "moved.png"}
    assert after["moved.png"].id == before["0.png"].id
    assert after["moved.png"].label == "class9"
    assert after["1.png"].id != before["1.png"].id
    for item in after.values():
        assert np.array_equal(index.vectors([item.id]), embedder.embed([item.path]).astype(np.float32))
    assert counts(index.sync(str(photos))) == (0, 0, 0, 0, 6)
    assert index.verify().problems == []


def test_files_that_are_no_images_any_more_are_removed_and_those_that_cannot_be_opened_stay(index, photos, monkeypatch):
    (photos / "class1" / "1.png").write_bytes(b"no image")
    (photos / "class1" / "3.png").write_bytes(b"")
    open_at_once = artifacts._open_at_once

    def refuse(path, flags):
        if path.endswith("5.png"):
            raise PermissionError(13, "Permission denied", path)
        return open_at_once(path, flags)

    monkeypatch.setattr(artifacts, "_open_at_once", refuse)
    os.utime(photos / "class1" / "5.png", (1, 1))
    result = index.sync(str(photos))
    assert counts(result) == (0, 0, 0, 2, 3)
    assert [Path(error.name).name for error in result.skipped] == ["1.png", "3.png", "5.png"]
    assert set(by_name(index)) == {"0.png", "2.png", "4.png", "5.png"}


def test_pictures_whose_folder_is_gone_in_the_middle_stay(index, photos, embedder, monkeypatch):
    """As on a disk that is unplugged: the next synchronization finds what is left."""
    for file in photos.rglob("*.png"):
        os.utime(file, (0, 0))
    found = find_pictures(str(photos))
    photos.rename(photos.with_name("elsewhere"))
    result = index.sync(found)
    assert (len(result.skipped), result.removed, len(index), embedder.count) == (6, 0, 6, 0)
    photos.with_name("elsewhere").rename(photos)
    assert counts(index.sync(str(photos))) == (0, 0, 0, 0, 6)


def test_a_swap_of_two_files_and_a_copy_of_one_that_is_gone(index, photos, embedder):
    first, second = photos / "class0" / "0.png", photos / "class0" / "2.png"
    first.rename(photos / "swap.png")
    second.rename(first)
    (photos / "swap.png").rename(second)
    third = photos / "class0" / "4.png"
    shutil.copy(third, photos / "twin.png")
    third.rename(photos / "class1" / "other.png")
    os.utime(first, (5, 5))
    os.utime(second, (6, 6))
    index.sync(str(photos))
    for item in index.items():
        assert np.array_equal(index.vectors([item.id]), embedder.embed([item.path]).astype(np.float32)), item.path
    assert set(by_name(index)) == {"0.png", "1.png", "2.png", "3.png", "5.png", "twin.png", "other.png"}
    assert index.verify().problems == []


def test_sources_do_not_remove_each_others_items_and_labels_are_brought_up_to_date(index, photos, tmp_path, embedder):
    other = write(tmp_path / "others" / "a.png", 50)
    table = tmp_path / "shop.csv"
    table.write_text(f"path,label,price\n{other},mug,3\nphotos/class0/0.png,cup,4\n")
    assert counts(index.sync(str(table))) == (1, 0, 0, 0, 1)
    found = by_name(index)
    assert (found["a.png"].metadata, found["0.png"].label, found["0.png"].metadata) == (
        {"price": 3},
        "cup",
        {"price": 4},
    )
    table.write_text(f"path,label,price\n{other},jug,3.5\n")
    embedder.count = 0
    assert counts(index.sync(find_pictures(str(table)))) == (0, 0, 0, 1, 1)
    assert embedder.count == 0
    assert by_name(index)["a.png"].label == "jug"
    assert len(index) == 6


def test_labels_and_metadata_of_another_source_are_never_lost(index, photos, tmp_path):
    table = tmp_path / "shop.csv"
    rows = [f"{file},item,{number}" for number, file in enumerate(sorted(photos.rglob("*.png")))]
    table.write_text("\n".join(["path,label,price", *rows, ""]))
    result = index.sync(str(table))
    assert (counts(result), result.relabeled) == ((0, 0, 0, 0, 6), 6)
    assert str(result).endswith("6 unchanged; labels or metadata of 6 are others now")
    before = index.items()
    for source, count in ((photos, 6), (photos / "class0", 3), (photos / "class0" / "0.png", 1)):
        with pytest.raises(SourceConflictError, match=f"{photos}.*: {count} pictures? of it .* csv:{table}, "):
            index.sync(str(source))
        assert index.items() == before
    result = index.sync(str(table))
    assert (counts(result), result.relabeled) == ((0, 0, 0, 0, 6), 0)
    index.remove_source(f"csv:{table}")
    assert counts(index.sync(str(photos))) == (6, 0, 0, 0, 0)
    with pytest.raises(SourceConflictError, match="3 pictures"):
        index.sync(str(photos / "class0"))  # without labels


def test_the_next_version_of_a_table_may_lack_what_the_former_had(index, photos, tmp_path, embedder):
    files = sorted(photos.rglob("*.png"))
    first, second = tmp_path / "shop-1.csv", tmp_path / "shop-2.csv"
    first.write_text("\n".join(["path,label,price", *(f"{file},mug,3" for file in files), ""]))
    second.write_text("\n".join(["path,label", *(f"{file},cup" for file in files), ""]))
    index.sync(str(first))
    with pytest.raises(SourceConflictError, match=f"from csv:{first}, and the metadata 'price' of {files[0]} would be"):
        index.sync(str(second))
    first.unlink()
    embedder.count = 0
    result = index.sync(str(second))
    assert (counts(result), result.relabeled, embedder.count) == ((0, 0, 0, 0, 6), 6, 0)
    with pytest.raises(SourceConflictError, match=f"{photos}: 6 pictures of it .*csv:{second}, and the label 'cup' of"):
        index.sync(str(photos))  # its labels are others


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_a_link_that_is_switched_to_the_next_release_is_the_same_source(kind, photos, embedder, tmp_path):
    releases = [Path(shutil.copytree(photos, tmp_path / name)) for name in ("r1", "r2")]
    gone = sorted(releases[1].rglob("*.png"))[0]
    gone.unlink()
    for release in releases:
        names = [str(file.relative_to(release)) for file in sorted(release.rglob("*.png"))]
        (release / "list.csv").write_text("\n".join(["path", *names, ""]))
    (tmp_path / "current").symlink_to("r1")
    data = str(tmp_path / "current" / ("list.csv" if kind == "csv" else ""))
    with Index.create(tmp_path / "x.index", embedder) as index:
        assert index.sync(data).added == 6
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("r2")
        assert counts(index.sync(data)) == (0, 0, 0, 1, 5)
        assert gone.name not in by_name(index)


def test_what_was_added_one_by_one_is_not_lost(photos, embedder, tmp_path):
    pictures = [Picture(file, "mine", {"price": 1}) for file in sorted((photos / "class0").iterdir())]
    with Index.create(tmp_path / "x.index", embedder) as index:
        added = index.add(pictures)
        with pytest.raises(SourceConflictError, match=r"3 pictures of it were added .* one by one, .*'mine' of"):
            index.sync(str(photos))
        index.remove(added.ids)
        assert counts(index.sync(str(photos))) == (6, 0, 0, 0, 0)


def test_metadata_of_a_table_that_is_gone_do_not_move_to_a_folder(photos, embedder, tmp_path):
    names = [f"{file},{number}" for number, file in enumerate(sorted(photos.rglob("*.png")))]
    (tmp_path / "list.csv").write_text("\n".join(["path,price", *names, ""]))
    with Index.create(tmp_path / "x.index", embedder) as index:
        index.sync(str(tmp_path / "list.csv"))
        (tmp_path / "list.csv").unlink()
        photos.rename(tmp_path / "moved")
        result = index.sync(str(tmp_path / "moved"))
        assert (counts(result), result.lost) == ((6, 0, 0, 0, 0), {f"csv:{tmp_path}/list.csv": 6})


def test_a_synchronization_that_was_interrupted_is_finished_by_the_next(tmp_path, photos, embedder, monkeypatch):
    monkeypatch.setattr("ccpml.serving.embedding._PICTURES", 2)
    with Index.create(tmp_path / "y.index", embedder) as index:

        def interrupt(count):
            if len(index) == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            index.sync(str(photos), interrupt)
        assert len(index) == 4
        assert index.verify().problems == []
        assert counts(index.sync(str(photos))) == (2, 0, 0, 0, 4)
        assert embedder.count == 6


def test_an_index_in_the_folder_that_it_is_made_of_does_not_hold_its_own_files(photos, embedder):
    with Index.create(photos / "x.index", embedder) as index:
        write(photos / "x.index" / "pictures" / "uploaded.png", 9)
        assert counts(index.sync(str(photos))) == (6, 0, 0, 0, 0)
        assert counts(index.sync(str(photos))) == (0, 0, 0, 0, 6)


def test_names_that_are_not_utf_8(tmp_path, embedder):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    file = write(tmp_path / "x.png", 1)
    file.rename(os.fsdecode(folder + b"/\xff.png"))
    with Index.create(tmp_path / os.fsdecode(b"\xe9.index"), embedder) as index:
        assert index.sync(str(tmp_path / os.fsdecode(b"caf\xe9"))).added == 1
        assert index.sync(str(tmp_path)).unchanged == 1
        item = index.items()[0]
        assert os.fsencode(item.path) == folder + b"/\xff.png"
        assert os.fsencode(item.label) == b"caf\xe9"
        assert index.verify().problems == []


def damage(index):
    """Damage the row of 0.png, the thumbnail of 1.png and the label of 2.png."""
    rows = index.path / "rows.1.f32"
    content = bytearray(rows.read_bytes())
    content[(by_name(index)["0.png"].id - 1) * 4 * index.embedding_dim] ^= 1
    rows.write_bytes(content)
    with closing(sqlite3.connect(index.path / "index.sqlite")) as db, db:
        db.execute("UPDATE thumbnails SET jpeg = x'00' WHERE id = ?", (by_name(index)["1.png"].id,))
        db.execute("UPDATE items SET label = 'mugs' WHERE id = ?", (by_name(index)["2.png"].id,))


def test_what_is_damaged_is_embedded_again_and_nothing_else(index, photos, embedder):
    def vectors_and_labels():
        return {name: (item.label, *index.vectors([item.id])[0]) for name, item in by_name(index).items()}

    before = vectors_and_labels()
    damage(index)
    assert len(index.verify().damaged) == 3
    result = index.sync(str(photos))
    assert (result.mended, result.unchanged, embedder.count) == (3, 3, 3)
    assert str(result) == "0 added, 0 changed, 0 renamed, 0 removed, 3 unchanged, 3 mended"
    assert index.verify() == (6, [], [], set())
    assert vectors_and_labels() == before
    index.compact()
    assert index.verify().problems == []


def test_a_damaged_vector_does_not_move_with_a_renamed_file(index, photos, embedder):
    expected = index.vectors([by_name(index)["0.png"].id])
    damage(index)
    (photos / "class0" / "0.png").rename(photos / "class0" / "new.png")
    (photos / "class1" / "1.png").unlink()
    result = index.sync(str(photos))
    assert (*counts(result), result.mended) == (1, 0, 0, 2, 3, 1)
    assert (index.vectors([by_name(index)["new.png"].id]) == expected).all()
    assert index.verify().problems == []


def test_a_folder_that_was_moved_keeps_vectors_and_ids_and_what_is_lost_is_counted(index, photos, embedder, tmp_path):
    before = {item.content_hash: item.id for item in index.items()}
    new = tmp_path / "archive" / "2026"
    new.parent.mkdir()
    photos.rename(new)
    (new / "class1" / "5.png").unlink()
    (new / "class0" / "0.png").rename(new / "class1" / "other.png")
    write(new / "class0" / "new.png", 7)
    result = index.sync(str(new))
    assert (counts(result), embedder.count) == ((1, 0, 5, 0, 0), 1)
    assert result.lost == {f"folder:{photos}": 1}
    assert index.sources() == {f"folder:{new}": 6, f"folder:{photos}": 1}
    after = {item.content_hash: item for item in index.items()}
    assert {key: after[key].id for key in before} == before
    assert sum(Path(item.path).exists() for item in after.values()) == 6
    assert {Path(item.path).name: item.label for item in after.values()}["other.png"] == "class1"
    assert (counts(index.sync(str(new))), index.sync(str(new)).lost) == ((0, 0, 0, 0, 6), {f"folder:{photos}": 1})
    assert index.remove_source(f"folder:{photos}") == 1
    assert (index.sources(), index.sync(str(new)).lost, index.verify().problems) == ({f"folder:{new}": 6}, {}, [])
    with pytest.raises(ValueError, match=f"expected a source of the index .folder:{new}., got folder:{photos}"):
        index.remove_source(f"folder:{photos}")


@pytest.mark.parametrize("kind", ["csv", "pattern"])
def test_a_table_or_the_folder_of_a_pattern_may_move_too(kind, photos, embedder, tmp_path):
    names = [str(file.relative_to(photos)) for file in sorted(photos.rglob("*.png"))]
    (photos / "list.csv").write_text("\n".join(["path", *names, ""]))
    name = {"csv": "{}/list.csv", "pattern": "{}/*/*.png"}[kind]
    with Index.create(tmp_path / "x.index", embedder) as index:
        index.sync(name.format(photos))
        photos.rename(tmp_path / "moved")
        result = index.sync(name.format(tmp_path / "moved"))
        assert (counts(result), result.lost) == ((0, 0, 6, 0, 0), {})


def test_pictures_of_a_source_that_exists_or_whose_files_do_are_not_taken_for_moved(photos, embedder, tmp_path):
    names = [str(file.relative_to(tmp_path)) for file in sorted(photos.rglob("*.png"))]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path", *names, ""]))
    with Index.create(tmp_path / "x.index", embedder) as index:
        index.sync(str(table))
        assert counts(index.sync(str(shutil.copytree(photos, tmp_path / "copy")))) == (6, 0, 0, 0, 0)
        table.unlink()  # its pictures are still there
        result = index.sync(str(shutil.copytree(photos, tmp_path / "another")))
        assert (counts(result), result.lost) == ((6, 0, 0, 0, 0), {f"csv:{table}": 6})

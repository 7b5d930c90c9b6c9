"""The index as a whole: creation, opening, what is found, and readers beside a writer."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml.files import WriteError
from ccpml.serving import (
    DamagedIndexError,
    FilterError,
    Index,
    IndexBusyError,
    NotAnIndexError,
    OtherModelError,
    Picture,
    Pictures,
)
from tests.locks import held_by_another_process
from tests.serving.changes import EMBEDDER, picture, state_of
from tests.serving.embedders import ColorEmbedder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "made.index", EMBEDDER) as index:
        index.add(picture(number, 1) for number in range(10))
        yield index


def test_what_is_added_is_found_after_opening_again_and_removed_items_are_not(tmp_path, photos):
    embedder = ColorEmbedder()
    (photos / "broken.png").write_bytes(b"none")
    with Index.create(tmp_path / "x.index", embedder) as index:
        added = index.add(sorted(photos.iterdir()))
        assert len(added.ids) == len(index) == 7
        assert [error.name for error in added.skipped] == [str(photos / "broken.png")]
        assert index.remove([added.ids[3]]) == 1
    with Index.open(tmp_path / "x.index", embedder) as index:
        vectors = embedder.embed([photos / f"{number}.png" for number in range(7)])
        hits = index.search(vectors, k=10)
        for number, found in enumerate(hits):
            kept = [other for other in range(7) if other != 3]
            expected = np.linalg.norm(vectors[kept] - vectors[number], axis=1)
            assert [hit.distance for hit in found] == pytest.approx(np.sort(expected).tolist(), abs=1e-3)
            assert [hit.item.id for hit in found] == [kept[i] + 1 for i in np.argsort(expected)]
        assert index.thumbnail(1).startswith(b"\xff\xd8")


def test_an_index_is_bound_to_its_model(tmp_path):
    Index.create(tmp_path / "x.index", ColorEmbedder(2)).close()
    with pytest.raises(OtherModelError, match=r"expected the model that the index was made with \(.*runs/colors\)"):
        Index.open(tmp_path / "x.index", ColorEmbedder(3))
    with Index.open(tmp_path / "x.index") as index, pytest.raises(ValueError, match="opened without its model"):
        index.add(["a.png"])


def test_an_item_is_replaced_by_a_picture_with_its_path_and_ids_are_not_used_again(index):
    first = {item.path: item.id for item in index.items()}
    assert index.add([picture(3, 2), picture(3, 3), picture(20, 1)]).ids == [11, 12, 13]
    assert state_of(index) == {**dict.fromkeys(range(10), 1), 3: 3, 20: 1}
    assert index.remove([first["made[3]"], 12, 12, 10**30, -1]) == 1
    assert index.compact() == (10, 3)
    assert index.add([picture(3, 4)]).ids == [14]
    assert index.items(after=10, limit=1)[0].id == 13
    summary = index.summary(examples=3)
    assert (summary.items, summary.labels, summary.columns) == (11, 3, ["number", "version"])
    assert summary.examples == [1, 7, 14]
    with pytest.raises(KeyError, match="no item has the id 12"):
        index.vectors([1, 12])


def test_compaction_makes_the_files_smaller_and_keeps_every_vector(index):
    index.add(picture(number, 1) for number in range(10, 100))
    before = {item.id: index.vectors([item.id])[0].tolist() for item in index.items()}
    index._store.shrink()  # moves what is in the log to the database
    size = (index.path / "index.sqlite").stat().st_size
    index.remove(range(1, 90))
    assert index.compact() == (11, 89)
    assert {item.id: index.vectors([item.id])[0].tolist() for item in index.items()} == {
        key: vector for key, vector in before.items() if key >= 90
    }
    assert (index.path / "rows.2.f32").stat().st_size == 11 * 12 * 4
    assert not (index.path / "rows.1.f32").exists()
    assert (index.path / "index.sqlite").stat().st_size < size / 2
    assert index.verify() == (11, [], [], set())


def test_a_damaged_row_is_not_compacted(index):
    index.remove([1])
    rows = index.path / "rows.1.f32"
    content = bytearray(rows.read_bytes())
    content[5 * 12 * 4 + 2] ^= 1
    rows.write_bytes(content)
    before = {file.name for file in index.path.iterdir()}
    message = r"rows.1.f32: row 5 of item 6 \(made\[5\]\): expected the checksum \w{8}, got \w{8}; nothing was changed"
    with pytest.raises(DamagedIndexError, match=message):
        index.compact()
    assert {file.name for file in index.path.iterdir()} == before
    assert (index.num_rows, len(index)) == (10, 9)
    index.remove([6])
    assert index.compact() == (8, 2)
    assert index.verify().problems == []


def test_a_field_of_removed_items_is_known_until_the_compaction(index):
    added = index.add([Picture(Path("x"), image=np.zeros((4, 6), np.uint8), metadata={"price": 3})])
    index.remove(added.ids)
    assert index.search(np.zeros(12), where="price = 3") == [[]]
    index.compact()
    with pytest.raises(FilterError, match=r"price: unknown field; the index has id, .*, number, version; "):
        index.search(np.zeros(12), where="price = 3")


def test_embeddings_that_are_not_finite_are_refused(index, monkeypatch):
    monkeypatch.setattr(EMBEDDER, "embed", lambda images: np.full((len(images), 12), np.nan), raising=False)
    with pytest.raises(ValueError, match=r"expected finite embeddings, got NaN or infinity for made\[40\]"):
        index.add([picture(40, 1)])
    monkeypatch.setattr(EMBEDDER, "embed", lambda images: np.ones((len(images), 5)), raising=False)
    with pytest.raises(ValueError, match=r"expected embeddings of shape \(1, 12\), got \(1, 5\)"):
        index.add([picture(40, 1)])
    assert len(index) == 10
    assert index.verify().problems == []


def test_rows_that_no_embedding_can_be_are_named(index):
    file = index.path / "rows.1.f32"
    file.write_bytes(np.full(file.stat().st_size // 4, 1e9, np.float32).tobytes())
    with pytest.raises(DamagedIndexError, match=r"rows\.1\.f32: damaged \(rows: expected vectors of length 1 or less"):
        index.search(np.zeros(12))


def test_pictures_in_memory_and_huge_ones(index, monkeypatch):
    gray = np.full((4, 6), 9, np.uint8)
    added = index.add([Picture(Path("gray"), image=gray), Picture(Path("color"), image=np.zeros((4, 6, 3), np.uint8))])
    assert (index.item(added.ids[0]).width, index.item(added.ids[0]).height, added.skipped) == (6, 4, [])
    monkeypatch.setattr("ccpml.data.images.read.MAX_PIXELS", 23)
    skipped = index.add([Picture(Path("huge"), image=gray)]).skipped
    assert [(error.name, error.reason[:9]) for error in skipped] == [("huge", "too large")]


def test_readers_in_threads_see_whole_transactions_while_a_writer_adds_removes_and_compacts(index):
    failures, done = [], threading.Event()

    def read():
        try:
            with Index.open(index.path, EMBEDDER) as other:
                while not done.is_set():
                    for one in (index, other):
                        with one.view() as view:
                            items = view.snapshot.items()
                            assert len(items) == view.snapshot.num_items == view.snapshot.num_rows - len(view.removed)
                            versions = {item.metadata["version"] for item in items if item.metadata["number"] < 10}
                            assert len(versions) == 1  # the ten are replaced together
                            row, item = view.snapshot.find(items[0].id)
                            number, version = item.metadata["number"], item.metadata["version"]
                            expected = EMBEDDER.embed([picture(number, version).image])[0]
                            assert np.array_equal(view.rows[row], expected)
                        assert len(one.search(expected, k=3)[0]) == 3
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for version in range(2, 10):
        index.add(picture(number, version) for number in range(10))
        if version % 4 == 0:
            index.compact()
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []


def test_a_reader_in_another_process_sees_what_is_written_meanwhile(index):
    code = """if True:
        import sys
        from ccpml.serving import Index
        from tests.serving.changes import state_of
        with Index.open(sys.argv[1]) as index:
            for line in sys.stdin:
                print(sorted(state_of(index)), flush=True)
        """
    command = [sys.executable, "-c", code, str(index.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as reader:

        def seen():
            reader.stdin.write("\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        assert seen() == str(list(range(10)))
        index.add([picture(10, 1)])
        assert seen() == str(list(range(11)))
        index.remove([1])
        index.compact()
        assert seen() == str(list(range(1, 11)))
        reader.stdin.close()
        assert reader.wait() == 0


def test_a_second_writer_is_told_and_readers_are_not_disturbed(index, monkeypatch):
    monkeypatch.setattr("ccpml.serving.writer._PATIENCE", 0.05)
    with held_by_another_process(index.path / "write.lock") as other:
        with pytest.raises(IndexBusyError, match="another process is writing to this index; wait for it or stop it"):
            index.add([picture(11, 1)])
        assert len(state_of(index)) == 10
        other.kill()
        other.wait()
        index.add([picture(11, 1)])  # a dead process holds no lock
    with index._writer.lock(), pytest.raises(IndexBusyError, match="another thread"):
        index.remove([1])


def test_creation_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.index"
    Index.create(path, EMBEDDER).close()
    with pytest.raises(FileExistsError, match="already exists"):
        Index.create(path, EMBEDDER)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ccpml.serving.index.write_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        Index.create(tmp_path / "y.index", EMBEDDER)
    assert [file.name for file in tmp_path.iterdir()] == ["x.index"]


def test_an_index_on_a_read_only_medium_can_be_searched(index, monkeypatch):
    index.close()
    monkeypatch.setattr("ccpml.serving.storage.store.os.access", lambda path, mode: False)
    files = sorted(file.name for file in index.path.iterdir())
    with Index.open(index.path, EMBEDDER) as other:
        assert len(state_of(other)) == 10
        assert sorted(file.name for file in index.path.iterdir()) == files  # no -wal, no -shm
        shutil.move(index.path / "write.lock", index.path / "old.lock")
        os.mkdir(index.path / "write.lock")  # noqa: PTH102 -- an unwritable lock, for root too
        with pytest.raises(WriteError, match=r"write.lock: cannot be written"):
            other.remove([1])
    (index.path / "index.sqlite-wal").write_bytes(b"left by a killed writer")
    with pytest.raises(NotAnIndexError, match="left by an interrupted writer in a folder that cannot be written"):
        Index.open(index.path)


def damage_cut(file):
    os.truncate(file, file.stat().st_size // 2)


def damage_zero(file):
    file.write_bytes(bytes(file.stat().st_size))


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"garbage" * 1000),
    "zeros": damage_zero,
    "cut": damage_cut,
}


def problems_of(path):
    try:
        with Index.open(path, EMBEDDER) as index:
            return index.verify().problems
    except NotAnIndexError as error:
        return [str(error)]


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["index.sqlite", "rows.1.f32"])
def test_damaged_files_are_named(index, name, kind):
    index.close()
    DAMAGES[kind](index.path / name)
    problems = problems_of(index.path)
    assert problems
    assert all("\n" not in sentence for sentence in problems)
    assert name == "rows.1.f32" or name in problems[0]


def test_flipped_bits_are_found_by_verify(index):
    index.close()
    rows = index.path / "rows.1.f32"
    content = bytearray(rows.read_bytes())
    content[5 * 12 * 4 + 2] ^= 1
    rows.write_bytes(content)
    db = sqlite3.connect(index.path / "index.sqlite")
    db.execute("UPDATE items SET label = 'mugs' WHERE id = 3")
    db.execute("UPDATE thumbnails SET jpeg = x'00' WHERE id = 4")
    db.execute("UPDATE state SET num_items = 11")
    db.commit()
    db.close()
    with Index.open(index.path) as other:
        assert other.verify().problems == [
            "item 3 (made[2]): path, label or another column differs from its checksum",
            "item 6 (made[5]): row 5 differs from its checksum",
            "expected 11 items, got 10",
            "item 4: its thumbnail is missing or differs from its checksum",
        ]


def test_other_versions_and_other_databases_are_refused(index, tmp_path):
    index.close()
    db = sqlite3.connect(index.path / "index.sqlite")
    db.execute("UPDATE meta SET value = '9' WHERE key = 'version'")
    db.commit()
    db.close()
    with pytest.raises(NotAnIndexError, match="expected an index of format 1, got 9"):
        Index.open(index.path)
    (tmp_path / "other").mkdir()
    with pytest.raises(NotAnIndexError, match=r"other: not an index \(index.sqlite not found\)"):
        Index.open(tmp_path / "other")
    sqlite3.connect(tmp_path / "other" / "index.sqlite").close()
    with pytest.raises(NotAnIndexError, match="not the database of an index"):
        Index.open(tmp_path / "other")
    with pytest.raises(NotAnIndexError, match=r"none.index: not an index \(not found\)"):
        Index.open(tmp_path / "none.index")
    (index.path / "index.sqlite").unlink()
    with pytest.raises(DamagedIndexError, match="restore all of the index from a copy, or build it again"):
        Index.open(index.path)


FILTERS = [
    "price < 5",
    "not price < 5",
    "price is null",
    "color in ('red', 3) or price = 2",
    "sold = true",
    "color contains 'E'",
]


def test_filters_follow_changes_of_metadata_and_serve_indexes_of_before(tmp_path):
    metadata = [
        {"price": 2},
        {"price": "2"},
        {"price": 7.5, "color": "red"},
        {"color": None, "sold": True},
        {"color": 3},
    ]
    pictures = [
        Picture(Path(f"made[{n}]"), "", facts, np.full((4, 4, 3), 40 * n, np.uint8)) for n, facts in enumerate(metadata)
    ]

    def found(index, filters=FILTERS):
        query = np.ones(index.embedding_dim) / index.embedding_dim**0.5
        return [sorted(hit.item.id for hit in index.search(query, 9, where)[0]) for where in filters]

    path = tmp_path / "x.index"
    with Index.create(path, ColorEmbedder()) as index:
        index.add(pictures)
        expected = [[1], [2, 3, 4, 5], [4, 5], [1, 3, 5], [4], [3]]
        assert found(index) == expected
    with closing(sqlite3.connect(path / "index.sqlite")) as db, db:
        db.executescript("DROP TRIGGER items_added; DROP TRIGGER items_changed; DROP TABLE fields")
    with Index.open(path, ColorEmbedder()) as index:
        assert found(index) == expected  # without the table
        index.remove([5])
        with closing(sqlite3.connect(path / "index.sqlite")) as db:
            assert db.execute("SELECT count(*) FROM fields").fetchone() == (6,)
        changed = replace(pictures[0], metadata={"price": 9, "color": "green"})
        index.sync(Pictures("", [changed, *pictures[1:3]]))  # the fourth is gone
        assert found(index) == [[], [1, 2, 3], [], [3], [], [1, 3]]
        assert index.verify().problems == []
        with closing(sqlite3.connect(path / "index.sqlite")) as db, db:
            db.execute("DELETE FROM fields WHERE id = 1")
        assert "the fields for filters differ from the metadata" in index.verify().problems[0]
        index.compact()
        assert index.verify().problems == []
        assert found(index, FILTERS[:4]) == [[], [1, 2, 3], [], [3]]  # no item was ever sold, after the compaction

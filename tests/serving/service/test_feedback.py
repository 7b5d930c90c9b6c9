"""Verdicts: on the disk when acknowledged, and read by training as data."""

import csv
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.testclient import TestClient

from ccpml.data import load_source
from ccpml.serving import Index
from ccpml.serving.items import Item
from ccpml.serving.service import ServiceSettings, create_app
from ccpml.serving.service.feedback import Feedback, RecentQueries, Verdict, read_verdicts, table_of
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.uploads import Upload, check_upload
from tests.serving.embedders import ColorEmbedder
from tests.serving.service.conftest import LOCAL, encoded


def gray(shade: int) -> bytes:
    return encoded(np.full((20, 30, 3), shade, np.uint8))


def judge(client, hit, verdict, **query):
    response = client.post("/api/feedback", json={"id": hit, "verdict": verdict, **query})
    assert response.status_code == 201, response.text
    return response.json()["verdicts"]


def test_right_answers_become_data_that_training_reads(connect, index):
    client = connect(feedback=True)
    answer = client.post("/api/search", files={"picture": gray(90)}).json()
    assert not (index.path / "pictures").exists()
    assert judge(client, 6, "right", query_hash=answer["query"]["hash"]) == 1
    assert judge(client, 7, "right", query_id=8) == 2
    assert judge(client, 1, "wrong", query_hash=answer["query"]["hash"]) == 3
    source = load_source(f"csv:{index.path / 'feedback.csv'}")
    names = [source.table.name_of(row) for row in range(len(source.table))]
    labels = [source.table.class_names[label] for label in source.table.labels]
    assert labels == ["class1"] * 4
    assert (index.path / "pictures" / f"{answer['query']['hash']}.png").read_bytes() == gray(90)
    assert [name.rpartition("/")[2] for name in names[1:]] == ["1-0.png", "1-2.png", "1-1.png"]


@pytest.fixture
def photos(tmp_path):
    for label in ("cup", "mug"):
        for number in range(3):
            file = tmp_path / "photos" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gray(60 + 80 * (label == "mug") + number))
    return tmp_path / "photos"


def rows_of(path):
    with (path / "feedback.csv").open(newline="") as stream:
        return {tuple(row) for row in list(csv.reader(stream))[1:]}


def test_the_table_follows_pictures_that_move_and_labels_that_are_corrected(photos, tmp_path, capsys):
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        own.sync(photos.as_posix())
        client = TestClient(create_app(own, ColorEmbedder(), ServiceSettings(feedback=True)), base_url=LOCAL)
        judge(client, 1, "right", query_id=2)
        judge(client, 5, "right", query_id=6)
        moved = photos.rename(tmp_path / "disk")
        (moved / "mug").rename(moved / "glass")
        capsys.readouterr()
        judge(client, 1, "wrong", query_id=5)  # before the index knows
        assert "feedback.csv: leaves out 4 pictures (not found, or " in capsys.readouterr().err
        own.sync(moved.as_posix())
        judge(client, 1, "wrong", query_id=6)
        cups = {(f"{moved}/cup/{number}.png", "cup") for number in (0, 1)}
        assert rows_of(own.path) == cups | {(f"{moved}/glass/{number}.png", "glass") for number in (1, 2)}
        assert len(load_source(f"csv:{own.path / 'feedback.csv'}").table) == 4


def test_another_picture_under_the_old_name_does_not_take_the_place_of_one_that_was_renamed(photos, tmp_path):
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        own.sync(photos.as_posix())
        client = TestClient(create_app(own, ColorEmbedder(), ServiceSettings(feedback=True)), base_url=LOCAL)
        judge(client, 1, "right", query_id=2)
        (photos / "cup" / "1.png").rename(photos / "mug" / "old_1.png")
        own.sync(photos.as_posix())
        (photos / "cup" / "1.png").write_bytes(gray(250))
        own.sync(photos.as_posix())
        judge(client, 4, "wrong", query_id=5)
        assert rows_of(own.path) == {(f"{photos}/cup/0.png", "cup"), (f"{photos}/mug/old_1.png", "cup")}  # as its hit


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png"])
def test_a_picture_whose_name_a_table_cannot_hold_is_left_out(photos, tmp_path, capsys, name):
    (photos / "cup" / os.fsdecode(name)).write_bytes(gray(250))
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        own.sync(photos.as_posix())
        (odd,) = (item for item in own.items() if item.path.encode(errors="surrogateescape").endswith(name))
        client = TestClient(create_app(own, ColorEmbedder(), ServiceSettings(feedback=True)), base_url=LOCAL)
        other = next(item for item in own.items() if item.id != odd.id)
        judge(client, odd.id, "right", query_id=other.id)
        assert "feedback.csv: leaves out 1 picture (not found, or of a name" in capsys.readouterr().err
        assert [path for path, _ in rows_of(own.path)] == [other.path]


def test_a_label_that_was_cleared_is_none_any_more(photos, tmp_path):
    table, files = tmp_path / "list.csv", sorted(photos.glob("*/*.png"))
    labels = [file.parent.name for file in files]
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        for first in (labels[0], ""):
            rows = zip(files, [first, *labels[1:]], strict=True)
            table.write_text("path,label\n" + "".join(f"{file},{label}\n" for file, label in rows))
            own.sync(f"csv:{table}")
            client = TestClient(create_app(own, ColorEmbedder(), ServiceSettings(feedback=True)), base_url=LOCAL)
            judge(client, 1, "right", query_id=4)
        assert rows_of(own.path) == {(str(files[0]), "item-1"), (str(files[3]), "item-1")}


@pytest.mark.parametrize("label", ["bowl", ""])
def test_a_picture_that_is_added_again_with_another_label_stays_with_its_query(photos, tmp_path, label):
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        own.sync(photos.as_posix())
        settings = ServiceSettings(feedback=True, writable=True)
        client = TestClient(create_app(own, ColorEmbedder(), settings), base_url=LOCAL)
        for each in ("mug", label):
            files = {"picture": gray(250)}
            added = client.post("/api/items", files=files, data={"label": each}).json()["id"]
            judge(client, added if each == "mug" else 3, "right" if each == "mug" else "wrong", query_id=1)
        rows = rows_of(own.path)
        assert {name for _, name in rows} == {label or f"item-{added}"}
        assert len(rows) == 2


@pytest.mark.parametrize("label", ["cup", "bowl"])
def test_a_file_whose_contents_were_replaced_has_the_label_of_the_new_item(photos, tmp_path, label):
    table = tmp_path / "list.csv"
    files = sorted(photos.glob("*/*.png"))
    labels = {file: file.parent.name for file in files}
    table.write_text("path,label\n" + "".join(f"{file},{name}\n" for file, name in labels.items()))
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        own.sync(f"csv:{table}")
        client = TestClient(create_app(own, ColorEmbedder(), ServiceSettings(feedback=True)), base_url=LOCAL)
        hit, query, *_ = own.items()
        judge(client, hit.id, "right", query_id=query.id)
        for item, value in ((hit, 250), (query, 251)):
            Path(item.path).write_bytes(gray(value))
            labels[Path(item.path)] = label
        table.write_text("path,label\n" + "".join(f"{file},{name}\n" for file, name in labels.items()))
        assert own.sync(f"csv:{table}").changed == 2
        third, fourth = own.items()[2:4]
        judge(client, third.id, "wrong", query_id=fourth.id)
        assert rows_of(own.path) == {(hit.path, label), (query.path, label)}


def test_pictures_of_the_service_are_found_in_a_copied_index_that_may_not_be_written(photos, tmp_path):
    with Index.create(tmp_path / "own.index", ColorEmbedder()) as own:
        own.sync(photos.as_posix())
        app = create_app(own, ColorEmbedder(), ServiceSettings(writable=True))
        files = {"picture": encoded(np.full((20, 30, 3), (200, 30, 30), np.uint8))}
        added = TestClient(app, base_url=LOCAL).post("/api/items", files=files, data={"label": "red"}).json()["id"]
    shutil.copytree(own.path, tmp_path / "copy.index")
    own.path.rename(tmp_path / "old.index")
    with Index.open(tmp_path / "copy.index", ColorEmbedder()) as copy:
        client = TestClient(create_app(copy, ColorEmbedder(), ServiceSettings(feedback=True)), base_url=LOCAL)
        judge(client, added, "right", query_id=1)
        (own_row,) = (row for row in rows_of(copy.path) if row[1] == "red" and row[0].startswith("pictures/"))
        assert (copy.path / own_row[0]).is_file()


def test_a_later_verdict_replaces_the_one_before(connect, index):
    client = connect(feedback=True)
    judge(client, 6, "right", query_id=7)
    judge(client, 6, "wrong", query_id=7)
    assert not (index.path / "feedback.csv").exists()
    judge(client, 6, "right", query_id=7)
    assert len((index.path / "feedback.csv").read_text().splitlines()) == 3
    with (index.path / "verdicts.csv").open(newline="") as stream:
        assert [row["verdict"] for row in csv.DictReader(stream)] == ["right", "wrong", "right"]


def test_a_folder_that_cannot_be_written_is_named(connect, index, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ccpml.serving.service.feedback.FileLock", refuse)
    response = connect(feedback=True).post("/api/feedback", json={"query_id": 1, "id": 2, "verdict": "right"})
    assert response.status_code == 507
    assert response.json() == {"detail": "the disk of the service is full, or cannot be written to"}


def test_a_wrong_answer_keeps_no_picture(connect, index):
    client = connect(feedback=True)
    answer = client.post("/api/search", files={"picture": gray(90)}).json()
    judge(client, 1, "wrong", query_hash=answer["query"]["hash"])
    assert not (index.path / "pictures").exists()
    assert not (index.path / "feedback.csv").exists()


@pytest.mark.parametrize("comma", [b",", b"\xff;"])  # as a table program may write it
def test_a_picture_in_use_by_feedback_stays_when_its_item_is_removed(connect, index, comma):
    client = connect(feedback=True, writable=True)
    key = client.post("/api/items", files={"picture": gray(90)}, data={"label": "gray"}).json()["id"]
    judge(client, key, "right", query_id=1)
    table = index.path / "feedback.csv"
    assert len(load_source(f"csv:{table}").table) == 2
    table.write_bytes(table.read_bytes().replace(b",", comma))
    assert client.delete(f"/api/items/{key}").status_code == 204
    assert len(list((index.path / "pictures").iterdir())) == 1


def test_a_query_that_was_not_made_or_an_item_that_is_gone_is_named(connect):
    client = connect(feedback=True)
    for body, sentence in (
        ({"query_hash": "0" * 64, "id": 1}, "query_hash: no such picture was searched for lately; search again"),
        ({"query_id": 99, "id": 1}, "id: no item 99"),
        ({"query_id": 1, "id": 99}, "id: no item 99"),
    ):
        response = client.post("/api/feedback", json={**body, "verdict": "right"})
        assert (response.status_code, response.json()) == (404, {"detail": sentence})
    for body in ({"id": 1}, {"id": 1, "query_id": 2, "query_hash": "0" * 64}, {"id": 1, "query_hash": "../x"}):
        assert client.post("/api/feedback", json={**body, "verdict": "right"}).status_code == 422
    assert client.post("/api/feedback", json={"id": 1, "query_id": 2, "verdict": "maybe"}).status_code == 422


def item(key: int, path: str, label: str = "mug") -> Item:
    return Item(key, path, label, {}, "0" * 64, "0" * 16, 30, 20)


def without_items(folder):
    def item(key):
        raise KeyError(key)

    return SimpleNamespace(path=folder, version=0, item=item)


def test_a_line_that_was_cut_off_is_written_over(tmp_path):
    feedback = Feedback(without_items(tmp_path))
    feedback.record(item(1, "/a.png"), item(2, "/b.png"), "right", now=0)
    whole = (tmp_path / "verdicts.csv").read_bytes()
    for cut in range(1, 20):
        (tmp_path / "verdicts.csv").write_bytes(whole + whole.splitlines()[1][:cut])
        assert feedback.record(item(1, "/a.png"), item(3, "/c.png"), "wrong", now=0) == 2
    assert (tmp_path / "verdicts.csv").read_text() == (
        "time,query,query_path,id,path,label,verdict\n"
        "1970-01-01T00:00:00Z,1,/a.png,2,/b.png,mug,right\n"
        "1970-01-01T00:00:00Z,1,/a.png,3,/c.png,mug,wrong\n"
    )


@pytest.mark.parametrize("end", [b"", b"\r\n", b"a note", b"2026-11-28T00:00:00Z;1;/a.png;3;/c.png;mug;right"])
def test_what_an_editor_leaves_at_the_end_of_the_log_is_kept(tmp_path, capsys, end):
    feedback = Feedback(without_items(tmp_path))
    feedback.record(item(1, "/a.png"), item(2, "/b.png"), "right", now=0)
    log = tmp_path / "verdicts.csv"
    before = log.read_bytes()
    log.write_bytes((before if end.strip() else before.rstrip(b"\n")) + end)
    assert feedback.record(item(1, "/a.png"), item(3, "/c.png"), "right", now=0) == 2
    assert log.read_bytes().startswith(before.rstrip(b"\n"))
    assert end.strip() in log.read_bytes()
    assert bool(end.strip()) == ("1 line of another form" in capsys.readouterr().err)


def test_a_log_that_is_no_file_is_named(connect, index, caplog):
    (index.path / "verdicts.csv").mkdir()
    response = connect(feedback=True).post("/api/feedback", json={"id": 1, "query_id": 2, "verdict": "right"})
    assert response.status_code == 507
    assert f"{index.path / 'verdicts.csv'}" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b",", b";"),
        lambda line: b"\0" * 200_000,
        lambda line: line.replace(b"right", b"rigXt"),
    ],
)
def test_lines_of_the_log_that_are_damaged_are_noted_and_others_stay(tmp_path, capsys, damage):
    for name in "abc":
        (tmp_path / name).touch()
    feedback = Feedback(without_items(tmp_path))
    feedback.record(item(1, "a"), item(2, "b"), "right")
    feedback.record(item(1, "a"), item(3, "c"), "right")
    log = tmp_path / "verdicts.csv"
    header, first, second = log.read_bytes().splitlines()
    log.write_bytes(b"\r\n".join([header, damage(first), second, b""]))  # as a table program ends lines
    for count in (2, 3):
        assert feedback.record(item(1, "a"), item(4 + count, "a"), "right") == count
    assert capsys.readouterr().err.count(f"{log}: leaves out 1 line of another form; restore them from a copy") == 1
    assert (tmp_path / "feedback.csv").read_text() == "path,label\na,mug\nc,mug\n"


def test_a_log_that_a_table_program_has_saved_is_whole(tmp_path, capsys):
    feedback = Feedback(without_items(tmp_path))
    feedback.record(item(1, "/a.png"), item(2, "/b.png"), "right", now=0)
    log = tmp_path / "verdicts.csv"
    log.write_bytes(b"\xef\xbb\xbf" + log.read_bytes().replace(b"\n", b"\r\n") + b",,,,,,\r\n\r\n")
    assert feedback.record(item(1, "/a.png"), item(3, "/c.png"), "right", now=0) == 2
    assert "another form" not in capsys.readouterr().err


@pytest.mark.parametrize("label", ["a,b", 'say "mug"', "two\nlines", "=1+1", "ü", ""])
def test_labels_of_any_kind_survive(tmp_path, label):
    Feedback(without_items(tmp_path)).record(item(1, "/a.png", label), item(2, "/b.png", label), "right")
    ((verdict,), _) = read_verdicts((tmp_path / "verdicts.csv").read_bytes())
    assert verdict.label == (" ".join(label.splitlines()) or "item-2")


def test_two_processes_write_whole_lines(tmp_path):
    first, second = (Feedback(without_items(tmp_path)) for _ in range(2))
    for number in range(5):
        first.record(item(1, "/a.png"), item(number, "/b.png"), "right")
        assert second.record(item(2, "/a.png"), item(number, "/b.png"), "wrong") == 2 * number + 2


def verdict(query, path, key, hit, label, right=True):
    return Verdict("", query, path, str(key), hit, label, "right" if right else "wrong")


def test_each_image_is_in_the_table_once_and_a_hit_keeps_its_own_label():
    verdicts = [
        verdict("1", "q", 2, "b", "mug"),
        verdict("1", "q", 3, "c", "cup"),  # a query is of the first class that it was right for
        verdict("2", "b", 3, "c", "cup"),  # a hit elsewhere: its own label counts
        verdict("x", "", 4, "d", "jug"),
        verdict("1", "q", 5, "e", "pot", right=False),
    ]
    assert table_of(verdicts) == [("q", "mug"), ("b", "mug"), ("c", "cup"), ("d", "jug")]


def test_recent_queries_are_bounded_by_their_bytes():
    recent = RecentQueries(max_bytes=100)
    for number in range(5):
        recent.add(Upload(b"x" * 40, str(number), ".png", 1, 1))
        recent.add(Upload(b"x" * 40, str(number), ".png", 1, 1))
    assert recent.find("4").suffix == recent.find("3").suffix == ".png"
    with pytest.raises(RefusedError):
        recent.find("2")


def test_the_size_of_a_picture_is_that_of_the_upright_one():
    import io

    from PIL import Image

    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    Image.new("RGB", (40, 20)).save(content, "JPEG", exif=exif)
    upload = check_upload(content.getvalue(), 1000)
    assert (upload.width, upload.height, upload.suffix) == (20, 40, ".jpg")

"""Verdicts: on the disk when acknowledged, and read by training as data."""

import csv

import numpy as np
import pytest

from ccpml.data import load_source
from ccpml.serving.items import Item
from ccpml.serving.service.feedback import Feedback, RecentQueries, Verdict, read_verdicts, table_of
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.uploads import Upload, check_upload
from tests.serving.service.conftest import encoded


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


def test_a_picture_in_use_by_feedback_stays_when_its_item_is_removed(connect, index):
    client = connect(feedback=True, writable=True)
    key = client.post("/api/items", files={"picture": gray(90)}, data={"label": "gray"}).json()["id"]
    judge(client, key, "right", query_id=1)
    client.delete(f"/api/items/{key}")
    assert len(list((index.path / "pictures").iterdir())) == 1
    assert len(load_source(f"csv:{index.path / 'feedback.csv'}").table) == 2


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


def test_a_line_that_was_cut_off_is_written_over(tmp_path):
    feedback = Feedback(tmp_path)
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


@pytest.mark.parametrize("label", ["a,b", 'say "mug"', "two\nlines", "=1+1", "ü", ""])
def test_labels_of_any_kind_survive(tmp_path, label):
    Feedback(tmp_path).record(item(1, "/a.png", label), item(2, "/b.png", label), "right")
    (verdict,) = read_verdicts((tmp_path / "verdicts.csv").read_bytes())
    assert verdict.label == (" ".join(label.splitlines()) or "item-2")


def test_two_processes_write_whole_lines(tmp_path):
    first, second = Feedback(tmp_path), Feedback(tmp_path)
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

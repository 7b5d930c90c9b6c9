import csv
import io
import json

import pytest

from ccpml.calibration import Certificate
from ccpml.data.images.read import BadImageError
from ccpml.serving import Hit, Item, Picture, Query, Reply
from ccpml.serving.search.answers import CsvAnswers, JsonAnswers, TextAnswers, cell_len, shorten

LONG = "/data/" + "very/deep/" * 12 + "中文文件名.jpg"


def item(key, path, label, **metadata):
    return Item(key, path, label, metadata, "c" * 64, "p" * 16, 30, 20)


HITS = [
    Hit(item(7, "/photos/a.jpg", "mug", price=7.5, id="M-1"), 0.0, 1),
    Hit(item(123456, LONG, "größe " * 10, price=None), 0.51234, 2),
    Hit(item(8, "/photos/\x1b[31m\n.jpg", "", price=True), 1.25, 3),
]
REPLIES = [
    Reply(Query([Picture("q.jpg")]), "mug", HITS),
    Reply(Query([Picture("bad.jpg")]), "", None, skipped=[BadImageError("truncated", "bad.jpg")]),
    Reply(Query(ids=[3, 4]), "", []),
]


def printed(printer, capsys):
    for reply in REPLIES:
        printer.reply(reply)
    printer.end()
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    lines = printed(TextAnswers(None, "no answer"), capsys).splitlines()
    assert max(cell_len(line) for line in lines) == columns
    assert lines[0] == "q.jpg  (mug)"
    assert lines[1].split() == ["rank", "id", "distance", "label", "path"]
    assert lines[2].split() == ["1", "7", "0.0000", "mug", "/photos/a.jpg"]
    assert lines[3].startswith("   2  123456    0.5123  größe g…öße größe größe ")
    assert lines[3].endswith("中文文件名.jpg")
    assert lines[4].split() == ["3", "8", "1.2500", "/photos/�[31m�.jpg"]
    assert lines[5:] == ["", "id 3, id 4", "no answer"]


def test_paths_are_whole_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(TextAnswers(None, "no answer"), capsys).splitlines()
    assert lines[3].endswith(f"  {LONG}")


def test_json_is_one_document(capsys):
    found = json.loads(printed(JsonAnswers(None, {"index": "x.index", "k": 3}), capsys))
    assert (found["index"], found["k"]) == ("x.index", 3)
    assert found["unreadable"] == [{"path": "bad.jpg", "reason": "truncated"}]
    first, second, third = found["queries"]
    assert first["paths"] == ["q.jpg"]
    assert [hit["path"] for hit in first["hits"]] == [hit.item.path for hit in HITS]
    assert first["hits"][0]["metadata"] == {"price": 7.5, "id": "M-1"}
    assert (second["hits"], third["hits"], third["ids"]) == (None, [], [3, 4])
    printer = JsonAnswers(None, {})
    printer.end()
    assert json.loads(capsys.readouterr().out) == {"queries": [], "unreadable": []}


def test_csv_has_a_column_for_each_of_metadata(capsys):
    rows = list(csv.DictReader(io.StringIO(printed(CsvAnswers(None, ["id", "price"]), capsys))))
    assert len(rows) == 3
    assert rows[0] == {
        "query": "q.jpg", "rank": "1", "distance": "0.0", "id": "7", "path": "/photos/a.jpg", "label": "mug",
        "metadata.id": "M-1", "price": "7.5",
    }  # fmt: skip
    assert [row["price"] for row in rows] == ["7.5", "", "true"]
    assert rows[2]["path"] == HITS[2].item.path


def test_columns_of_csv_have_the_names_by_which_filters_find_them(capsys):
    header = printed(CsvAnswers(None, ["width", "rank", "price"]), capsys).splitlines()[0]
    assert header == "query,rank,distance,id,path,label,metadata.width,metadata.rank,price"


def test_certified_precisions_are_those_of_answers_that_the_certificate_covers(capsys):
    certificate = Certificate("0" * 64, 0.95, {0.8: 0.6, 0.9: 0.1}, answers=2)
    lines = printed(TextAnswers(certificate, "no answer"), capsys).splitlines()
    assert [line.split()[3] for line in lines[1:5]] == ["certified", "0.9", "0.8", "-"]
    found = json.loads(printed(JsonAnswers(certificate, {}), capsys))["queries"][0]["hits"]
    assert [hit["certified_precision"] for hit in found] == [0.9, 0.8, None]
    rows = list(csv.DictReader(io.StringIO(printed(CsvAnswers(certificate, []), capsys))))
    assert [row["certified_precision"] for row in rows] == ["0.9", "0.8", ""]
    JsonAnswers(certificate, {}).reply(Reply(Query(ids=[3, 4]), "", HITS))  # a mean of several was not calibrated
    assert capsys.readouterr().out.count('"certified_precision": null') == 3


def test_texts_are_shortened_in_the_middle():
    assert shorten("short.jpg", 9) == "short.jpg"
    for width in range(1, 30):
        assert cell_len(shorten(LONG, width)) <= width
        assert cell_len(shorten("x" * 50, width)) == width

"""``ccpml search`` on an index of toy images, from a run of seconds."""

import csv
import io
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccpml.calibration import Certificate
from ccpml.cli import main
from ccpml.serving import Index


@pytest.fixture(scope="module")
def index(run, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("indices") / "toy.index"
    assert main(["index", str(run), str(folder), "-o", str(path)]) == 0
    return path


@pytest.fixture
def search(index, capsys):
    def call(*arguments):
        capsys.readouterr()
        code = main(["search", str(index), *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def _set_fact(index, key, value):
    with closing(sqlite3.connect(index / "index.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))


@pytest.fixture(scope="module")
def query(folder):
    return folder / "group1" / "class06" / "3.png"


def test_a_query_that_looks_black_is_noted(search, tmp_path):
    Image.fromarray(np.full((32, 32), 4000, np.uint16)).save(tmp_path / "12-bits.png")
    code, _, err = search(tmp_path / "12-bits.png")
    assert code == 0
    assert "note: images of 16 bits: 1 of 1 image looked at, whose brightest pixel is 1" in err


def test_a_picture_of_the_index_is_found_at_distance_0(search, query, folder):
    code, out, _ = search(query, "-k", "3")
    lines = out.splitlines()
    assert (code, lines[0], len(lines)) == (0, str(query), 5)
    assert lines[2].split()[2:4] == ["0.0000", "group1/class06"]
    _, out, _ = search(query, "--json", "-k", "100")
    (reply,) = json.loads(out)["queries"]
    assert (len(reply["hits"]), reply["hits"][0]["path"]) == (60, str(query))
    assert reply["hits"][0]["distance"] < 1e-4  # a network rounds differently in batches of other sizes
    _, out, _ = search(folder / "group0", "--json", "-k", "1")
    replies = json.loads(out)["queries"]
    assert [reply["hits"][0]["path"] for reply in replies] == [path for reply in replies for path in reply["paths"]]
    assert {(reply["label"], reply["hits"][0]["label"]) for reply in replies} == {
        (f"class0{number}", f"group0/class0{number}") for number in range(4)
    }


def test_items_are_searched_for_without_torch(index):
    command = f"""
import sys
from ccpml.cli import main
assert main(["search", {str(index)!r}, "--id", "17", "-k", "2", "--where", "id != 18"]) == 0
assert not {{"torch", "lightning", "matplotlib"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 4), result.stderr


def test_filters_forms_and_several_pictures_of_one_thing(search, query, folder):
    where = "label contains 'class06' and not id in (1, 2)"
    code, out, _ = search(query, query.with_name("4.png"), "--together", "--id", "31", "--csv", "--where", where)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert {row["label"] for row in rows} == {"group1/class06"}
    assert "31" not in {row["id"] for row in rows}
    assert {row["query"] for row in rows} == {f"{query}, {query.with_name('4.png')}, id 31"}
    code, out, _ = search("--id", "7", "--where", "width > 5000")
    assert (code, out.splitlines()[-1]) == (0, "no answer: no picture of the index passes the filter")


def test_unreadable_pictures_are_named_and_others_answered(search, query, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"none")
    shutil.copy(query, tmp_path / "good.png")
    code, out, err = search(tmp_path, "--json", "--montage", tmp_path / "new.png")
    found = json.loads(out)
    assert (code, [reply["hits"] is None for reply in found["queries"]]) == (1, [True, False])
    assert [Path(bad["path"]).name for bad in found["unreadable"]] == ["bad.png"]
    assert "ccpml: error: 1 of 2 pictures cannot be read; restore or repair them, or leave them out:" in err
    assert Image.open(io.BytesIO((tmp_path / "new.png").read_bytes())).size[0] > 1000
    code, out, err = search(tmp_path / "bad.png")
    assert (code, out) == (1, "")
    assert err.endswith(
        f"ccpml: error: {tmp_path}/bad.png: not an image of a known format, or damaged header; restore or repair it\n"
    )


def test_the_run_may_have_moved(search, index, query, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("report*", "*.npz"))
    assert search(query, "--run", tmp_path / "moved")[0] == 0
    shutil.copytree(index, tmp_path / "copy.index")
    _set_fact(tmp_path / "copy.index", "model", str(tmp_path / "gone"))
    assert main(["search", str(tmp_path / "copy.index"), str(query)]) == 2
    gone = f"the model that it was made with, {tmp_path}/gone, is not found; pass --run if it has moved"
    assert capsys.readouterr().err.splitlines()[-1] == f"ccpml: error: {tmp_path}/copy.index: {gone}"
    assert main(["search", str(tmp_path / "copy.index"), "--id", "3"]) == 0
    assert f"note: {tmp_path}/gone: run not found; if it has moved, pass --run for its" in capsys.readouterr().err
    assert main(["search", str(tmp_path / "copy.index"), "--id", "3", "--precision", "0.9"]) == 2
    assert f"--precision: {tmp_path}/gone: run not found; if it has moved, pass --run" in capsys.readouterr().err
    (tmp_path / "gone").mkdir()  # a folder that is no run has no certificate either
    assert main(["search", str(tmp_path / "copy.index"), "--id", "3"]) == 0
    assert f"note: {tmp_path}/gone: run not found; if it has moved, pass --run for its" in capsys.readouterr().err


def test_answers_within_a_certified_distance(search, index, run):
    with Index.open(index) as opened:
        fingerprint = opened.fingerprint
    try:
        near, far = (float(search("--id", "3", "--csv")[1].splitlines()[row].split(",")[2]) for row in (2, 8))
        Certificate(fingerprint, 0.9, {0.9: near, 0.8: far}, answers=5).write(run)
        code, out, _ = search("--id", "3", "--json", "--precision", "0.85")
        (reply,) = json.loads(out)["queries"]
        assert (code, [hit["certified_precision"] for hit in reply["hits"]]) == (0, [0.9, 0.9])
        hits = json.loads(search("--id", "3", "--json")[1])["queries"][0]["hits"]
        assert [hit["certified_precision"] for hit in hits] == [0.9] * 2 + [0.8] * 3 + [None] * 5
        reranked = search("--id", "3", "--json", "--rerank", "k-reciprocal")[1]
        assert "certified_precision" not in reranked  # which are not the nearest
        code, _, err = search("--id", "3", "--precision", "0.95")
        assert (code, err.splitlines()[-1]) == (
            2, "ccpml: error: --precision: expected one that is certified (0.8, 0.9), got 0.95"
        )  # fmt: skip
        Certificate("0" * 64, 0.9, {0.9: 0.1}).write(run)
        assert "certified" not in search("--id", "3")[1]
        assert "got that of others" in search("--id", "3", "--precision", "0.9")[2]
    finally:
        (run / "certificate.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "expected pictures to search for, or --id; see ccpml search --help"),
        ("--id 3 -k 0", "-k: expected a number of answers of at least 1, got 0"),
        ("--id 999", "--id: {index}: no item has the id 999"),
        ("--id 3 --precision 2", "--precision: expected a number between 0 and 1, got 2"),
        (
            "--id 3 --precision 0.9 --rerank k-reciprocal",
            "--precision: certified for the nearest pictures, which --rerank replaces; leave out one",
        ),
        ("--id 3 --precision 0.9", "--precision: {run} has no certificate; `ccpml calibrate {run}` writes one"),
        ("--id 3 --where labl='a'", "--where: labl: unknown field; the index has id, path, label, width, height; .*"),
        ("--id 3 --where label=mug", "--where: filter: expected a value after =, got mug at character 7; .*: 'mug'"),
        ("--id 3 --montage {tmp}/a.jpg", "--montage: expected a file that ends in .png, got {tmp}/a.jpg"),
        ("--id 3 --montage {tmp}/no/a.png", "--montage: folder {tmp}/no not found; make it, or choose another"),
        ("--id 3 --montage {query}", "--montage: {query} already exists; choose another name or remove it"),
        ("{query} --run {tmp}", r"{tmp}: not a run directory or an .onnx file \(experiment.yaml not found\)"),
        ("--id 3 --json --csv", "--csv: expected it without --json, got both; leave out one; see ccpml search --help"),
        ("--id abc", "--id: expected an integer, got 'abc'; see ccpml search --help"),
        ("--id 3 -k many", "-k: expected an integer, got 'many'; see ccpml search --help"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments, message, search, index, run, query, tmp_path):
    values = {"index": index, "run": run, "query": query, "tmp": tmp_path}
    code, out, err = search(*arguments.format(**values).split())
    assert (code, out) == (2, "")
    assert re.fullmatch("ccpml: error: " + message.format(**values), err.splitlines()[-1])


def test_what_is_no_index_is_refused(tmp_path, query, capsys):
    for path in (tmp_path / "none", tmp_path, query):
        sentences = set()
        for verb in (["search", str(path), str(query)], ["serve", str(path)], ["index", "--compact", str(path)]):
            assert main(verb) == 2
            sentences.add(capsys.readouterr().err.splitlines()[-1])
        (sentence,) = sentences
        what = {query: "expected an index, got a picture", tmp_path: "not an index (index.sqlite not found)"}
        assert sentence.startswith(f"ccpml: error: {path}: {what.get(path, 'not an index (not found)')}")
        where = "<index>" if path.exists() else path
        assert sentence.endswith(f"; `ccpml index <run> <folder> -o {where}` makes one")


def test_an_index_of_another_run_is_refused(index, query, tmp_path, capsys):
    shutil.copytree(index, tmp_path / "copy.index")
    _set_fact(tmp_path / "copy.index", "fingerprint", "0" * 64)
    assert main(["search", str(tmp_path / "copy.index"), str(query)]) == 1
    assert "expected the model that the index was made with" in capsys.readouterr().err.splitlines()[-1]


def test_an_empty_index_has_no_answers(run, query, tmp_path, capsys):
    from ccpml import load_run

    Index.create(tmp_path / "x.index", load_run(run)).close()
    assert main(["search", str(tmp_path / "x.index"), str(query), "--where", "price < 5"]) == 0
    assert capsys.readouterr().out == f"{query}\nno answer: the index is empty\n"

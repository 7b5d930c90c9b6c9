"""How an index is searched: approximately, in smaller rows, ranked again, with an ensemble of runs."""

import json
import shutil

import numpy as np
import pytest

from ccpml import load_run, train
from ccpml.cli import main
from ccpml.reranking import join
from ccpml.serving import Index
from ccpml.serving.ensemble import EnsembleEmbedder
from ccpml.serving.search import approximate
from tests.toy import quick_settings


@pytest.fixture(scope="module")
def second_run(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "second"
    train(quick_settings(data=f"folder:{folder}", max_steps=2, seed=1), path, progress=False)
    return path


@pytest.fixture
def call(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = main([*map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def hits(out):
    return [hit["id"] for hit in json.loads(out)["queries"][0]["hits"]]


def test_dtype_is_the_default_of_an_index(run, folder, tmp_path, call):
    index = tmp_path / "toy.index"
    code, _, err = call("index", run, folder, "-o", index, "--dtype", "int8")
    assert (code, err.splitlines()[-1][:57]) == (0, f"{index}: int8 rows, 8 bytes each instead of 32"[:57])
    assert "re-scored: recall@10" in err
    assert (index / "cache" / "int8.bin").is_file()
    query = folder / "group0" / "class00" / "0.png"
    plain, small, half = (
        call("search", index, query, "--json", *options)
        for options in (["--dtype", "float32"], [], ["--dtype", "float16"])
    )
    assert "rows" not in plain[2]
    assert "int8 rows, 8 bytes each instead of 32" in small[2]
    assert "float16 rows, 16 bytes each instead of 32" in half[2]
    assert hits(plain[1]) == hits(small[1]) == hits(half[1])
    shutil.rmtree(index / "cache")
    assert hits(call("search", index, query, "--json")[1]) == hits(plain[1])
    (index / "scan.json").write_text("{")
    assert "scan.json" in (err := call("search", index, query, "--json")[2])
    assert "rows of float32 are scanned" in err


def test_approximate(run, folder, tmp_path, call, monkeypatch):
    index, query = tmp_path / "toy.index", folder / "group0" / "class00" / "0.png"
    assert call("index", run, folder, "-o", index)[0] == 0
    code, out, err = call("search", index, query, "--json", "--approximate")
    assert code == 0
    assert f"{index}: 60 pictures are searched exactly, which is as fast below 20,000" in err
    monkeypatch.setattr(approximate, "MIN_ROWS", 10)
    code, same, err = call("search", index, query, "--json", "--approximate", "--min-recall", "0.9")
    assert (code, hits(same)) == (0, hits(out))
    assert f"{index}: approximate search, recall@10 1.0000 (95 % interval" in err
    monkeypatch.setattr(approximate, "_choose", lambda *_: (64, approximate.Recall(0.5, 100)))
    code, _, err = call("search", index, query, "--approximate")
    assert code == 1
    assert "expected a recall@10 of at least 0.95, measured recall@10 0.5000" in err
    assert "leave out --approximate, or pass a lower --min-recall" in err


@pytest.mark.parametrize("method", ["k-reciprocal", "query-expansion", "augmentation"])
def test_rerank(run, folder, tmp_path, call, method):
    index, query = tmp_path / "toy.index", folder / "group0" / "class00" / "0.png"
    assert call("index", run, folder, "-o", index)[0] == 0
    code, out, _ = call("search", index, query, "--json", "--rerank", method, "-k", "60")
    assert (code, sorted(hits(out))) == (0, list(range(1, 61)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-recall", "0.9"], "--min-recall: expected together with --approximate"),
        (["--approximate", "--min-recall", "2"], "--min-recall: expected a number above 0 and up to 1, got 2"),
        (["--approximate", "--dtype", "int8"], "--approximate, --dtype: expected one of them, got both"),
        (["--dtype", "int4"], "--dtype: expected float32, float16 or int8, got 'int4'"),
        (["--rerank", "best"], "--rerank: expected "),
        (
            ["--store", "qdrant://localhost/x", "--rerank", "augmentation"],
            "--store: expected no --dtype and no",
        ),
    ],
)
def test_options_that_do_not_fit(options, message, call):
    code, _, err = call("search", *([] if "--store" in options else ["shop.index"]), "query.jpg", *options)
    assert code == 2
    assert message in err


def test_an_ensemble_is_one_model(run, second_run, folder, tmp_path, call):
    index = tmp_path / "both.index"
    assert call("index", run, folder, "-o", index, "--ensemble", second_run)[0] == 0
    runs = [load_run(run), load_run(second_run)]
    model = EnsembleEmbedder(runs)
    assert model.embedding_dim == 16
    with Index.open(index, model) as opened:
        items = opened.items()
        paths = [item.path for item in items]
        expected = join([each.embed(paths).numpy() for each in runs])
        np.testing.assert_allclose(opened.vectors([item.id for item in items]), expected, atol=1e-5)
    query = folder / "group0" / "class00" / "0.png"
    code, out, _ = call("search", index, query, "--json", "-k", "1")
    assert (code, json.loads(out)["queries"][0]["hits"][0]["path"]) == (0, str(query))
    with Index.create(tmp_path / "made.index", model) as made:  # without the command line
        made.sync(str(query))
    code, out, _ = call("search", tmp_path / "made.index", query, "--json")
    assert (code, json.loads(out)["queries"][0]["hits"][0]["path"]) == (0, str(query))
    assert call("index", run, folder, "-o", index, "--sync", "--ensemble", second_run)[0] == 0
    code, _, err = call("index", run, folder, "-o", index, "--sync")
    assert code == 1
    assert f"{index}: expected the 2 runs that the index was made with ({run}, {second_run}), got {run}; pass" in err
    assert err.endswith(f"`ccpml index {run} {folder} -o {index} --sync --ensemble {second_run}`\n")
    moved = {"runs": [str(run), str(tmp_path / "gone")]}
    (index / "ensemble.json").write_text(json.dumps(moved))
    for arguments in (("search", index, query), ("serve", index, "--port", "0")):
        code, _, err = call(*arguments)
        assert code == 2
        assert f"{index}/ensemble.json: expected the run {tmp_path}/gone there or at {run.parent}/gone, which" in err
    (index / "ensemble.json").write_text(json.dumps({"runs": [str(run), str(second_run)]}))
    code, _, err = call("search", index, query, "--run", second_run)
    assert code == 2
    assert f"--run: expected the first model of {index}, or none if it is where it was, got {second_run}, ano" in err
    code, _, err = call("index", run, folder, "-o", tmp_path / "one.index", "--ensemble", run)
    assert code == 2
    assert f"--ensemble: expected each once, got {run} twice" in err
    shutil.copytree(run, tmp_path / "copy")
    code, _, err = call("index", run, folder, "-o", tmp_path / "one.index", "--ensemble", tmp_path / "copy")
    assert code == 1
    assert "ensemble: expected two or more models with different weights" in err

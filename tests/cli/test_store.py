"""Verbs whose index is a collection of a server."""

import json

import numpy as np
import pytest
from PIL import Image

from ccpml.cli import main
from tests.serving.embedders import ColorEmbedder
from tests.serving.qdrant.server import qdrant_server


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with pictures and a run whose model needs no torch."""
    rng = np.random.default_rng(0)
    for number in range(6):
        file = tmp_path / "photos" / ("mug" if number % 2 else "bowl") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(file)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").touch()
    monkeypatch.chdir(tmp_path)
    use_model(monkeypatch, lambda path: ColorEmbedder(path=path))
    return tmp_path


def use_model(monkeypatch, load):
    """Load models of runs by another function."""
    monkeypatch.setattr("ccpml.runs.inference.load_embedder", load)


@pytest.fixture
def store():
    with qdrant_server() as server:
        yield server


def test_index_and_search(workplace, store, capsys):
    address = f"{store.url}/shop"
    assert main(["index", "run", "photos", "--store", address]) == 0
    assert capsys.readouterr().out == f"{address}: 6 pictures\n"
    (workplace / "photos" / "mug" / "1.png").unlink()
    assert main(["index", "run", "photos", "--store", address]) == 0
    assert capsys.readouterr().out == f"{address}: 5 pictures (0 added, 0 changed, 0 renamed, 1 removed, 5 unchanged)\n"
    assert (
        main(["search", "--store", address, "photos/mug/3.png", "-k", "2", "--where", "label = 'mug'", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["index"] == address
    assert "3.png" in json.dumps(found)
    assert not list(workplace.glob("*.qdrant"))


def test_an_interrupted_upload_says_how_to_resume(workplace, store, capsys, monkeypatch):
    monkeypatch.setattr("ccpml.serving.qdrant.connection.FIRST_WAIT", 0)
    store.failures["PUT", "points"] = ["cut"] * 6
    address = f"{store.url}/shop"
    assert main(["index", "run", "photos", "--store", address]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"then resume with: ccpml index run photos --store {address}" in error
    assert main(["index", "run", "photos", "--store", address]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("index run photos --store qdrant://host", 2, "--store: expected qdrant://host:6333/collection"),
        ("index run photos -o x.index --store qdrant://host/c", 2, "--store: expected it in place of a directory"),
        ("index run photos", 2, "--output: expected the directory of the index, or --store"),
        ("search --store qdrant://host/c/d query.png", 2, "--store: expected qdrant://host:6333/collection"),
        ("search --store qdrant://127.0.0.1:9/c query.png", 1, "expected a qdrant server at 127.0.0.1:9, got no conn"),
        ("search --store {url}/none query.png", 1, "/none: not an index (collection not found)"),
        ("serve", 2, "expected the directory of an index, or --store"),
        ("serve x.index --store qdrant://host/c", 2, "expected the directory of an index, or --store"),
    ],
)
def test_errors(workplace, store, capsys, monkeypatch, arguments, code, message):
    monkeypatch.setattr("ccpml.serving.qdrant.connection.FIRST_WAIT", 0)
    assert main(arguments.format(url=store.url).split()) == code
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert "Traceback" not in "".join(error)


def test_another_model(workplace, store, capsys, monkeypatch):
    address = f"{store.url}/shop"
    assert main(["index", "run", "photos", "--store", address]) == 0
    use_model(monkeypatch, lambda path: ColorEmbedder(3, path))
    assert main(["index", "run", "photos", "--store", address]) == 1
    assert "expected the model that the index was made with" in capsys.readouterr().err


def test_nothing_readable_leaves_no_collection(workplace, store, capsys):
    for file in workplace.rglob("photos/*/*.png"):
        file.write_bytes(b"none")
    assert main(["index", "run", "photos", "--store", f"{store.url}/shop"]) == 1
    assert not store.db.collection_exists("shop")

"""Verbs that take an exported model in place of a run, and those that do not."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ccpml.calibration import Certificate
from ccpml.cli import main
from ccpml.exported import ExportedModel
from ccpml.reranking import join
from ccpml.serving import Index, open_index
from ccpml.serving.ensemble import EnsembleEmbedder
from ccpml.serving.service import ServiceSettings, create_app
from tests.exported.onnx_models import describe, weights, write_model
from tests.toy import toy_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("toy"), classes=4, per_class=2)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([str(word) for word in arguments]), *capsys.readouterr()

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with a certificate: a precision of 0.8 within any distance, of 0.9 within none but 0."""
    Certificate("f" * 64, 0.95, {0.8: 2.0, 0.9: 1e-4}).write(tmp_path)
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    splits = {"group0/class00": "train", "group0/class01": "test"}
    return write_model(tmp_path / "model.onnx", describe(certificate=certificate, split_of_class=splits))


def test_embed_writes_either_format(model: Path, photos: Path, tmp_path: Path, call):
    npz, parquet = tmp_path / "x.npz", tmp_path / "x.parquet"
    for output in (npz, parquet):
        assert call("embed", model, f"folder:{photos}", "-o", output)[:2] == (0, f"{output}: 8 embeddings\n")
    rows = pq.read_table(parquet)
    with np.load(npz) as file:
        assert file["splits"].tolist() == ["train", "test", "", ""]
        assert file["paths"].tolist() == rows["path"].to_pylist()
        np.testing.assert_array_equal(file["embeddings"], np.float32(rows["embedding"].to_pylist()))
        np.testing.assert_array_equal(file["embeddings"], ExportedModel(model).embed(file["paths"].tolist()))
    assert rows["split"].to_pylist() == ["train"] * 2 + ["test"] * 2 + [None] * 4


def test_unreadable_images_are_named_or_left_out(model: Path, tmp_path: Path, call):
    photos = toy_folder(tmp_path / "photos", classes=1, per_class=3)
    broken = photos / "group0" / "class00" / "1.png"
    broken.write_bytes(b"no image")
    code, _, err = call("embed", model, f"folder:{photos}", "-o", tmp_path / "x.npz")
    assert code == 1
    assert re.search(r"1 of 3 images cannot be read; .*--skip-bad-images leaves them out:\n  \S+1\.png: not an", err)
    assert not (tmp_path / "x.npz").exists()
    assert call("embed", model, f"folder:{photos}", "-o", tmp_path / "x.npz", "--skip-bad-images")[0] == 0


def test_the_certificate_in_the_file_is_used(model: Path, photos: Path, tmp_path: Path, call):
    index, query = tmp_path / "photos.index", photos / "group0" / "class01" / "0.png"
    assert call("index", model, photos, "-o", index)[0] == 0
    for precision, hits in (("0.8", 1), ("0.9", 1)):
        code, out, _ = call("search", index, query, "-k", "3", "--precision", precision, "--json")
        found = json.loads(out)["queries"][0]["hits"]
        assert (code, len(found), found[0]["certified_precision"]) == (0, hits, 0.9)
    code, _, err = call("search", index, query, "--precision", "0.99")
    assert (code, err.splitlines()[-1]) == (
        2,
        "ccpml: error: --precision: expected one that is certified (0.8, 0.9), got 0.99",
    )
    embedder = ExportedModel(model)
    with open_index(index, embedder) as opened:
        service = create_app(opened, embedder, ServiceSettings()).state.service
    assert (service.note, service.certificate.precisions) == ("", (0.8, 0.9))


def test_a_file_without_certificate_and_one_of_other_weights(model: Path, photos: Path, tmp_path: Path, call):
    index, query = tmp_path / "photos.index", photos / "group0" / "class01" / "0.png"
    plain = write_model(tmp_path / "plain.onnx")
    other = write_model(tmp_path / "other.onnx", describe(fingerprint="a" * 64))
    assert call("index", plain, photos, "-o", index)[0] == 0
    code, _, err = call("search", index, query, "--precision", "0.8")
    assert code == 2
    assert err.endswith(f"--precision: {plain} has no certificate; calibrate the run with `ccpml calibrate`, and "
                        "export it again\n")  # fmt: skip
    code, _, err = call("search", index, query, "--run", other)
    assert code == 1
    assert "Traceback" not in err
    assert re.search(r"ccpml: error: \S+photos\.index: ", err)
    plain.rename(tmp_path / "moved.onnx")
    code, _, err = call("search", index, query)
    assert code == 2
    assert err.endswith(f"the model that it was made with, {plain}, is not found; pass --run if it has moved\n")
    assert call("search", index, query, "--run", tmp_path / "moved.onnx")[0] == 0


def test_an_ensemble_of_files(model: Path, photos: Path, tmp_path: Path, call):
    second, index = tmp_path / "second.onnx", tmp_path / "both.index"
    write_model(second, describe(fingerprint="b" * 64), weights(seed=1))
    assert call("index", model, photos, "-o", index, "--ensemble", second)[0] == 0
    with Index.open(index) as opened:
        items = opened.items()
        expected = join([ExportedModel(path).embed([item.path for item in items]) for path in (model, second)])
        np.testing.assert_allclose(opened.vectors([item.id for item in items]), expected, atol=1e-6)
    query = photos / "group0" / "class00" / "0.png"
    code, _, err = call("search", index, query, "-k", "1")
    assert (code, "certificate" in err) == (0, False)
    code, _, err = call("search", index, query, "--precision", "0.8")
    message = f"--precision: {index} is of several models, which have no certificate; leave it out"
    assert (code, err.splitlines()[-1]) == (2, f"ccpml: error: {message}")
    embedder = EnsembleEmbedder([ExportedModel(model), ExportedModel(second)])
    with open_index(index, embedder) as opened:
        service = create_app(opened, embedder, ServiceSettings()).state.service
    assert (service.note, service.certificate) == ("", None)  # not: calibrate the run again


def test_wrong_usage_is_one_sentence(model: Path, photos: Path, tmp_path: Path, call):
    text, absent = tmp_path / "notes.txt", tmp_path / "absent.onnx"
    text.touch()
    data, output = f"folder:{photos}", tmp_path / "x.npz"
    needs_run = f"{model}: expected a run directory, got an exported model, which embed, index, search and serve take"
    for arguments, message in (
        (("evaluate", model, data), needs_run),
        (("calibrate", model), needs_run),
        (("report", model), needs_run),
        (("train", "--resume", model), needs_run),
        (("embed", absent, data, "-o", output), f"{absent}: file not found; `ccpml export <run> --format onnx` writes"),
        (("embed", text, data, "-o", output), f"{text}: expected a run directory or an .onnx file, got another file"),
        (
            ("index", tmp_path, photos, "-o", output),
            f"{tmp_path}: not a run directory or an .onnx file (experiment",
        ),
        (
            ("embed", model, data, "-o", text.with_suffix(".csv")),
            "--output: expected a file that ends in .npz or .parq",
        ),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith(f"ccpml: error: {message}"), err
        assert len(err.splitlines()) == 1


def test_packages_that_are_not_installed_are_named(model: Path, photos: Path, tmp_path: Path, call, monkeypatch):
    monkeypatch.setattr("ccpml.cli.common.models.find_spec", lambda name: None)
    monkeypatch.setattr("ccpml.extras.find_spec", lambda name: None)
    code, _, err = call("index", model, photos, "-o", tmp_path / "x.index")
    assert (code, err) == (
        2,
        f"ccpml: error: {model}: needs onnxruntime, which is not installed; pip install onnxruntime\n",
    )
    code, _, err = call("embed", model, f"folder:{photos}", "-o", tmp_path / "x.parquet")
    assert code == 2
    assert err.endswith("needs pyarrow, not installed; pip install pyarrow (the extra parquet of ccpml)\n")


def test_damaged_files_end_with_code_1(photos: Path, tmp_path: Path, call):
    file = write_model(tmp_path / "m.onnx")
    file.write_bytes(file.read_bytes()[:300])
    code, _, err = call("index", file, photos, "-o", tmp_path / "x.index")
    assert code == 1
    assert f"ccpml: error: {file}: not an ONNX file" in err
    assert not (tmp_path / "x.index").exists()

"""The description in an ONNX file is that which onnx reads and writes; damaged and foreign files are refused."""

import json
from dataclasses import asdict
from pathlib import Path

import onnx
import pytest

from ccpml.exported import Description, DescriptionError, is_onnx, read_description
from ccpml.exported.onnx_file import content_digest
from tests.exported.onnx_models import describe, write_model


def test_onnx_reads_what_is_written_and_the_reverse(tmp_path: Path):
    description = describe(split_of_class={"grüße": "train"}, certificate={"format": 1}, card={"text": "x" * 300})
    file = write_model(tmp_path / "m.onnx", description)
    model = onnx.load(file)
    assert [entry.key for entry in model.metadata_props] == ["ccpml"]
    assert json.loads(model.metadata_props[0].value) == {"format": 1, **asdict(description)}
    assert read_description(file) == description
    onnx.helper.set_model_props(model, {"other": "ü", "ccpml": description.to_json()})
    model.doc_string, model.model_version = "text", 2**40
    again = tmp_path / "again.onnx"
    onnx.save(model, again)
    assert read_description(again) == description


def test_the_digest_is_of_everything_but_the_metadata(tmp_path: Path):
    file = write_model(tmp_path / "m.onnx")
    digest = content_digest(file.read_bytes())
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"other": "value"})
    assert content_digest(model.SerializeToString()) == digest
    model.graph.node[0].name = "changed"
    assert content_digest(model.SerializeToString()) != digest


@pytest.mark.parametrize("keep", [0, 1, 5, 100, -1, -40])
def test_a_file_that_is_cut_off_is_refused(keep: int, tmp_path: Path):
    file = write_model(tmp_path / "m.onnx")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DescriptionError, match=r"m\.onnx: not an ONNX file.*; export the run again"):
        read_description(file)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"\x00" * 64, b"\xff" * 64, b"# text\n"])
def test_another_file_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(DescriptionError, match=r"m\.onnx: not an ONNX file"):
        read_description(tmp_path / "m.onnx")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".PT2"])
def test_another_format_is_refused_with_what_opens_it(suffix: str, tmp_path: Path):
    file = tmp_path / f"m{suffix}"
    with pytest.raises(FileNotFoundError):
        read_description(file)
    file.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(DescriptionError, match=rf"m{suffix}: expected an ONNX file; \S+ opens it$"):
        read_description(file)


def test_another_onnx_file_is_refused(tmp_path: Path):
    model = onnx.load(write_model(tmp_path / "m.onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(DescriptionError, match="expected a model that `ccpml export` wrote, got another ONNX file"):
        read_description(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a model that ccpml exported"),
        ("[]", "expected a model that ccpml exported"),
        (json.dumps({"format": 2}), "written by a newer version of ccpml; update ccpml"),
        (json.dumps({"format": 1, "size": 3}), "expected a model that ccpml exported"),
        (json.dumps({"format": 1, **asdict(describe(resize=2))}), "expected a model that ccpml exported"),
    ],
)
def test_a_damaged_or_newer_description_is_refused(text: str, message: str):
    with pytest.raises(DescriptionError, match=f"m.onnx: {message}"):
        Description.from_json(text, "m.onnx")


def test_names():
    assert is_onnx("a/m.ONNX")
    assert is_onnx(Path("m.onnx"))
    assert not is_onnx("runs/m")

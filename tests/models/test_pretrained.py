"""Loading of exported weights; the files are those of `ccpml.exporting`, whose tests compare with a run."""

import json
from pathlib import Path

import pytest
import torch

from ccpml import extras
from ccpml.models import EmbeddingModel, create_model, pretrained
from ccpml.models.pretrained import CONFIG_FILE, WEIGHTS_FILE
from ccpml.models.tensor_file import write_tensors

NETWORK = {
    "backbone": "small_conv",
    "embedding_dim": 4,
    "pooling": "max",
    "channels": 1,
    "image_size": 28,
    "bias": True,
}
FACTS = {"fingerprint": "a" * 64, "network": NETWORK}


@pytest.fixture
def model() -> EmbeddingModel:
    torch.manual_seed(0)
    return create_model(**NETWORK).eval()


@pytest.fixture
def folder(model: EmbeddingModel, tmp_path: Path) -> Path:
    path = tmp_path / "mugs"
    write_tensors(path / WEIGHTS_FILE, model.state_dict(), FACTS)
    (path / CONFIG_FILE).write_text(json.dumps(FACTS))
    return path


def same(found: EmbeddingModel, model: EmbeddingModel) -> bool:
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        return torch.equal(found(images), model(images)) and not found.training


def test_a_folder_and_a_file_are_loaded(model: EmbeddingModel, folder: Path) -> None:
    assert same(EmbeddingModel.from_pretrained(folder), model)
    assert same(EmbeddingModel.from_pretrained(str(folder / WEIGHTS_FILE)), model)


def test_a_name_is_downloaded_if_there_is_no_such_folder(
    model: EmbeddingModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    def download(name: str, file: str, revision: str | None) -> str:
        calls.append((name, file, revision))
        return str(folder / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.chdir(folder.parent)
    assert same(EmbeddingModel.from_pretrained("me/mugs", revision="v1"), model)
    assert sorted(calls) == [("me/mugs", CONFIG_FILE, "v1"), ("me/mugs", WEIGHTS_FILE, "v1")]
    (folder.parent / "me").mkdir()
    folder.rename(folder.parent / "me" / "mugs")
    assert same(EmbeddingModel.from_pretrained("me/mugs"), model)
    assert len(calls) == 2


def test_an_error_of_the_hub_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host\n\nmore")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(ValueError, match=r"^me/mugs: .+not downloaded from the hub \(no route to host\)$"):
        EmbeddingModel.from_pretrained("me/mugs")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"^me/mugs: .+ huggingface_hub, not installed; pip install huggingface-hub \("
    ):
        EmbeddingModel.from_pretrained("me/mugs")


@pytest.mark.parametrize("name", ["mugs", "./me/mugs", "/me/mugs", "a/b/c", "mugs.safetensors"])
def test_a_path_that_does_not_exist_is_not_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "_download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(FileNotFoundError, match=f"^{name}: not found; expected a file or folder"):
        EmbeddingModel.from_pretrained(name)


def test_a_revision_of_files_is_refused(folder: Path) -> None:
    for name in (folder, str(folder / WEIGHTS_FILE)):
        with pytest.raises(ValueError, match=r"^revision: expected None for the file or folder .*, got 'v1'; leave"):
            EmbeddingModel.from_pretrained(name, revision="v1")


def test_damage_is_named(folder: Path) -> None:
    file, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    content, text = file.read_bytes(), config.read_text()

    def message() -> str:
        with pytest.raises(ValueError, match=r".") as raised:
            EmbeddingModel.from_pretrained(folder)
        file.write_bytes(content)
        config.write_text(text)
        return str(raised.value)

    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])  # one bit
    assert message() == f"{file}: damaged (wrong checksum); export the run again, or download the model again"
    file.write_bytes(content[:1000])
    assert message().startswith(f"{file}: damaged, cannot be read as safetensors")
    file.unlink()
    assert message().startswith(f"{file}: not found; ")
    config.unlink()
    assert message().startswith(f"{config}: not found; ")
    config.write_text(text[:40])
    assert message().startswith(f"{config}: damaged (")
    config.write_text("[]")
    assert message().startswith(f"{config}: expected the description of an exported model")
    config.write_text(json.dumps({**FACTS, "fingerprint": "b" * 64}))
    assert message().startswith(f"{config}: of another model than {WEIGHTS_FILE} beside it")
    config.write_text(json.dumps({**FACTS, "format": 2}))
    assert message() == f"{config}: written by a newer version of ccpml; update ccpml"
    for key, value in (("pooling", "sum"), ("embedding_dim", -1), ("channels", "1"), ("backbone", 3)):
        config.write_text(json.dumps({**FACTS, "network": {**NETWORK, key: value}}))
        assert message().startswith(f"{config}: not the description of a network ("), key
    config.write_text(json.dumps({**FACTS, "network": {**NETWORK, "embedding_dim": 5}}))
    assert message().startswith(f"{file}: not the weights of the network that {CONFIG_FILE} describes")
    config.write_text(json.dumps({**FACTS, "network": {**NETWORK, "code": "x"}}))
    assert message().startswith(f"{config}: expected a model that `ccpml export` wrote")


def test_other_files_are_refused(model: EmbeddingModel, tmp_path: Path) -> None:
    write_tensors(tmp_path / "best.safetensors", model.state_dict(), {"record": "0"})
    with pytest.raises(ValueError, match=r"best.safetensors: expected a model that `ccpml export` wrote"):
        EmbeddingModel.from_pretrained(tmp_path / "best.safetensors")
    (tmp_path / "mugs.onnx").touch()
    with pytest.raises(ValueError, match=r"mugs.onnx: expected a .safetensors file, .*; ExportedModel opens it"):
        EmbeddingModel.from_pretrained(tmp_path / "mugs.onnx")
    (tmp_path / "experiment.yaml").touch()
    with pytest.raises(ValueError, match=r"expected an exported model, got a run; load_run opens it$"):
        EmbeddingModel.from_pretrained(tmp_path)

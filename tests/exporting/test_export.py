"""Export of a run: the same embeddings in every format, and nothing half-written."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from ccpml import EmbeddingModel, lipschitz_normalize, load_run
from ccpml.calibration import Certificate
from ccpml.exported import Description
from ccpml.exported.onnx_file import add_description
from ccpml.exporting import export as module
from ccpml.exporting.check import BATCHES
from ccpml.exporting.describe import data_label, describe_run
from ccpml.exporting.errors import ExportError
from ccpml.exporting.export import export_run
from ccpml.exporting.formats import READERS, WRITERS
from ccpml.exporting.graph import EmbeddingGraph
from ccpml.exporting.targets import FORMATS, Format
from ccpml.files import WriteError
from ccpml.models.tensor_file import read_tensors
from ccpml.runs.directory import RunDirectory
from tests.faults import FailingCalls


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "own"))


def description_of(path: Path, file_format: Format) -> Description:
    if file_format == "onnx":
        import onnx

        model = onnx.load(path)
        assert (model.ir_version, model.opset_import[0].version) == (8, 18)  # onnxruntime 1.15 reads these
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        [text] = [entry.value for entry in model.metadata_props if entry.key == "ccpml"]
    elif file_format == "pt2":
        extra = {"ccpml": ""}
        torch.export.load(path, extra_files=extra)
        text = extra["ccpml"]
    elif file_format == "hub":
        text = (path / "config.json").read_text(encoding="utf-8")
    else:
        facts = read_tensors(path)[1]
        text = json.dumps({name: value for name, value in facts.items() if name != "crc32"})
    return Description.from_json(text, str(path))


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_embeds_as_the_run_does(
    file_format: Format, run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / f"mugs{FORMATS[file_format]}"
    found = export_run(run, file_format, target, license_id="mit")
    assert (found.path, found.checked_on, found.notes) == (target, "13 images of test classes", [])
    assert found.difference <= 1e-5
    names = {"mugs", "README.md"} if file_format == "hub" else {target.name, f"{target.name}.md"}
    assert {path.name for path in (*target.parent.iterdir(), found.card)} == names

    loaded, description = load_run(run), description_of(target, file_format)
    assert description.fingerprint == loaded.fingerprint
    assert (description.embedding_dim, description.channels, description.size, description.resize) == (8, 1, 28, 28)
    assert set(description.split_of_class.values()) == {"train", "validation", "test"}
    assert description.card["license"] == "mit"
    assert description.card["scores"] == loaded.scores["test"]

    files = sorted(folder.rglob("*.png"))[:5]
    images = np.stack([description.transform(loaded_image(file)).transpose(2, 0, 1) for file in files])
    expected = loaded.embed(files).numpy()
    for count in (1, 5):
        np.testing.assert_allclose(READERS[file_format](target)(images[:count]), expected[:count], atol=1e-5)

    elsewhere = [path for path in (target, *target.rglob("*"), found.card) if path.is_file()]
    assert not any(str(folder.parent).encode() in path.read_bytes() for path in elsewhere)
    monkeypatch.chdir(tmp_path)
    check_usage(found.card, target, files[0], expected[0])
    colors = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(colors).resize((90, 60)).save(tmp_path / "color.jpg", quality=90)
    check_usage(found.card, target, tmp_path / "color.jpg", loaded.embed([tmp_path / "color.jpg"])[0].numpy())


def loaded_image(file: Path) -> np.ndarray:
    from ccpml.data import read_image

    return read_image(file, channels=1)


def check_usage(card: Path, target: Path, picture: Path, expected: np.ndarray) -> None:
    """Run the code of a model card beside the model, with a picture."""
    text = card.read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    assert blocks
    shutil.copy(picture, "query.jpg")
    if not Path(target.name).exists():
        Path(target.name).symlink_to(target)
    for block in blocks:
        namespace: dict[str, object] = {}
        exec(compile(block, str(card), "exec"), namespace)
        [embedding] = np.asarray(namespace["embeddings"].detach() if "torch" in namespace else namespace["embeddings"])  # type: ignore[attr-defined]
        np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_a_folder_for_the_hub_has_a_card_that_the_hub_s_client_reads(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    found = export_run(run, "hub", tmp_path / "mugs", license_id="Apache-2.0")
    card = hub.ModelCard.load(found.card)
    assert card.data.license == "apache-2.0"
    assert (card.data.library_name, card.data.pipeline_tag) == ("ccpml", "image-feature-extraction")
    scores = load_run(run).scores
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["map_at_r"].metric_value == pytest.approx(scores["test"]["map_at_r"], abs=1e-4)
    assert results["map_at_r"].metric_args["interval_95"] == pytest.approx(scores["intervals"]["map_at_r"], abs=1e-4)
    assert results["map_at_r"].dataset_split == "test"
    text = found.card.read_text(encoding="utf-8")
    for part in ("Trained on 3 classes, which is few", "## Guarantee", "None: the run was not calibrated"):
        assert part in text


def test_the_default_target_is_in_the_run(own: Path) -> None:
    found = export_run(own, "safetensors")
    assert found.path == own / "export" / "own.safetensors"
    assert found.card == own / "export" / "own.safetensors.md"
    with pytest.raises(FileExistsError, match=r"own.safetensors: already exists"):
        export_run(own, "safetensors")
    found.path.unlink()
    with pytest.raises(FileExistsError, match=r"own.safetensors.md: already exists"):
        export_run(own, "safetensors")


def test_images_of_the_check_that_cannot_be_read_are_named(own: Path, folder: Path) -> None:
    tests = [name for name, split in RunDirectory(own).record().split_of_class.items() if split == "test"]
    file = sorted((folder / tests[0]).iterdir())[0]
    whole = file.read_bytes()
    file.write_bytes(b"no image")
    try:
        [note] = export_run(own, "safetensors").notes
    finally:
        file.write_bytes(whole)
    assert re.fullmatch(rf"1 of \d+ images for the check cannot be read, such as {file}: not an .*; restore .*", note)


def test_data_that_are_gone_are_generated_and_said_aloud(own: Path, folder: Path, tmp_path: Path) -> None:
    hidden = folder.rename(tmp_path / "hidden")
    try:
        found = export_run(own, "safetensors")
    finally:
        hidden.rename(folder)
    assert found.checked_on == "generated images"
    [note] = found.notes
    assert note.startswith("checked on generated images: ")


def test_a_run_that_is_not_finished_is_exported_with_a_note(own: Path) -> None:
    (own / "scores.json").unlink()
    found = export_run(own, "hub")
    assert found.notes == [f"{own}: the run is unfinished (scores.json not found); these are its best weights so far"]
    assert "The run is unfinished" in found.card.read_text(encoding="utf-8")
    assert "model-index" not in yaml.safe_load(found.card.read_text(encoding="utf-8").split("---")[1])


def test_a_run_without_weights_is_not(own: Path) -> None:
    for path in (own / "scores.json", *(own / "checkpoints").iterdir()):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="the run has no weights yet"):
        export_run(own, "safetensors")
    assert not (own / "export").exists()


def test_a_certificate_is_exported_unless_it_is_of_other_weights(own: Path) -> None:
    details = {"data": "folder:/home/me/photos", "classes": 40}
    Certificate(load_run(own).fingerprint, 0.95, {0.8: 0.5}, details=details).write(own)
    description, notes = describe_run(load_run(own))
    assert description.certificate is not None
    assert description.certificate["promises"] == [{"precision": 0.8, "distance": 0.5}]
    assert description.certificate["data"] == "folder:photos"
    assert notes == []
    assert "| 0.8 | 0.500 |" in export_run(own, "safetensors").card.read_text(encoding="utf-8")
    Certificate("0" * 64, 0.95, {0.8: 0.5}).write(own)
    description, notes = describe_run(load_run(own))
    assert description.certificate is None
    assert len(notes) == 1
    assert "exported without the certificate" in notes[0]


def test_data_are_named_without_their_folder(tmp_path: Path) -> None:
    assert data_label(f"folder:{tmp_path / 'photos'}") == "folder:photos"
    assert data_label(f"csv:{tmp_path / 'shop.csv'}") == "csv:shop.csv"
    assert data_label("groceries") == "groceries"


def test_weights_that_are_not_finite_are_not_exported(own: Path) -> None:
    file = own / "checkpoints" / "best.safetensors"
    weights = load_file(file)
    weights["model.linear.weight"][0] = float("nan")
    save_file(weights, file)
    with pytest.raises(ExportError, match="expected finite embeddings of the run, got NaN or infinity"):
        export_run(own, "safetensors")
    assert not (own / "export").exists()


@pytest.mark.parametrize("file_format", ["safetensors", "hub", "pt2"])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_an_error_of_the_disk_names_the_target(
    call: str, file_format: Format, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / f"mugs{FORMATS[file_format]}"
    monkeypatch.setattr("ccpml.files.os", FailingCalls(lambda name, path: errno.ENOSPC if name == call else None))
    with pytest.raises(WriteError, match="No space left on device") as caught:
        export_run(own, file_format, target)
    assert str(caught.value).startswith(f"{target}: cannot be written (No space left on device); free some space")
    assert {path.name for path in tmp_path.iterdir()} == {"own"}


@pytest.mark.parametrize("step", ["compare", "model_card", "write_text"])
def test_an_interrupt_leaves_nothing(step: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(module, step, interrupt)
    for target in (None, tmp_path / "mugs.safetensors", tmp_path / "a" / "b" / "mugs.safetensors"):
        with pytest.raises(KeyboardInterrupt):
            export_run(own, "safetensors", target)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupt_between_card_and_model_leaves_nothing(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, count = Path.rename, [0]

    def second_fails(path: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt):
        export_run(own, "safetensors", tmp_path / "mugs.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"own"}


def test_a_disk_that_is_full_is_a_sentence(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(WriteError, match=r"mugs.safetensors: cannot be written \(No space left on device\)"):
        export_run(own, "safetensors", tmp_path / "mugs.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"own"}


def test_batches_of_the_check_are_smaller_and_larger_than_the_traced_one() -> None:
    assert min(BATCHES) == 1
    assert max(BATCHES) > 2


def test_the_embeddings_of_a_loaded_model_are_those_of_the_run_after_normalization(run: Path, tmp_path: Path) -> None:
    model = EmbeddingModel.from_pretrained(export_run(run, "hub", tmp_path / "mugs").path)
    assert not model.training
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        found, expected = model(images), load_run(run).model(images)
    torch.testing.assert_close(found, expected)
    assert lipschitz_normalize(found).norm(dim=1).max() <= 1 + 1e-6


def test_names_that_are_not_utf_8_survive(own: Path, tmp_path: Path) -> None:
    found = replace(describe_run(load_run(own), "mit")[0], split_of_class={"caf\udce9": "test"})
    for file_format in ("pt2", "safetensors", "hub"):
        WRITERS[file_format](tmp_path / file_format, EmbeddingGraph(load_run(own).model).eval(), found)
    assert EmbeddingModel.from_pretrained(tmp_path / "hub")
    assert add_description(b"", found)
    assert Description.from_json(found.to_json(), "x") == found


def test_what_another_process_has_exported_meanwhile_is_kept(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "model.safetensors"

    def slow(*arguments: Any) -> float:
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"of another process")
        return 0.0

    monkeypatch.setattr(module, "compare", slow)
    with pytest.raises(FileExistsError, match=r"model\.safetensors: already exists"):
        export_run(own, "safetensors", target)
    assert [(path.name, path.read_bytes()) for path in target.parent.iterdir()] == [
        (target.name, b"of another process")
    ]


def test_what_a_killed_export_has_left_is_removed_and_that_of_a_live_one_is_not(own: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    names = [f".model.{ended.pid}.tmp.safetensors", f".model.{os.getppid()}.tmp.safetensors", ".other.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
    export_run(own, "safetensors", tmp_path / "model.safetensors")
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {"own", *names[1:]}

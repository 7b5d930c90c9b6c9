"""Embeddings of an ONNX file are those of NumPy, and other files are refused in one sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from ccpml.data import EvalTransform, ImageTable
from ccpml.data.images.read import BadImageError, read_image
from ccpml.exported import DescriptionError, ExportedModel, ExportedModelError
from tests.exported.onnx_models import DIM, SIZE, describe, expected, weights, with_digest, write_model


@pytest.fixture
def model(tmp_path: Path) -> ExportedModel:
    return ExportedModel(write_model(tmp_path / "model.onnx"), threads=1)


def crops(images, channels: int = 3) -> np.ndarray:
    """Images cropped one by one, (N, C, size, size)."""
    transform = EvalTransform(SIZE, SIZE + 1)
    return np.stack([transform(read_image(x, channels, transform.min_size)).transpose(2, 0, 1) for x in images])


def test_embeddings_are_those_of_the_definition(model: ExportedModel, tmp_path: Path):
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (9 + i, 12, 3), np.uint8) for i in range(5)]
    files = []
    for number, array in enumerate(arrays):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(array).save(files[-1])
    wanted = expected(crops(arrays), weights())
    assert (np.linalg.norm(wanted, axis=1) > 0.999).sum() > 0  # φ has something to do
    for images in (arrays, files, list(map(str, files)), [file.read_bytes() for file in files]):
        found = model.embed(images, batch_size=2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert model.embed([]).shape == (0, DIM)


def test_one_channel(tmp_path: Path):
    model = ExportedModel(write_model(tmp_path / "gray.onnx", describe(channels=1)))
    images = [np.random.default_rng(2).integers(0, 256, (8, 10, 3), np.uint8)]
    np.testing.assert_allclose(model.embed(images), expected(crops(images, 1), weights(1)), atol=1e-6)


def test_a_table_is_embedded_with_progress_and_rotated_as_it_says(model: ExportedModel, tmp_path: Path):
    file, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)).save(file, exif=exif)
    table = ImageTable((file, file, file), np.array([0, 0, 0]), ("a",))
    done = list[int]()
    np.testing.assert_array_equal(model.embed_table(table, done.append, batch_size=2), model.embed([file] * 3))
    assert done == [2, 1]
    stored = model.embed_table(replace(table, rotate=False))
    np.testing.assert_allclose(stored, model.embed([read_image(file, 3, rotate=False)] * 3), atol=1e-6)


def test_images_that_cannot_be_read_are_named(model: ExportedModel, tmp_path: Path):
    with pytest.raises(BadImageError, match=r"missing\.png"):
        model.embed([tmp_path / "missing.png"])
    with pytest.raises(ValueError, match=r"expected a sequence of images, got the path a\.png"):
        model.embed("a.png")


def test_embeddings_that_are_not_finite_are_refused_by_name(tmp_path: Path):
    w = weights()
    w[0, 0] = np.nan
    model = ExportedModel(write_model(tmp_path / "nan.onnx", w=w))
    with pytest.raises(ExportedModelError, match=r"nan\.onnx: expected finite embeddings, got NaN or .* for image 0;"):
        model.embed([np.ones((9, 9, 3), np.uint8)])
    table = ImageTable(np.ones((2, 9, 9), np.uint8), np.array([0, 1]), ("a", "b"), name="set")
    with pytest.raises(ExportedModelError, match=r"for set\[0\]; the weights have diverged or are damaged"):
        model.embed_table(table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("image", "embeddings")}, r"expected the input images tensor\(uint8\) \['batch', 3, 6, 6\], got"),
        ({"names": ("images", "y")}, r"expected the output embeddings tensor\(float\) \['batch', 4\], got y tensor"),
        ({"batch": 8}, r"expected the input images .* got images tensor\(uint8\) \[8, 3, 6, 6\]; export the run again"),
        (
            {"description": describe(embedding_dim=5), "w": weights()},
            r"\['batch', 5\], got embeddings tensor\(float\) \['batch', 4\]",
        ),
    ],
)
def test_a_graph_that_is_not_as_described_is_refused(changes, message, tmp_path: Path):
    with pytest.raises(ExportedModelError, match=message) as caught:
        ExportedModel(write_model(tmp_path / "m.onnx", **changes))
    assert "\n" not in str(caught.value)


def test_a_file_that_onnxruntime_cannot_load_is_one_sentence(tmp_path: Path):
    file = write_model(tmp_path / "m.onnx")
    content = onnx.load(file)
    content.graph.node[0].op_type = "OperatorOfTheFuture"
    file.write_bytes(content.SerializeToString())
    with pytest.raises(ExportedModelError, match=r"m\.onnx: onnxruntime \S+ cannot load it \(.*OperatorOfTheFuture"):
        ExportedModel(file)


def test_a_changed_file_is_refused(tmp_path: Path):
    file = with_digest(write_model(tmp_path / "m.onnx"))
    ExportedModel(file)
    content = bytearray(file.read_bytes())
    content[content.index(weights().tobytes()[:16]) + 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DescriptionError, match="damaged, or changed since it was exported; export the run again"):
        ExportedModel(file)

"""The formats: what a network was written to embeds as the network does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from ccpml.exported import Description
from ccpml.exporting.check import compare
from ccpml.exporting.errors import ExportError
from ccpml.exporting.formats import READERS, WRITERS, Embed
from ccpml.exporting.graph import EmbeddingGraph
from ccpml.models import (
    Backbone,
    BNInception,
    EfficientNetLite0,
    EmbeddingModel,
    InputConvention,
    Pooling,
    ResNet50,
    SmallConv,
    bn_inception,
    efficientnet_lite0,
    resnet50,
)


class Pixels(Backbone):
    """The pixels themselves, times a scale."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.convention = InputConvention(3, 8, scale=scale, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.out_channels = 3

    def forward(self, images: Tensor) -> Tensor:
        return images


def write(model: EmbeddingModel, size: int, file_format: str, folder: Path) -> Embed:
    """Write a network and return what was read back."""
    channels = model.backbone.convention.channels
    target = folder / f"model.{file_format}"
    description = Description("0" * 64, model.linear.out_features, channels, size, size)
    WRITERS[file_format](target, EmbeddingGraph(model), description)
    return READERS[file_format](target)


def noise(count: int, channels: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


@pytest.mark.parametrize("file_format", ["onnx", "pt2"])
def test_short_vectors_are_kept_and_long_ones_have_length_one(file_format: str, tmp_path: Path) -> None:
    model = EmbeddingModel(Pixels(scale=4.0), embedding_dim=3).eval()
    nn.init.eye_(model.linear.weight)
    embed = write(model, 8, file_format, tmp_path)
    colors = np.array([[0, 0, 0], [1, 0, 0], [30, 40, 0], [63, 0, 0], [64, 0, 0], [90, 120, 0], [255, 255, 255]])
    colors = np.concatenate([colors, np.random.default_rng(0).integers(0, 128, (9, 3))])
    images = np.broadcast_to(colors[:, :, None, None], (len(colors), 3, 8, 8)).astype(np.uint8)
    points = 4 * colors / 255
    expected = points / np.maximum(1, np.linalg.norm(points, axis=1))[:, None]  # φ, by its definition
    np.testing.assert_allclose(embed(images), expected, atol=3e-7)
    for row in range(3):  # and alone
        np.testing.assert_allclose(embed(images[row : row + 1]), expected[row : row + 1], atol=3e-7)


def test_lengths_whose_square_overflows_become_one(tmp_path: Path) -> None:
    model = EmbeddingModel(Pixels(scale=1e30), embedding_dim=3).eval()
    nn.init.eye_(model.linear.weight)
    images = np.full((2, 3, 8, 8), 100, np.uint8)
    np.testing.assert_allclose(write(model, 8, "pt2", tmp_path)(images), 3**-0.5, rtol=1e-6)


def small(kind: type[Backbone], monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """Build a backbone with few of its blocks."""
    stage = resnet50._stage

    def short_stage(before: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        return stage(before, width, 1, stride) if width <= 128 else nn.Sequential()

    monkeypatch.setattr(resnet50, "_stage", short_stage)
    kept = {name: bn_inception._BLOCKS[name] for name in ("inception_3a", "inception_3c")}
    monkeypatch.setattr(bn_inception, "_BLOCKS", kept)
    monkeypatch.setattr(efficientnet_lite0, "_STAGES", efficientnet_lite0._STAGES[:2])
    torch.manual_seed(0)
    backbone = kind(3) if kind is SmallConv else kind()  # type: ignore[call-arg]
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    size = backbone.convention.image_size
    backbone.out_channels = backbone.eval()(torch.zeros(1, 3, size, size)).shape[1]
    return backbone


@pytest.mark.parametrize(
    ("kind", "size", "pooling", "file_format"),
    [
        (SmallConv, 35, "max", "pt2"),
        (EfficientNetLite0, 34, "avg+max", "onnx"),
        (ResNet50, 33, "avg+max", "pt2"),
        (BNInception, 33, "avg", "pt2"),
    ],
)
def test_each_family_survives_a_round_trip(
    kind: type[Backbone],
    size: int,
    pooling: Pooling,
    file_format: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # tools/check_exports.py does this in full size, for all formats
    model = EmbeddingModel(small(kind, monkeypatch), 16, pooling, freeze_batchnorm=kind is not SmallConv).eval()
    embed = write(model, size, file_format, tmp_path)
    compare(EmbeddingGraph(model), embed, noise(5, 3, size), "model", batches=(1, 2, 5))


def devices_of(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.kwargs["device"]) for node in program.graph.nodes if "device" in node.kwargs}


def test_a_pass_of_torch_moves_a_program_to_another_device(tmp_path: Path) -> None:
    write(EmbeddingModel(SmallConv(), 16).eval(), 32, "pt2", tmp_path)
    program = torch.export.load(tmp_path / "model.pt2")
    assert devices_of(program) == {"cpu"}  # as docs/export.md says: without the pass, it refuses other images
    moved = move_to_device_pass(program, "meta")
    assert devices_of(moved) == {"meta"}
    embeddings = moved.module()(torch.zeros(3, 1, 32, 32, dtype=torch.uint8, device="meta"))
    assert (embeddings.shape, embeddings.device.type) == ((3, 16), "meta")


def test_a_network_that_cannot_be_traced_is_a_sentence(tmp_path: Path) -> None:
    class Stubborn(Pixels):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum().item() > 0 else -images

    model = EmbeddingModel(Stubborn(), embedding_dim=3).eval()
    with pytest.raises(ExportError, match=r"^the network cannot be traced by torch.export \(.+\)$"):
        write(model, 8, "pt2", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda images: np.zeros((len(images), 3), np.float32), "got a difference of"),
        (lambda images: np.zeros((1, 4), np.float32), "expected embeddings (1, 3), got (1, 4)"),
        (lambda images: np.full((len(images), 3), np.nan, np.float32), "got a difference of nan"),
    ],
)
def test_another_embedding_is_an_error(wrong: Embed, message: str) -> None:
    model = EmbeddingModel(Pixels(), embedding_dim=3).eval()
    with pytest.raises(ExportError) as raised:
        compare(EmbeddingGraph(model), wrong, noise(2, 3, 8), "x.onnx", batches=(1, 2))
    assert message in str(raised.value)


def test_an_interrupt_that_torch_turns_into_an_error_is_still_one(tmp_path: Path) -> None:
    class Interrupted(Pixels):
        def forward(self, images: Tensor) -> Tensor:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as interrupt:
                raise RuntimeError("step 2/3 failed") from interrupt

    with pytest.raises(KeyboardInterrupt):
        write(EmbeddingModel(Interrupted(), embedding_dim=3).eval(), 8, "pt2", tmp_path)

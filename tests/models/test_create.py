from pathlib import Path

import pytest
import torch
from torch import nn

from ccpml.models import BNInception, EmbeddingModel, ResNet50, SmallConv, create_model


@pytest.mark.parametrize("channels", [1, 3])
def test_small_conv(channels: int) -> None:
    model = create_model("small_conv", embedding_dim=8, pooling="avg+max", channels=channels)
    assert isinstance(model.backbone, SmallConv)
    assert model.pooling == "avg+max"
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, 8)


@pytest.mark.parametrize(("name", "kind"), [("bn_inception", BNInception), ("resnet50", ResNet50)])
def test_paper_backbones_take_color_and_gray(name: str, kind: type[nn.Module]) -> None:
    model = create_model(name, freeze_batchnorm=True, image_size=64)
    assert isinstance(model.backbone, kind)
    assert not any(part.training for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    for channels in (1, 3):
        assert model(torch.rand(2, channels, 64, 64)).shape == (2, 128)


def test_weights_are_loaded_into_the_backbone(tmp_path: Path) -> None:
    published = SmallConv(3)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    model = create_model("small_conv", weights=tmp_path / "weights.pth", freeze_batchnorm=True)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, published.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"weights\.pth does not fit SmallConv: 1 mis-shaped"):
        create_model("small_conv", channels=1, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["resnet18", "SmallConv", "", "timm"])
def test_unknown_backbone_lists_the_known_ones(name: str) -> None:
    known = "small_conv, efficientnet_lite0, bn_inception, resnet50, timm:<name>"
    with pytest.raises(ValueError, match=f"backbone: expected one of {known}, got '{name}'"):
        create_model(name)


@pytest.mark.parametrize("name", ["bn_inception", "resnet50", "timm:resnet18"])
def test_only_small_conv_can_be_gray(name: str) -> None:
    with pytest.raises(ValueError, match=f"channels: expected 3 for {name}"):
        create_model(name, channels=1)


def test_invalid_channels() -> None:
    with pytest.raises(ValueError, match="channels: expected 1 or 3, got 2"):
        create_model("small_conv", channels=2)


@pytest.mark.parametrize(("name", "kind"), [("bn_inception", BNInception), ("resnet50", ResNet50)])
def test_imagenet_loads_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[nn.Module]
) -> None:
    published = kind().state_dict()
    path = tmp_path / "published.pth"
    torch.save({key: tensor[None] if tensor.ndim == 1 else tensor for key, tensor in published.items()}, path)
    requested = []

    def find(backbone: str) -> Path:
        requested.append(backbone)
        return path

    monkeypatch.setattr("ccpml.models.create.imagenet_weights", find)
    model = create_model(name, weights="imagenet")
    assert requested == [name]
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, published[key]), key


def test_small_conv_has_no_imagenet_weights() -> None:
    with pytest.raises(ValueError, match="weights: no ImageNet weights are published for small_conv"):
        create_model("small_conv", weights="imagenet")


def test_weights_of_a_model_or_a_run_initialize_another(tmp_path: Path) -> None:
    model = EmbeddingModel(ResNet50(), 8)
    for prefix in ("", "model."):
        state = {f"{prefix}{key}": tensor for key, tensor in model.state_dict().items()}
        torch.save({**state, **({"criterion.proxies": torch.zeros(3, 8)} if prefix else {})}, tmp_path / "mine.pt")
        backbone = create_model("resnet50", embedding_dim=4, weights=tmp_path / "mine.pt").backbone
        assert torch.equal(backbone.state_dict()["layer4.2.conv3.weight"], model.backbone.layer4[2].conv3.weight)

from pathlib import Path

import pytest
import torch
from torch import nn

from ccpml.models import BNInception, SmallConv, create_model


@pytest.mark.parametrize("channels", [1, 3])
def test_small_conv(channels: int) -> None:
    model = create_model("small_conv", embedding_dim=8, pooling="avg+max", channels=channels)
    assert isinstance(model.backbone, SmallConv)
    assert model.pooling == "avg+max"
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, 8)


def test_bn_inception_takes_colour_and_grey() -> None:
    model = create_model("bn_inception", freeze_batchnorm=True)
    assert isinstance(model.backbone, BNInception)
    assert not any(part.training for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    for channels in (1, 3):
        assert model(torch.rand(2, channels, 64, 64)).shape == (2, 128)


def test_weights_are_those_of_the_backbone(tmp_path: Path) -> None:
    published = SmallConv(3)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    model = create_model("small_conv", weights=tmp_path / "weights.pth", freeze_batchnorm=True)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, published.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"weights\.pth does not fit SmallConv: 1 mis-shaped"):
        create_model("small_conv", channels=1, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["resnet50", "SmallConv", "", "timm"])
def test_an_unknown_name_lists_what_exists(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected 'small_conv', 'bn_inception' or 'timm:<name>', got '{name}'"):
        create_model(name)


@pytest.mark.parametrize("name", ["bn_inception", "timm:resnet18"])
def test_grey_networks_are_small_conv_alone(name: str) -> None:
    with pytest.raises(ValueError, match=f"channels: {name} needs channels=3"):
        create_model(name, channels=1)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="channels: expected 1 or 3, got 2"):
        create_model("small_conv", channels=2)

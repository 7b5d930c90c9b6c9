import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ccpml.models import EmbeddingModel, TimmBackbone, create_model

_DECLARED: list[torch.library.Library] = []


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    """The library itself; beside a torchvision of another torch, the operators that it misses are declared."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    for operator in ("nms", "qnms", None):
        try:
            return importlib.import_module("timm")
        except (ImportError, RuntimeError) as error:
            if operator is None or f"torchvision::{operator}" not in str(error):
                pytest.skip(f"timm cannot be imported: {error}")
        _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
        _DECLARED[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        forget("torchvision")
        forget("timm")
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (2, 512, 2, 3)),
        ("mobilenetv3_small_050", (2, 1024, 2, 3)),
    ],
)
def test_feature_maps_stay_as_they_are(timm: ModuleType, name: str, shape: tuple[int, ...]) -> None:
    backbone = TimmBackbone(name).eval()
    images = torch.rand(2, 3, 64, 96)
    features = backbone(images)
    assert features.shape == shape
    assert backbone.out_channels == shape[1]
    torch.testing.assert_close(features, backbone.model(images))


def test_channels_last_maps_are_turned_round(timm: ModuleType) -> None:
    backbone = TimmBackbone("swin_tiny_patch4_window7_224").eval()
    images = torch.rand(1, 3, 224, 224)
    features = backbone(images)
    assert features.shape == (1, 768, 7, 7)
    torch.testing.assert_close(features, backbone.model(images).permute(0, 3, 1, 2))


def test_of_tokens_the_class_token_is_taken(timm: ModuleType) -> None:
    backbone = TimmBackbone("vit_tiny_patch16_224").eval()
    images = torch.rand(2, 3, 224, 224)
    features = backbone(images)
    assert features.shape == (2, 192, 1, 1)
    torch.testing.assert_close(features[:, :, 0, 0], backbone.model(images)[:, 0])


def test_convention_is_timms(timm: ModuleType) -> None:
    convention = TimmBackbone("resnet18").convention
    assert (convention.channels, convention.image_size, convention.scale, convention.bgr) == (3, 224, 1.0, False)
    assert convention.mean == (0.485, 0.456, 0.406)
    assert convention.std == (0.229, 0.224, 0.225)


def test_gradients_reach_every_parameter(timm: ModuleType) -> None:
    model = create_model("timm:resnet18", embedding_dim=4, freeze_batchnorm=True)
    model(torch.randint(256, (2, 1, 64, 64), dtype=torch.uint8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert not any(part.training for part in model.modules() if isinstance(part, nn.BatchNorm2d))


def test_published_files_load_but_for_their_head(timm: ModuleType, tmp_path: Path) -> None:
    published = timm.create_model("resnet18", pretrained=False)
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    backbone = create_model("timm:resnet18", weights=tmp_path / "resnet18.pth").backbone
    assert isinstance(backbone, TimmBackbone)
    torch.testing.assert_close(backbone.model.conv1.weight, published.conv1.weight)


def test_timm_itself_knows_no_such_model(timm: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"timm has no model 'resnet_18' \(.*resnet18"):
        create_model("timm:resnet_18")
    with pytest.raises(ValueError, match="timm has no model 'hf-hub:some/model'"):
        create_model("timm:hf-hub:some/model")


class Fake(nn.Module):
    """A model as timm would give it."""

    num_features = 6
    head_hidden_size = 5

    def __init__(self, features: Tensor, **attributes: object) -> None:
        super().__init__()
        self.features = features
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, _images: Tensor) -> Tensor:
        return self.features


TOKENS = torch.arange(2 * 7 * 5.0).view(2, 7, 5)
MAP = torch.arange(2 * 5 * 3 * 4.0).view(2, 5, 3, 4)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, nn.Module]:
    """A stand-in for timm with just these models."""
    known: dict[str, nn.Module] = {}

    def create(name: str, **arguments: object) -> nn.Module:
        assert arguments == {"pretrained": False, "num_classes": 0, "global_pool": ""}
        if name == "always_pooled":
            raise AssertionError("Cannot disable pooling")
        return known[name]

    config = {"input_size": (3, 48, 48), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    data = SimpleNamespace(resolve_model_data_config=lambda _model: config)
    fake = SimpleNamespace(
        create_model=create,
        is_model=lambda name: name in {*known, "always_pooled"},
        list_models=lambda: sorted(known),
        data=data,
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return known


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Fake(MAP), MAP),
        (Fake(MAP.permute(0, 2, 3, 1)), MAP),
        (Fake(TOKENS), TOKENS.mT[..., None]),
        (Fake(TOKENS, num_prefix_tokens=2), TOKENS[:, 2:].mT[..., None]),
        (Fake(TOKENS, num_prefix_tokens=2, cls_token=torch.zeros(1)), TOKENS[:, :1].mT[..., None]),
        (Fake(TOKENS, num_prefix_tokens=1, has_class_token=True), TOKENS[:, :1].mT[..., None]),
        (Fake(TOKENS, num_prefix_tokens=4, has_class_token=False, cls_token=None), TOKENS[:, 4:].mT[..., None]),
    ],
)
def test_every_layout_becomes_a_map(models: dict[str, nn.Module], model: Fake, expected: Tensor) -> None:
    models["fake"] = model
    backbone = TimmBackbone("fake")
    assert backbone.out_channels == 5
    assert torch.equal(backbone(torch.zeros(2, 3, 48, 48)), expected)


def test_pooling_is_over_patches(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(TOKENS, num_prefix_tokens=3)
    model = EmbeddingModel(TimmBackbone("fake"), 5, pooling="max")
    nn.init.eye_(model.linear.weight)
    assert torch.equal(model(torch.zeros(2, 3, 48, 48)), TOKENS[:, 3:].amax(1))


def test_the_convention_is_the_models(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(MAP)
    convention = TimmBackbone("fake").convention
    assert (convention.channels, convention.image_size) == (3, 48)
    assert (convention.mean, convention.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_an_unknown_model_is_answered_with_its_like(models: dict[str, nn.Module]) -> None:
    models["resnet50"] = Fake(MAP)
    with pytest.raises(ValueError, match=r"backbone: timm has no model 'resnet5' \(resnet50\)"):
        create_model("timm:resnet5")
    with pytest.raises(ValueError, match=r"timm has no model '' \(timm.list_models\(\) has its names\)"):
        create_model("timm:")


def test_a_model_that_always_pools_is_refused(models: dict[str, nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"'always_pooled' does not give features before pooling \(Cannot disable"):
        create_model("timm:always_pooled")


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeError, match=r"pip install 'ccpml\[timm\]', with a torchvision built for the same torch"):
        create_model("timm:resnet18")


def test_so_it_does_beside_a_torchvision_of_another_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "operator torchvision::nms does not exist"
    (tmp_path / "timm.py").write_text(f"raise RuntimeError({reason!r})")
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match=rf"{reason}\): pip install 'ccpml\[timm\]'"):
        create_model("timm:resnet18")

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ccpml.extras import MissingExtraError
from ccpml.models import EmbeddingModel, TimmBackbone, create_model


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (2, 512, 2, 3)),
        ("mobilenetv3_small_050", (2, 1024, 2, 3)),
    ],
)
def test_feature_maps_are_unchanged(timm: ModuleType, name: str, shape: tuple[int, ...]) -> None:
    backbone = TimmBackbone(name).eval()
    images = torch.rand(2, 3, 64, 96)
    features = backbone(images)
    assert features.shape == shape
    assert backbone.out_channels == shape[1]
    torch.testing.assert_close(features, backbone.model(images))


def test_channels_last_maps_are_permuted(timm: ModuleType) -> None:
    backbone = TimmBackbone("swin_tiny_patch4_window7_224").eval()
    images = torch.rand(1, 3, 224, 224)
    features = backbone(images)
    assert features.shape == (1, 768, 7, 7)
    torch.testing.assert_close(features, backbone.model(images).permute(0, 3, 1, 2))


def test_class_token_is_selected(timm: ModuleType) -> None:
    backbone = TimmBackbone("vit_tiny_patch16_224").eval()
    images = torch.rand(2, 3, 224, 224)
    features = backbone(images)
    assert features.shape == (2, 192, 1, 1)
    torch.testing.assert_close(features[:, :, 0, 0], backbone.model(images)[:, 0])


@pytest.mark.parametrize(
    ("name", "size", "patches"),
    [
        ("vit_small_patch16_224", 224, 196),
        ("vit_small_patch16_224.dino", 240, 225),
        ("vit_small_patch14_dinov2.lvd142m", 224, 256),
    ],
)
def test_vision_transformers_are_built_for_the_image_size(timm: ModuleType, name: str, size: int, patches: int) -> None:
    model = create_model(f"timm:{name}", embedding_dim=8, image_size=size).eval()
    backbone = model.backbone
    assert isinstance(backbone, TimmBackbone)
    images = torch.rand(1, 3, size, size)
    tokens = backbone.model(images)
    assert tokens.shape == (1, 1 + patches, 384)
    assert torch.equal(backbone(images)[:, :, 0, 0], tokens[:, 0])
    assert backbone.convention.image_size == size
    assert model(images).shape == (1, 8)
    with pytest.raises(ValueError, match=rf"images: timm's {name} does not take 227 × 227 \(.*; pass image_size"):
        backbone(torch.rand(1, 3, 227, 227))


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("vit_small_patch16_224", 227, (16, "got 227; nearest: 224 or 240")),
        ("vit_small_patch14_dinov2.lvd142m", 225, (14, "got 225; nearest: 224 or 238")),
        ("vit_tiny_patch16_224", 8, (16, "got 8; nearest: 16")),
    ],
)
def test_size_must_be_a_multiple_of_the_patch_size(
    timm: ModuleType, name: str, size: int, nearest: tuple[int, str]
) -> None:
    patch, got = nearest
    message = f"image_size: expected a multiple of {patch}, the patch size of timm's {name}, {got}"
    with pytest.raises(ValueError, match=message):
        create_model(f"timm:{name}", image_size=size)


def test_convolutional_network_takes_any_size(timm: ModuleType) -> None:
    backbone = TimmBackbone("resnet18", image_size=227).eval()
    assert backbone(torch.rand(1, 3, 227, 227)).shape == (1, 512, 8, 8)


def test_without_class_token_pooling_is_over_patches(timm: ModuleType) -> None:
    backbone = TimmBackbone("vit_base_patch16_siglip_224", image_size=32).eval()
    images = torch.rand(2, 3, 32, 32)
    tokens = backbone.model(images)
    assert backbone(images).shape == (2, 768, 4, 1)
    model = EmbeddingModel(backbone, 768, pooling="avg+max").eval()
    nn.init.eye_(model.linear.weight)
    model.mean.zero_()
    model.std.fill_(1)
    torch.testing.assert_close(model(images), tokens.mean(1) + tokens.amax(1))


def official_dinov2(weights: dict[str, Tensor], registers: bool) -> dict[str, Tensor]:
    """Rename as in DINOv2's release: blocks in one chunk, a mask token, a separate position of the class token."""
    named = {key.replace("blocks.", "blocks.0."): tensor for key, tensor in weights.items()}
    named["mask_token"] = torch.rand(1, 384)
    if registers:
        named["register_tokens"] = named.pop("reg_token")
        position = torch.rand(1, 1, 384)
        named["pos_embed"] = torch.cat([position, named["pos_embed"]], 1)
        named["cls_token"] = named["cls_token"] - position
    return named


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m"])
@torch.no_grad()
def test_dinov2_official_files_equal_those_of_timm(timm: ModuleType, name: str, tmp_path: Path) -> None:
    published = timm.create_model(name, pretrained=False, num_classes=0)  # for 518 × 518 images
    for tensor in published.state_dict().values():
        tensor.normal_(0, 0.02)
    own = {key: tensor.clone() for key, tensor in published.state_dict().items()}
    torch.save(official_dinov2(own, "reg4" in name), tmp_path / "dinov2.pth")
    backbone = create_model(f"timm:{name}", weights=tmp_path / "dinov2.pth", image_size=224).backbone.eval()
    published.set_input_size((224, 224))  # timm's own resampling of the positions
    images = torch.rand(1, 3, 224, 224)
    expected = published.eval().forward_features(images)[:, 0]
    torch.testing.assert_close(backbone(images)[:, :, 0, 0], expected)


def test_published_weights_without_a_network(timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"weights: published weights of timm's resnet10t not found") as caught:
        create_model("timm:resnet10t", weights="imagenet")
    assert "or pass a file" in str(caught.value)
    with pytest.raises(ValueError, match="No pretrained weights exist"):
        create_model("timm:vit_small_patch16_18x2_224", weights="imagenet")


def test_convention_equals_timm(timm: ModuleType) -> None:
    convention = TimmBackbone("resnet18").convention
    assert (convention.channels, convention.image_size, convention.scale, convention.bgr) == (3, 224, 1.0, False)
    assert convention.mean == (0.485, 0.456, 0.406)
    assert convention.std == (0.229, 0.224, 0.225)


def test_gradients_reach_every_parameter(timm: ModuleType) -> None:
    model = create_model("timm:resnet18", embedding_dim=4, freeze_batchnorm=True)
    model(torch.randint(256, (2, 1, 64, 64), dtype=torch.uint8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert not any(part.training for part in model.modules() if isinstance(part, nn.BatchNorm2d))


def test_published_file_loads_without_its_head(timm: ModuleType, tmp_path: Path) -> None:
    published = timm.create_model("resnet18", pretrained=False)
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    backbone = create_model("timm:resnet18", weights=tmp_path / "resnet18.pth").backbone
    assert isinstance(backbone, TimmBackbone)
    torch.testing.assert_close(backbone.model.conv1.weight, published.conv1.weight)


def test_unknown_models_of_timm(timm: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"'resnet_18' not found in timm; .*resnet18"):
        create_model("timm:resnet_18")
    with pytest.raises(ValueError, match=r"'vit_small_patch16_224.dyno' not found in timm; vit_small_patch16_224.dino"):
        create_model("timm:vit_small_patch16_224.dyno")
    with pytest.raises(ValueError, match="'hf-hub:some/model' not found in timm"):
        create_model("timm:hf-hub:some/model")


class Fake(nn.Module):
    """A stand-in for a model of timm."""

    num_features = 6
    head_hidden_size = 5
    fixed_size: int | None = None

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
    """Replace timm with a stand-in that has these models."""
    known: dict[str, nn.Module] = {}

    def create(name: str, pretrained: bool, img_size: int | None = None, **arguments: object) -> nn.Module:
        assert arguments == ({} if pretrained else {"num_classes": 0, "global_pool": ""})
        if name == "always_pooled":
            raise AssertionError("Cannot disable pooling")
        assert img_size == known[name].fixed_size
        return known[f"{name} published" if pretrained else name]

    def pretrained_config(name: str) -> SimpleNamespace | None:
        if name.endswith(".unknown"):
            raise RuntimeError("Invalid pretrained tag")
        return SimpleNamespace(fixed_input_size=known[name].fixed_size is not None) if name in known else None

    config = {"input_size": (3, 48, 48), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    data = SimpleNamespace(resolve_model_data_config=lambda _model: config)
    fake = SimpleNamespace(
        create_model=create,
        is_model=lambda name: name.removesuffix(".unknown") in {*known, "always_pooled"},
        get_pretrained_cfg=pretrained_config,
        list_models=lambda pretrained=False: sorted(known),
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
def test_layouts_become_feature_maps(models: dict[str, nn.Module], model: Fake, expected: Tensor) -> None:
    models["fake"] = model
    backbone = TimmBackbone("fake")
    assert backbone.out_channels == 5
    assert torch.equal(backbone(torch.zeros(2, 3, 48, 48)), expected)


def test_pooling_is_over_patches(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(TOKENS, num_prefix_tokens=3)
    model = EmbeddingModel(TimmBackbone("fake"), 5, pooling="max")
    nn.init.eye_(model.linear.weight)
    assert torch.equal(model(torch.zeros(2, 3, 48, 48)), TOKENS[:, 3:].amax(1))


def test_convention_is_that_of_the_model(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(MAP)
    convention = TimmBackbone("fake").convention
    assert (convention.channels, convention.image_size) == (3, 48)
    assert (convention.mean, convention.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_unknown_model_lists_similar_names(models: dict[str, nn.Module]) -> None:
    models["resnet50"] = Fake(MAP)
    with pytest.raises(ValueError, match=r"backbone: 'resnet5' not found in timm; resnet50"):
        create_model("timm:resnet5")
    with pytest.raises(ValueError, match=r"'xyz' not found in timm; timm.list_models\(\) has all names"):
        create_model("timm:xyz")


def test_unknown_variant_lists_similar_names(models: dict[str, nn.Module]) -> None:
    models["resnet50"] = Fake(MAP)
    with pytest.raises(ValueError, match=r"backbone: 'resnet50.unknown' not found in timm; resnet50"):
        create_model("timm:resnet50.unknown")


def test_models_of_fixed_size_are_built_for_the_image_size(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(TOKENS, fixed_size=48, patch_embed=SimpleNamespace(feat_ratio=lambda: 16))
    assert TimmBackbone("fake", image_size=48).convention.image_size == 48
    models["fake"].fixed_size = 50
    with pytest.raises(ValueError, match=r"expected a multiple of 16, .*, got 50; nearest: 48 or 64"):
        TimmBackbone("fake", image_size=50)


def test_models_of_any_size(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(MAP)
    assert TimmBackbone("fake", image_size=227).convention.image_size == 227


def test_images_of_another_size(models: dict[str, nn.Module]) -> None:
    class Strict(Fake):
        def forward(self, _images: Tensor) -> Tensor:
            raise AssertionError("Input height (40) doesn't match model (48).")

    models["fake"] = Strict(TOKENS)
    with pytest.raises(
        ValueError, match=r"images: timm's fake does not take 40 × 56 \(Input height .*; pass image_size"
    ):
        TimmBackbone("fake")(torch.zeros(1, 3, 40, 56))


def test_published_weights_are_loaded_without_the_head(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(MAP, body=nn.Linear(2, 3))
    models["fake published"] = Fake(MAP, body=nn.Linear(2, 3), anything=nn.Linear(3, 9))
    backbone = create_model("timm:fake", weights="imagenet").backbone
    assert isinstance(backbone, TimmBackbone)
    assert torch.equal(backbone.model.body.weight, models["fake published"].body.weight)


def test_published_weights_without_a_layer(models: dict[str, nn.Module]) -> None:
    """Networks that pool before their last norm have no weights for the norm here."""
    models["fake"] = Fake(MAP, body=nn.Linear(2, 3), norm=nn.LayerNorm(3))
    models["fake published"] = Fake(MAP, body=nn.Linear(2, 3), fc_norm=nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"weights: timm's fake has no published norm.weight, norm.bias"):
        create_model("timm:fake", weights="imagenet")


def test_unavailable_weights_are_named(models: dict[str, nn.Module]) -> None:
    models["fake"] = Fake(MAP)
    with pytest.raises(ValueError, match=r"weights: published weights of timm's fake not found, .* or pass a file"):
        create_model("timm:fake", weights="imagenet")


def test_model_that_always_pools(models: dict[str, nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"'always_pooled' does not return features before pooling \(Cannot disable"):
        create_model("timm:always_pooled")


def test_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        MissingExtraError, match=r"pip install timm \(the extra timm of ccpml\), with a torchvision built"
    ):
        create_model("timm:resnet18")


def test_torchvision_of_another_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "operator torchvision::nms does not exist"
    (tmp_path / "timm.py").write_text(f"raise RuntimeError({reason!r})")
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match=rf"{reason}\); pip install timm"):
        create_model("timm:resnet18")

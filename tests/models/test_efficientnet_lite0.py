import copy
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from ccpml.models import EfficientNetLite0, EmbeddingModel, create_model, imagenet_weights, load_weights

# Stages: number of blocks, kernel size, stride, expansion, output channels: the table of the paper, for Lite0.
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)]
STAGES += [(3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]


def published_graph(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Compute features layer by layer, by the table of the paper and TensorFlow's padding."""

    def unit(layer: str, norm: str, x: Tensor, stride: int = 1, act: bool = True) -> Tensor:
        kernel = weights[f"{layer}.weight"]
        for axis in (2, 3):
            size, n = kernel.shape[axis], x.shape[axis]
            total = max((-(-n // stride) - 1) * stride + size - n, 0)
            edges = [0, 0, total // 2, total - total // 2] if axis == 2 else [total // 2, total - total // 2]
            x = pad(x, edges)
        x = conv2d(x, kernel, None, stride, groups=x.shape[1] if kernel.shape[1] == 1 else 1)
        mean, var, scale, shift = (
            weights[f"{norm}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-3).sqrt() * scale + shift
        return x.clamp(0, 6) if act else x

    x = unit("conv_stem", "bn1", images, 2)
    for stage, (blocks, _, first_stride, expansion, _) in enumerate(STAGES):
        for block in range(blocks):
            name, stride = f"blocks.{stage}.{block}", first_stride if block == 0 else 1
            if expansion == 1:
                x = unit(f"{name}.conv_dw", f"{name}.bn1", x, stride)
                x = unit(f"{name}.conv_pw", f"{name}.bn2", x, act=False)
                continue
            y = unit(f"{name}.conv_pw", f"{name}.bn1", x)
            y = unit(f"{name}.conv_dw", f"{name}.bn2", y, stride)
            y = unit(f"{name}.conv_pwl", f"{name}.bn3", y, act=False)
            x = x + y if block else y
    return unit("conv_head", "bn2", x)


@pytest.fixture(scope="module")
def pretrained() -> EfficientNetLite0:
    model = EfficientNetLite0().eval()
    load_weights(model, imagenet_weights("efficientnet_lite0"))
    return model


def test_number_of_parameters() -> None:
    body = sum(parameter.numel() for parameter in EfficientNetLite0().parameters())
    assert body + 1280 * 1000 + 1000 == 4_652_008  # with the head, as published


@pytest.mark.parametrize("size", [(128, 128), (160, 160), (97, 64)])
@torch.no_grad()
def test_features_equal_the_published_graph(pretrained: EfficientNetLite0, size: tuple[int, int]) -> None:
    images = torch.randn(1, 3, *size)
    expected = published_graph(pretrained.state_dict(), images)
    assert expected.max() > 1
    assert expected.shape[2:] == tuple(-(-side // 32) for side in size)
    torch.testing.assert_close(pretrained(images), expected, rtol=1e-4, atol=5e-5)  # 1.6e-5 on some processors


@pytest.mark.parametrize("size", [(128, 128), (160, 160), (224, 224), (227, 193)])
@torch.no_grad()
def test_features_equal_timms(timm: ModuleType, pretrained: EfficientNetLite0, size: tuple[int, int]) -> None:
    published = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0, global_pool="").eval()
    published.load_state_dict(pretrained.state_dict())
    images = torch.randn(2, 3, *size)
    expected = published(images)
    torch.testing.assert_close(pretrained(images), expected, rtol=0, atol=1e-5 * float(expected.max()))
    exact = copy.deepcopy(pretrained).double()(images.double())
    torch.testing.assert_close(exact, published.double()(images.double()))


@pytest.mark.parametrize("size", [1, 32, 33])
@torch.no_grad()
def test_image_sizes(size: int) -> None:
    features = EfficientNetLite0().eval()(torch.randn(2, 3, size, size))
    assert features.shape == (2, 1280, -(-size // 32), -(-size // 32))
    assert features.isfinite().all()


def test_the_package_of_weights_is_loaded_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccpml.models.hub.download", lambda *_: pytest.fail("a download was tried"))
    model = create_model("efficientnet_lite0", weights="imagenet", freeze_batchnorm=True)
    own = torch.load(imagenet_weights("efficientnet_lite0"), weights_only=True)
    state = model.backbone.state_dict()
    assert torch.equal(state["conv_stem.weight"], own["_conv_stem.weight"])
    assert torch.equal(state["blocks.0.0.conv_pw.weight"], own["_blocks.0._project_conv.weight"])
    assert torch.equal(state["blocks.5.3.bn2.running_var"], own["_blocks.14._bn1.running_var"])
    assert torch.equal(state["bn2.bias"], own["_bn1.bias"])


def test_files_with_timms_names(tmp_path, pretrained: EfficientNetLite0) -> None:
    head = {"classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)}
    torch.save({"state_dict": {**pretrained.state_dict(), **head}}, tmp_path / "timm.pth")
    model = EfficientNetLite0()
    load_weights(model, tmp_path / "timm.pth")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, pretrained.state_dict()[name]), name


def test_unknown_names_of_the_package_are_reported(tmp_path, pretrained: EfficientNetLite0) -> None:
    state = torch.load(imagenet_weights("efficientnet_lite0"), weights_only=True)
    state["_blocks.16._bn0.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"does not fit EfficientNetLite0: 1 unexpected \(_blocks.16._bn0.weight\)"):
        load_weights(EfficientNetLite0(), tmp_path / "more.pth")


def test_input_is_rgb_minus_127_by_128() -> None:
    model = EmbeddingModel(EfficientNetLite0(), 8).eval()
    inputs: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 255
    model(red)
    torch.testing.assert_close(inputs[0][0, :, 0, 0], torch.tensor([1.0, -127 / 128, -127 / 128]))


def test_trains_with_batchnorm_frozen() -> None:
    model = EmbeddingModel(EfficientNetLite0(), 8, freeze_batchnorm=True)
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert 1e-3 < model.backbone(torch.randn(2, 3, 64, 64)).std() < 1e3
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    frozen = {id(parameter) for norm in norms for parameter in norm.parameters()}
    assert len(frozen) == 2 * 49
    for name, parameter in model.named_parameters():
        if id(parameter) in frozen:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

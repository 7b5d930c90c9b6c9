import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d

from ccpml.models import BNInception, EmbeddingModel

# SHA-256 of the sorted lines "name shape" of the published state dict, without its head and num_batches_tracked.
PUBLISHED_NAMES = "1b2f6380c6e1d8612ccf2d584b9a2817c9bf292d59e65a2785560586196e862a"


def randomized(model: BNInception) -> BNInception:
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.3, 1)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
        elif "_bn." in name and name.endswith("weight"):
            tensor.normal_(1, 0.2)
    return model.eval()


def published_graph(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Compute features layer by layer, as in the published prototxt."""

    def unit(name: str, x: Tensor, stride: int = 1, pad: int = 0) -> Tensor:
        x = conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, pad)
        mean, var, scale, shift = (
            weights[f"{name}_bn.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp_min(0)

    x = max_pool2d(unit("conv1_7x7_s2", images, stride=2, pad=3), 3, 2, ceil_mode=True)
    x = unit("conv2_3x3", unit("conv2_3x3_reduce", x), pad=1)
    x = max_pool2d(x, 3, 2, ceil_mode=True)
    for block in ["3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]:
        name = f"inception_{block}"
        stride = 2 if block in {"3c", "4e"} else 1
        three = unit(f"{name}_3x3", unit(f"{name}_3x3_reduce", x), stride, pad=1)
        double = unit(f"{name}_double_3x3_1", unit(f"{name}_double_3x3_reduce", x), pad=1)
        double = unit(f"{name}_double_3x3_2", double, stride, pad=1)
        if stride == 2:
            x = torch.cat([three, double, max_pool2d(x, 3, 2, ceil_mode=True)], 1)
            continue
        if block == "5b":
            pooled = max_pool2d(x, 3, 1, padding=1)
        else:
            pooled = avg_pool2d(x, 3, 1, padding=1, count_include_pad=True)
        x = torch.cat([unit(f"{name}_1x1", x), three, double, unit(f"{name}_pool_proj", pooled)], 1)
    return x


def oracle() -> ModuleType:
    """Import the published code, without the rest of its package, which needs torchvision."""
    package = importlib.util.find_spec("pretrainedmodels")
    if package is None or package.origin is None:
        pytest.skip("pretrainedmodels (the published code) is not installed")
    spec = importlib.util.spec_from_file_location(
        "published_bninception", Path(package.origin).parent / "models" / "bninception.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_and_shapes_equal_the_published_ones() -> None:
    state = BNInception().state_dict()
    lines = sorted(
        f"{name} {tuple(tensor.shape)}" for name, tensor in state.items() if not name.endswith("num_batches_tracked")
    )
    assert len(lines) == 6 * 69
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PUBLISHED_NAMES


@pytest.mark.parametrize("size", [(227, 227), (193, 64)])
@torch.no_grad()
def test_features_equal_the_published_graph(size: tuple[int, int]) -> None:
    model = randomized(BNInception()).double()
    images = 50 * torch.randn(1, 3, *size, dtype=torch.float64)
    expected = published_graph(model.state_dict(), images)
    assert expected.abs().max() > 1
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("size", [(224, 224), (227, 227), (193, 257)])
@torch.no_grad()
def test_features_equal_the_published_code(size: tuple[int, int]) -> None:
    published, model = oracle().BNInception().double().eval(), randomized(BNInception()).double()
    differences = published.load_state_dict(model.state_dict(), strict=False)
    assert differences.missing_keys == ["last_linear.weight", "last_linear.bias"]
    assert not differences.unexpected_keys
    images = 50 * torch.randn(1, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(images), published.features(images))


@pytest.mark.parametrize("size", [7, 28, 100, 127])
@torch.no_grad()
def test_image_sizes(size: int) -> None:
    features = BNInception().eval()(torch.randn(1, 3, size, size))
    assert features.shape[:2] == (1, 1024)
    assert features.isfinite().all()


def test_images_too_small() -> None:
    with pytest.raises(ValueError, match="at least 7 × 7 for bn_inception, got 6 × 64"):
        BNInception()(torch.zeros(1, 3, 6, 64))


def test_input_is_bgr_in_0_to_255_minus_the_published_mean() -> None:
    model = EmbeddingModel(BNInception(), 8)
    inputs: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 255
    model.eval()(red)
    torch.testing.assert_close(inputs[0][0, :, 0, 0], torch.tensor([-104.0, -117.0, 255.0 - 128.0]))
    assert model.backbone.convention.image_size == 227


def test_trains_with_batchnorm_frozen() -> None:
    model = EmbeddingModel(BNInception(), 8, freeze_batchnorm=True)
    images = torch.rand(2, 3, 64, 64)
    model(images).square().sum().backward()
    spread = model.backbone(torch.randn(2, 3, 64, 64)).std()
    assert 1e-3 < spread < 1e3
    for name, parameter in model.named_parameters():
        if "_bn." in name:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

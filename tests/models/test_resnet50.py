import hashlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from ccpml.models import EmbeddingModel, ResNet50

# SHA-256 of the sorted lines "name shape" of torchvision's state dict, without its head and num_batches_tracked.
PUBLISHED_NAMES = "9fb760970125b1e99b28e16313c7736f260697133afbbaf25117831c5a3059ec"

# Number of blocks, their inner channels, their output channels: the table of the paper.
STAGES = {"layer1": (3, 64, 256), "layer2": (4, 128, 512), "layer3": (6, 256, 1024), "layer4": (3, 512, 2048)}


def published_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    def unit(name: str, norm: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{norm}.{part}", shape[:1]
        yield f"{norm}.num_batches_tracked", ()

    yield from unit("conv1", "bn1", 64, 3, 7, 7)
    before = 64
    for stage, (blocks, width, after) in STAGES.items():
        for block in range(blocks):
            name = f"{stage}.{block}"
            yield from unit(f"{name}.conv1", f"{name}.bn1", width, before, 1, 1)
            yield from unit(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
            yield from unit(f"{name}.conv3", f"{name}.bn3", after, width, 1, 1)
            if block == 0:
                yield from unit(f"{name}.downsample.0", f"{name}.downsample.1", after, before, 1, 1)
            before = after


def published_graph(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Compute features layer by layer, by the table of the paper and torchvision's strides."""

    def unit(name: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        x = conv2d(x, kernel, None, stride, kernel.shape[-1] // 2)
        mean, var, scale, shift = (
            weights[f"{norm}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    x = max_pool2d(unit("conv1", "bn1", images, 2).clamp_min(0), 3, 2, 1)
    for stage, (blocks, _, _) in STAGES.items():
        for block in range(blocks):
            name, stride = f"{stage}.{block}", 2 if block == 0 and stage != "layer1" else 1
            branch = unit(f"{name}.conv1", f"{name}.bn1", x).clamp_min(0)
            branch = unit(f"{name}.conv2", f"{name}.bn2", branch, stride).clamp_min(0)
            branch = unit(f"{name}.conv3", f"{name}.bn3", branch)
            shortcut = unit(f"{name}.downsample.0", f"{name}.downsample.1", x, stride) if block == 0 else x
            x = (branch + shortcut).clamp_min(0)
    return x


def randomized(model: ResNet50) -> ResNet50:
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
        elif tensor.ndim == 1:
            tensor.normal_(0.6, 0.2)
    return model.eval()


def test_names_and_shapes_equal_the_published_ones() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in ResNet50().state_dict().items()}
    assert shapes == dict(published_shapes())
    lines = sorted(f"{name} {shape}" for name, shape in shapes.items() if not name.endswith("num_batches_tracked"))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PUBLISHED_NAMES


def test_number_of_parameters() -> None:
    body = sum(parameter.numel() for parameter in ResNet50().parameters())
    assert body == 23_508_032
    assert body + 2048 * 1000 + 1000 == 25_557_032  # with the head


@pytest.mark.parametrize("size", [(227, 227), (193, 64)])
@torch.no_grad()
def test_features_equal_the_published_graph(size: tuple[int, int]) -> None:
    model = randomized(ResNet50()).double()
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = published_graph(model.state_dict(), images)
    assert expected.abs().max() > 0.5
    assert expected.shape[2:] == tuple(-(-side // 32) for side in size)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("size", [1, 32, 33])
@torch.no_grad()
def test_image_sizes(size: int) -> None:
    features = ResNet50().eval()(torch.randn(2, 3, size, size))
    assert features.shape == (2, 2048, -(-size // 32), -(-size // 32))
    assert features.isfinite().all()


def test_input_is_normalized_by_imagenets_mean_and_deviation() -> None:
    model = EmbeddingModel(ResNet50(), 8).eval()
    inputs: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 255
    model(red)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(inputs[0][0, :, 0, 0], expected)


def test_trains_with_batchnorm_frozen() -> None:
    model = EmbeddingModel(ResNet50(), 8, freeze_batchnorm=True)
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert 1e-3 < model.backbone(torch.randn(2, 3, 64, 64)).std() < 1e3
    for name, parameter in model.named_parameters():
        if ".bn" in name or ".downsample.1" in name:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from ccpml.models import BNInception, EfficientNetLite0, ResNet50, convolution
from ccpml.models.convolution import convolve, relu, relu6
from ccpml.models.embedding import Backbone, freeze_batchnorm

# Input and output channels, kernel, stride, groups, whether there is a bias.
LAYERS = [(3, 8, 3, 2, 1, False), (6, 4, 1, 1, 1, True), (8, 8, 3, 1, 8, False), (8, 8, 5, 2, 8, True)]


def layers(case: tuple[int, int, int, int, int, bool]) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    before, after, size, stride, groups, bias = case
    norm = nn.BatchNorm2d(after, eps=1e-3)
    for tensor in (norm.running_mean, norm.bias):
        nn.init.normal_(tensor)
    for tensor in (norm.running_var, norm.weight):
        nn.init.uniform_(tensor, 0.5, 2)
    return nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=bias), norm


def one_after_the_other(conv: nn.Conv2d, norm: nn.BatchNorm2d, features: Tensor, tensorflow: bool) -> Tensor:
    if tensorflow:
        size, stride = conv.kernel_size[0], conv.stride[0]
        totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in features.shape[2:]]
        edges = [edge for total in reversed(totals) for edge in (total // 2, total - total // 2)]
        features, conv = pad(features, edges), copy.copy(conv)
        conv.padding = (0, 0)
    return norm(conv(features)).clamp(0, 6)


def gradients(outputs: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    return list(torch.autograd.grad((outputs * weights).sum(), inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tensorflow", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (7, 8), (2, 1)])
@pytest.mark.parametrize("case", LAYERS)
def test_outputs_and_gradients_equal_those_of_the_layers(case, size, tensorflow: bool, dtype: torch.dtype) -> None:
    conv, norm = (layer.to(dtype).eval() for layer in layers(case))
    features = torch.randn(2, case[0], *size, dtype=dtype, requires_grad=True)
    inputs = [features, *conv.parameters(), *norm.parameters()]
    expected = one_after_the_other(conv, norm, features, tensorflow)
    outputs = convolve(conv, norm, features, relu6, tensorflow)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    for found, right in zip(gradients(outputs, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5 * (1 + float(right.abs().max())))


@pytest.mark.parametrize("tensorflow", [False, True])
def test_in_training_mode_statistics_are_those_of_the_batch(tensorflow: bool) -> None:
    conv, norm = (layer.double() for layer in layers(LAYERS[0]))
    other = copy.deepcopy(norm)
    features = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = one_after_the_other(conv, other, features, tensorflow)
    torch.testing.assert_close(convolve(conv, norm, features, relu6, tensorflow), expected)
    torch.testing.assert_close(norm.running_var, other.running_var)
    assert norm.num_batches_tracked == 1


def test_autocast_to_bfloat16() -> None:
    conv, norm = (layer.eval() for layer in layers(LAYERS[0]))
    features = torch.randn(2, 3, 16, 16)
    expected = convolve(conv, norm, features, relu)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = convolve(conv, norm, features, relu)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), expected, rtol=2e-2, atol=5e-2)
    outputs.sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


def test_hooked_and_replaced_layers_are_called() -> None:
    """Pruning hooks convolutions; SyncBatchNorm replaces BatchNorm."""
    conv, norm = (layer.eval() for layer in layers(LAYERS[0]))
    features = torch.randn(1, 3, 8, 8)
    prune.l1_unstructured(conv, "weight", amount=0.5)
    conv.weight_orig.data.mul_(2)
    expected = norm(nn.functional.conv2d(features, conv.weight_orig * conv.weight_mask, None, 2, 1))
    torch.testing.assert_close(convolve(conv, norm, features), expected)
    conv, _ = layers(LAYERS[0])
    assert torch.equal(convolve(conv, nn.GroupNorm(8, 8), features), nn.GroupNorm(8, 8)(conv(features)))  # type: ignore[arg-type]


def test_activations_are_in_place_without_a_copy() -> None:
    for activation in (relu, relu6):
        features = torch.linspace(-3, 9, 13)
        outputs = activation(features)
        assert outputs.data_ptr() == features.data_ptr()
        assert outputs.min() == 0
    features = torch.linspace(-3, 9, 13).requires_grad_()
    relu6(features).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [0.0] * 4 + [1.0] * 5 + [0.0] * 4


class Operators(TorchDispatchMode):
    """Record the names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(str(operator))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [EfficientNetLite0, ResNet50, BNInception])
def test_backbones_with_batchnorm_frozen(kind: type[Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    model = kind().train()
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.running_var.uniform_(0.5, 1.5)
        norm.running_mean.normal_(0, 0.1)
    freeze_batchnorm(model)
    images = torch.randn(2, 3, 48, 40)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with Operators() as operators:
        outputs = model(images)
        found = torch.autograd.grad(outputs.mean(), weights)
    assert not any("batch_norm" in name for name in operators.names)
    monkeypatch.setattr(convolution, "_is_plain", lambda *_: False)
    with Operators() as operators:
        expected = model(images)
        right = torch.autograd.grad(expected.mean(), weights)
    assert any("batch_norm" in name for name in operators.names)
    for one, other in zip([outputs, *found], [expected, *right], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.detach().abs().max()))

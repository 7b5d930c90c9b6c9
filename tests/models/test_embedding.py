import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccpml.models import (
    Backbone,
    EmbeddingModel,
    InputConvention,
    Pooling,
    SmallConv,
    create_model,
    freeze_batchnorm,
)


class Echo(Backbone):
    """Return the images themselves as features."""

    def __init__(self, convention: InputConvention) -> None:
        super().__init__()
        self.convention = convention
        self.out_channels = convention.channels

    def forward(self, images: Tensor) -> Tensor:
        return images


RGB = InputConvention(3, 32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
BGR = InputConvention(3, 32, scale=255.0, mean=(104.0, 117.0, 128.0), std=(1.0, 1.0, 1.0), bgr=True)
GRAY = InputConvention(1, 32)


def backbone_input(convention: InputConvention, images: Tensor) -> np.ndarray:
    """Return the backbone's input for one-pixel images, as embeddings with an identity linear layer."""
    model = EmbeddingModel(Echo(convention), convention.channels)
    nn.init.eye_(model.linear.weight)
    embeddings: np.ndarray = model(images).detach().numpy()
    return embeddings


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_rgb_is_normalized(dtype: torch.dtype) -> None:
    image = torch.tensor([51, 102, 204], dtype=torch.uint8).view(1, 3, 1, 1)
    images = image if dtype == torch.uint8 else image.to(dtype) / 255
    model_dtype = torch.float32 if dtype == torch.uint8 else dtype
    model = EmbeddingModel(Echo(RGB), 3).to(model_dtype)
    nn.init.eye_(model.linear.weight)
    expected = torch.tensor([[(0.2 - 0.5) / 0.2, 0.0, (0.8 - 0.3) / 0.5]], dtype=model_dtype)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("convention", [RGB, BGR], ids=["rgb", "bgr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalization_equals_numpy_bit_for_bit(convention: InputConvention, channels: int) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(channels, axis=1)
    steps = values[:, ::-1] if convention.bgr else values
    expected = (steps.astype(np.float32) / np.float32(255))[:, :, 0, 0]
    expected = expected * np.float32(convention.scale) - np.array(convention.mean, np.float32)
    np.testing.assert_array_equal(
        backbone_input(convention, torch.from_numpy(values)), expected / np.array(convention.std, np.float32)
    )


def test_gradients_reach_the_images() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    EmbeddingModel(Echo(RGB), 3)(images).sum().backward()
    assert images.grad is not None
    assert images.grad.count_nonzero() == images.numel()


def test_bgr_is_flipped_before_normalization() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    np.testing.assert_allclose(backbone_input(BGR, image), [[30 - 104, 20 - 117, 10 - 128]], rtol=1e-5)


def test_gray_is_repeated_to_three_channels() -> None:
    gray = torch.rand(2, 1, 1, 1)
    np.testing.assert_array_equal(backbone_input(RGB, gray), backbone_input(RGB, gray.expand(2, 3, 1, 1)))


def test_gray_backbone_gets_one_channel() -> None:
    np.testing.assert_allclose(backbone_input(GRAY, torch.full((1, 1, 1, 1), 0.75)), [[1.0]])


def test_images_are_not_modified() -> None:
    for images in (torch.rand(2, 3, 32, 32), torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)):
        before = images.clone()
        EmbeddingModel(SmallConv(3), 4)(images)
        assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("avg", lambda x: x.mean((2, 3))),
        ("max", lambda x: x.max((2, 3))),
        ("avg+max", lambda x: x.mean((2, 3)) + x.max((2, 3))),
    ],
)
def test_pooling_equals_numpy(pooling: Pooling, pooled: "np.ufunc") -> None:
    model = EmbeddingModel(Echo(InputConvention(3, 32, mean=(0.0,) * 3, std=(1.0,) * 3)), 5, pooling)
    images = torch.rand(4, 3, 6, 7)
    expected = pooled(images.numpy()) @ model.linear.weight.detach().numpy().T
    np.testing.assert_allclose(model(images).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_embeddings_are_not_normalized_and_have_no_bias() -> None:
    model = EmbeddingModel(Echo(InputConvention(1, 32, mean=(0.0,), std=(1.0,))), 4)
    images = torch.rand(3, 1, 5, 5) / 2
    torch.testing.assert_close(model(2 * images), 2 * model(images))
    assert model.linear.bias is None


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(2, 2, 32, 32),
        torch.zeros(2, 32, 32, 3),
        torch.zeros(2, 3, 32, 32, dtype=torch.int64),
        torch.zeros(2, 3, 32, 32, dtype=torch.bool),
        torch.zeros(2, 3, 32, 32).numpy(),
        [torch.zeros(3, 32, 32)],
    ],
)
def test_invalid_images(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images: expected uint8 or floating point \(B, 3, H, W\), got"):
        EmbeddingModel(SmallConv(3), 4)(images)


def test_color_images_for_a_gray_backbone() -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got torch.float32 \(2, 3, 32, 32\)"):
        EmbeddingModel(SmallConv(1), 4)(torch.zeros(2, 3, 32, 32))


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="pooling: expected 'avg', 'max' or 'avg\\+max', got 'mean'"):
        EmbeddingModel(SmallConv(), 4, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embedding_dim: expected an integer of at least 1, got 0"):
        EmbeddingModel(SmallConv(), 0)


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]


def step(model: EmbeddingModel) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("switched", [False, True])
def test_frozen_batchnorm_does_not_change(switched: bool) -> None:
    model = EmbeddingModel(SmallConv(3), 4, freeze_batchnorm=True)
    if switched:
        model.eval().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = {id(value) for norm in norms(model) for value in norm.state_dict(keep_vars=True).values()}
    step(model)
    assert model.training
    assert not any(norm.training for norm in norms(model))
    for name, value in model.state_dict(keep_vars=True).items():
        assert torch.equal(value, before[name]) == (id(value) in frozen), name


def test_batchnorm_trains_by_default() -> None:
    model = EmbeddingModel(SmallConv(3), 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model)
    assert all(norm.training for norm in norms(model))
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_freeze_batchnorm_freezes_nothing_else() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    freeze_batchnorm(module)
    assert [part.training for part in (module[0], module[1], module[2][0], module[2][1])] == [True, False, False, True]
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad] == ["0.weight", "0.bias"]


def test_gradients_reach_every_parameter() -> None:
    model = EmbeddingModel(SmallConv(3), 4)
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_state_dict_has_the_layers_alone() -> None:
    model = EmbeddingModel(SmallConv(3), 4)
    expected = {f"backbone.{name}" for name in model.backbone.state_dict()} | {"linear.weight"}
    assert set(model.state_dict()) == expected


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    model = EmbeddingModel(SmallConv(3), 4).eval()
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = model(images)
    embeddings = model.cuda()(images.cuda())
    assert embeddings.is_cuda
    torch.testing.assert_close(embeddings.cpu(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("head", [nn.Identity(), nn.Sequential(nn.Linear(128, 8), nn.ReLU())])
def test_the_linear_layer_can_be_replaced(head):
    model = create_model("small_conv", embedding_dim=8, channels=1)
    model.linear = head
    model.load_state_dict(model.double().state_dict())
    assert model(torch.rand(2, 1, 32, 32)).dtype == model.mean.dtype == torch.float64


class Wrong(Backbone):
    """Return something else than features (B, 5, h, w)."""

    convention, out_channels = RGB, 5

    def __init__(self, features: object) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        return self.features  # type: ignore[return-value]  # wrong on purpose


@pytest.mark.parametrize(
    ("features", "got"),
    [
        (torch.zeros(2, 5), r"torch.float32 \(2, 5\)"),  # pooled, as networks for classification are
        (torch.zeros(2, 7, 3, 3), r"torch.float32 \(2, 7, 3, 3\)"),
        ((torch.zeros(2, 5, 3, 3),), "tuple"),
    ],
)
def test_features_of_another_shape_are_named(features: object, got: str) -> None:
    with pytest.raises(ValueError, match=rf"^backbone: expected features \(B, 5, h, w\), got {got}"):
        EmbeddingModel(Wrong(features), 4)(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize(("name", "values"), [("mean", (0.5, 0.5)), ("std", (0.2, 0.2, float("nan"))), ("mean", 0.5)])
def test_a_convention_has_numbers_for_each_channel(name: str, values: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected (1 or 3 finite numbers|a number for each channel), got"):
        InputConvention(3, 32, **{name: values})  # type: ignore[arg-type]  # wrong on purpose


def test_images_out_of_range_are_warned_of() -> None:
    model = create_model("small_conv", 4, channels=3).eval()
    images = torch.rand(2, 3, 32, 32)
    model(images * 1.2 - 0.1)  # as resizing may overshoot
    with pytest.warns(UserWarning, match=r"images: expected values in \[0, 1\], got .* to 255; divide by 255, or pass"):
        model(torch.linspace(0, 255, 2 * 3 * 32 * 32).view(2, 3, 32, 32))
    with pytest.warns(UserWarning, match=r"got -.*; leave out Normalize, as the model has its own"):
        model((images - 0.45) / 0.225)

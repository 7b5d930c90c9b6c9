from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from ccpml.models import Backbone, EmbeddingModel, InputConvention, create_model
from ccpml.training import MetricLearning
from ccpml.training.repeated import RepeatedEmbedding

IMAGES = torch.randint(256, (3, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def frozen_model(trained: int = 2) -> EmbeddingModel:
    return create_model("small_conv", embedding_dim=8, channels=1, trained_stages=trained).eval()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def calls_of_first_stage(model: EmbeddingModel) -> list[int]:
    """Return a list that grows with each call of the first stage."""
    calls = list[int]()
    model.backbone.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("trained", [0, 1, 3])
def test_embeddings_equal_those_of_the_model_while_the_rest_is_trained(trained: int) -> None:
    model = frozen_model(trained)
    again, calls = RepeatedEmbedding(model), calls_of_first_stage(model)
    for _ in range(3):
        expected = model(IMAGES)
        calls.clear()
        assert torch.equal(again(IMAGES), expected)
        model.linear.weight.mul_(1.1)
    assert not calls  # computed in the first pass alone


def test_batches_are_told_apart_by_their_content() -> None:
    model = frozen_model()
    again = RepeatedEmbedding(model)
    other = IMAGES.clone()
    other[0, 0, 0, 0] ^= 1
    for images in (IMAGES, other, IMAGES[:2], IMAGES / 255, (IMAGES / 255).double(), IMAGES.transpose(2, 3), other):
        assert torch.equal(again(images), model(images))
        assert torch.equal(again(images), model(images))


def set_running_mean(model: EmbeddingModel) -> None:
    model.backbone.blocks[2].running_mean.add_(1)


def load_other_weights(model: EmbeddingModel) -> None:
    torch.manual_seed(1)
    model.load_state_dict(frozen_model().state_dict())


def replace_weights(model: EmbeddingModel) -> None:
    kernel = model.backbone.blocks[0].weight
    model.backbone.blocks[0].weight = nn.Parameter(kernel * 2)


def write_by_data(model: EmbeddingModel) -> None:
    model.backbone.blocks[0].weight.data.mul_(2)  # a write without a version


@pytest.mark.parametrize(
    "change", [set_running_mean, load_other_weights, replace_weights, write_by_data, EmbeddingModel.double]
)
def test_features_are_dropped_when_frozen_weights_change(change) -> None:
    model = frozen_model()
    again = RepeatedEmbedding(model)
    before = again(IMAGES)
    change(model)
    assert not torch.equal(again(IMAGES), before)
    assert torch.equal(again(IMAGES), model(IMAGES))


def test_no_more_memory_is_kept_than_allowed() -> None:
    model = frozen_model()
    bytes_of_one = model.frozen_features(IMAGES).numel() * 4
    again, calls = RepeatedEmbedding(model, max_bytes=bytes_of_one), calls_of_first_stage(model)
    other = IMAGES.flip(0)
    for _ in range(2):
        assert torch.equal(again(IMAGES), model(IMAGES))
        assert torch.equal(again(other), model(other))
    assert len(calls) == 4 + 1 + 2  # of the model; of the batch that fits; of the other
    assert sum(features.numel() * 4 for features in again._features.values()) == bytes_of_one


def test_in_training_and_with_gradients_the_model_is_called() -> None:
    model = frozen_model()
    again = RepeatedEmbedding(model)
    with torch.enable_grad():
        again(IMAGES).sum().backward()
    assert model.linear.weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert again(IMAGES).dtype == model(IMAGES).dtype
    model.train()
    again(IMAGES)
    assert not again._features


class Mean(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.convention, self.out_channels = InputConvention(1, 32), 1
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


@pytest.mark.parametrize("model", [frozen_model(4), EmbeddingModel(Mean(), 4, trained_stages=0).eval()])
def test_models_without_kept_features_are_called(model: EmbeddingModel) -> None:
    again = RepeatedEmbedding(model)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert not again._features


def test_validation_computes_frozen_stages_once() -> None:
    model = frozen_model()
    module = MetricLearning(model, nn.Identity(), lr=1.0).eval()
    with patch.object(model, "frozen_features", wraps=model.frozen_features) as frozen:
        for _ in range(2):
            module.validation_step((IMAGES, torch.arange(3)), 0)
            model.linear.weight.neg_()
    assert frozen.call_count == 1
    assert torch.equal(module._outputs[0][0], -module._outputs[1][0])
    assert module.state_dict().keys() == {f"model.{name}" for name in model.state_dict()}


class Doubled(EmbeddingModel):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class PooledTwice(EmbeddingModel):
    def pooled(self, images: Tensor) -> Tensor:
        return 2 * super().pooled(images)


def flip_backbone(model: EmbeddingModel) -> None:
    forward = model.backbone.forward
    model.backbone.forward = lambda images: forward(images).flip(1)


def hook_backbone(model: EmbeddingModel) -> None:
    model.backbone.register_forward_hook(lambda module, args, output: output.flip(1))


def replace_class(model: EmbeddingModel) -> None:
    kind = type(model.backbone)
    model.backbone.__class__ = type("Flipped", (kind,), {"forward": lambda self, x: kind.forward(self, x).flip(1)})


@pytest.mark.parametrize("change", [flip_backbone, hook_backbone, replace_class, None])
def test_a_backbone_is_called_as_it_is(change) -> None:
    model = frozen_model()
    if change is None:
        model = PooledTwice(model.backbone, 8, trained_stages=2).eval()
    again = RepeatedEmbedding(model)
    before = again(IMAGES)
    if change is not None:
        change(model)
        assert not torch.equal(model(IMAGES), before)
    for _ in range(2):
        assert torch.equal(again(IMAGES), model(IMAGES))


def test_a_forward_or_hook_of_the_model_is_called() -> None:
    model = frozen_model()
    doubled = Doubled(model.backbone, 8, trained_stages=2).eval()
    again = RepeatedEmbedding(doubled)
    assert torch.equal(again(IMAGES), doubled(IMAGES))
    hooked = RepeatedEmbedding(model)
    plain = hooked(IMAGES)
    model.register_forward_hook(lambda module, args, output: -output)
    assert torch.equal(hooked(IMAGES), -plain)


def test_another_model_of_the_module_is_embedded() -> None:
    module = MetricLearning(frozen_model(), nn.Identity(), lr=1.0).eval()
    before = module.embed_again(IMAGES)
    torch.manual_seed(1)
    module.model = frozen_model()
    assert torch.equal(module.embed_again(IMAGES), module.model(IMAGES))
    assert not torch.equal(module.embed_again(IMAGES), before)


def test_weights_made_in_inference_mode_are_embedded() -> None:
    with torch.inference_mode():
        model = frozen_model()
        again = RepeatedEmbedding(model)
        assert torch.equal(again(IMAGES), model(IMAGES))

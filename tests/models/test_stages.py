from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from ccpml.models import Backbone, EmbeddingModel, InputConvention, StagedBackbone, create_model

BACKBONES = {"small_conv": 4, "efficientnet_lite0": 8, "bn_inception": 4, "resnet50": 5}


def nodes(outputs: Tensor) -> set[object]:
    """Return all nodes of the graph of the outputs."""
    found: set[object] = set()
    waiting = [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(before for before, _ in node.next_functions)
    return found


def weights_in_graph(outputs: Tensor) -> set[int]:
    return {id(node.variable) for node in nodes(outputs) if hasattr(node, "variable")}


def check_stages(backbone: Backbone, count: int) -> None:
    """Check that the stages share out all parameters, and that each depends on those before it."""
    stages = backbone.stages()
    assert len(stages) == count
    parameters = [id(parameter) for stage in stages for parameter in stage.parameters()]
    assert sorted(parameters) == sorted(map(id, backbone.parameters()))
    for stage in stages:
        assert any(isinstance(part, nn.Conv2d | nn.Linear) for part in stage.modules())


def check_freezing(name: str, trained: int, **options: object) -> None:
    """Check that the graph has the weights of the trained stages alone, and that a step changes nothing else."""
    model = create_model(name, 4, trained_stages=trained, **options).train()
    stages = model.backbone.stages()
    frozen, rest = stages[: len(stages) - trained], stages[len(stages) - trained :]
    layers = [part for stage in frozen for part in stage.modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
    assert not any(layer.training for layer in layers)
    expected = {id(parameter) for stage in [*rest, model.linear] for parameter in stage.parameters()}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == expected
    before = {key: value.clone() for stage in frozen for key, value in stage.state_dict().items()}
    embeddings = model(torch.rand(2, 3, 64, 64))
    assert weights_in_graph(embeddings) == expected
    embeddings.sum().backward()
    after = {key: value for stage in frozen for key, value in stage.state_dict().items()}
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize(("name", "count"), BACKBONES.items())
def test_stages_share_out_all_parameters(name: str, count: int) -> None:
    check_stages(create_model(name).backbone, count)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("trained", [0, 1, 3])
def test_no_graph_is_built_before_the_trained_stages(name: str, trained: int) -> None:
    check_freezing(name, trained)


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 5), ("tf_efficientnet_lite0", 8), ("convnext_atto", 5), ("vit_tiny_patch16_224", 13)],
)
def test_stages_of_timm(timm: ModuleType, name: str, count: int) -> None:
    check_stages(create_model(f"timm:{name}", image_size=64).backbone, count)
    for trained in (0, 2):
        check_freezing(f"timm:{name}", trained, image_size=64)


def test_outputs_do_not_depend_on_what_is_trained() -> None:
    model = create_model("efficientnet_lite0", 4, freeze_batchnorm=True)
    other = create_model("efficientnet_lite0", 4, freeze_batchnorm=True, trained_stages=2)
    other.load_state_dict(model.state_dict())
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(other(images), model(images))
    assert torch.equal(other.eval()(images), model.eval()(images))


@pytest.mark.parametrize("freeze", [True, False])
def test_stages_that_are_unfrozen_later_stay_so(freeze: bool) -> None:
    model = create_model("efficientnet_lite0", 4, trained_stages=1, freeze_batchnorm=freeze)
    first, *_, before_last, last = stages = model.backbone.stages()
    convolutions = [next(part for part in stage.modules() if isinstance(part, nn.Conv2d)) for stage in stages]
    assert [part.training for part in convolutions] == [False] * 7 + [True]
    before_last.requires_grad_(True)
    model.eval()
    model.train()
    norms = [part for part in before_last.modules() if isinstance(part, nn.BatchNorm2d)]
    assert [part.training for part in convolutions] == [False] * 6 + [True] * 2
    assert {norm.training for norm in norms} == {not freeze}  # statistics
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    for stage in (before_last, last):
        own_norms = [part for part in stage.modules() if isinstance(part, nn.BatchNorm2d)]
        of_norms = {id(weight) for norm in own_norms for weight in norm.parameters()}
        for weight in stage.parameters():
            assert (weight.grad is not None) == (id(weight) not in of_norms or not freeze)
    assert all(weight.grad is None for weight in first.parameters())


def test_frozen_stages_pass_gradients_to_the_images() -> None:
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    create_model("efficientnet_lite0", 4, trained_stages=0).eval()(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_more_stages_than_there_are() -> None:
    with pytest.raises(ValueError, match="expected 'all' or at most 8, the stages of EfficientNetLite0, got 9"):
        create_model("efficientnet_lite0", trained_stages=9)
    with pytest.raises(ValueError, match="trained_stages: expected an integer of at least 0, got -1"):
        create_model("efficientnet_lite0", trained_stages=-1)


def test_a_backbone_of_ones_own_has_one_stage() -> None:
    class Own(Backbone):
        convention = InputConvention(1, 8)
        out_channels = 2

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images)

    model = EmbeddingModel(Own(), 3, trained_stages=0)
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("gradients", [True, False])
def test_models_can_be_traced(name: str, gradients: bool) -> None:
    model = create_model(name, 4).eval()
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, images)  # type: ignore[no-untyped-call]  # torch traces again, and compares
    with torch.no_grad():
        torch.testing.assert_close(traced(images.flip(2)), model(images.flip(2)))


@pytest.mark.parametrize(("name", "count"), BACKBONES.items())
def test_stages_one_after_the_other_equal_the_whole_bit_for_bit(name: str, count: int) -> None:
    backbone = create_model(name).backbone.eval()
    assert isinstance(backbone, StagedBackbone)
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        whole = backbone(images)
        for cut in range(count + 1):
            features = backbone.run_stages(images, last=cut)
            kept = features.clone()
            assert torch.equal(backbone.run_stages(features, first=cut), whole)
            assert torch.equal(features, kept)  # no stage changes its input

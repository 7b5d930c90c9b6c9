from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccpml.models import load_weights
from ccpml.models.vit_weights import fit_vit

Weights = dict[str, Tensor]


class ViT(nn.Module):
    """Names and shapes of timm's vision transformer: F = 8, two blocks, patches of 4."""

    def __init__(self, grid: int = 4, registers: int = 0) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 8, 4)
        self.patch_embed.grid_size = (grid, grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        if registers:  # timm then has positions for the patches alone
            self.reg_token = nn.Parameter(torch.zeros(1, registers, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + (not registers), 8))
        layers = {"fc1": (8, 32), "fc2": (16, 8)}
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"mlp": nn.ModuleDict({name: nn.Linear(*size) for name, size in layers.items()})})
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(8)


def random_weights(model: nn.Module) -> Weights:
    return {name: torch.rand_like(tensor) for name, tensor in model.state_dict().items()}


def official(weights: Weights) -> Weights:
    """Rename weights as in DINOv2's official files."""

    def renamed(name: str) -> str:
        return name.replace("blocks.", "blocks.0.").replace(".fc1.", ".w12.").replace(".fc2.", ".w3.")

    return {**{renamed(name): tensor for name, tensor in weights.items()}, "mask_token": torch.rand(1, 8)}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_timm_file_is_unchanged() -> None:
    model = ViT()
    weights = random_weights(model)
    assert same(fit_vit(weights, model), weights)


def test_dinov2_names_are_converted() -> None:
    model = ViT()
    weights = random_weights(model)
    published = official(weights)
    assert "blocks.0.1.mlp.w12.weight" in published
    before = dict(published)
    assert same(fit_vit(published, model), weights)
    assert same(published, before)


def test_with_registers_the_class_token_includes_its_position() -> None:
    model = ViT(registers=3)
    weights = random_weights(model)
    published = official(weights)
    position = torch.rand(1, 1, 8)
    published["pos_embed"] = torch.cat([position, published["pos_embed"]], 1)
    published["cls_token"] = weights["cls_token"] - position
    published["register_tokens"] = published.pop("reg_token")
    fitted = fit_vit(published, model)
    torch.testing.assert_close(fitted.pop("cls_token"), weights.pop("cls_token"))
    assert same(fitted, weights)


def test_mask_token_is_kept_if_the_module_has_one() -> None:
    model = ViT()
    model.mask_token = nn.Parameter(torch.zeros(1, 8))
    weights = random_weights(model)
    assert same(fit_vit(weights, model), weights)


def bicubic(size: int, to: int) -> np.ndarray:
    """Return the matrix (to, size) of antialiased bicubic resampling (a = -0.5), from its definition."""
    scale = size / to
    support = max(scale, 1.0)

    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    matrix = np.zeros((to, size))
    for row in range(to):
        center = scale * (row + 0.5)
        first, last = max(int(center - 2 * support + 0.5), 0), min(int(center + 2 * support + 0.5), size)
        for column in range(first, last):
            matrix[row, column] = kernel((column + 0.5 - center) / support)
    normalized: np.ndarray = matrix / matrix.sum(1, keepdims=True)
    return normalized


@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (37, 16), (3, 3)])
@pytest.mark.parametrize("registers", [0, 2])
def test_positions_are_resampled_to_the_grid(old: int, new: int, registers: int) -> None:
    model, published = ViT(new, registers), random_weights(ViT(old, registers))
    fitted = fit_vit(published, model)["pos_embed"]
    prefix = 0 if registers else 1
    assert torch.equal(fitted[:, :prefix], published["pos_embed"][:, :prefix])
    square = published["pos_embed"][0, prefix:].numpy().reshape(old, old, 8)
    matrix = bicubic(old, new)
    expected = np.einsum("ai,bj,ijf->abf", matrix, matrix, square) if old != new else square
    np.testing.assert_allclose(fitted[0, prefix:].numpy(), expected.reshape(-1, 8), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 13, 8), (1, 1, 8), (17, 8), (1, 0, 8)])
def test_positions_of_no_square_grid_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = ViT()
    weights = random_weights(model) | {"pos_embed": torch.rand(shape)}
    torch.save(weights, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"1 mis-shaped \(pos_embed ") as caught:
        load_weights(model, tmp_path / "vit.pth")
    assert f"pos_embed {shape} instead of (1, 17, 8)" in str(caught.value)


def test_registers_without_class_token_are_named(tmp_path: Path) -> None:
    model = ViT(registers=3)
    weights = official(random_weights(model))
    weights["register_tokens"] = weights.pop("reg_token")
    del weights["cls_token"]
    torch.save(weights, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"2 missing \(cls_token, reg_token\); 1 unexpected \(register_tokens\)"):
        load_weights(model, tmp_path / "vit.pth")


def test_other_width_is_named(tmp_path: Path) -> None:
    model = ViT()
    torch.save(random_weights(model) | {"pos_embed": torch.rand(1, 26, 6)}, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match=r"1 mis-shaped \(pos_embed \(1, 17, 6\) instead of \(1, 17, 8\)\)"):
        load_weights(model, tmp_path / "vit.pth")


def test_half_precision_is_converted_on_loading(tmp_path: Path) -> None:
    model = ViT()
    weights = {name: tensor.half() for name, tensor in random_weights(ViT(5)).items()}
    assert fit_vit(weights, model)["pos_embed"].dtype == torch.float16
    torch.save(weights, tmp_path / "vit.pth")
    load_weights(model, tmp_path / "vit.pth")
    assert model.pos_embed.dtype == torch.float32
    assert torch.equal(model.norm.weight, weights["norm.weight"].float())


@pytest.mark.parametrize("wrapping", ["teacher", "model", "state_dict", None])
def test_dino_checkpoints(tmp_path: Path, wrapping: str | None) -> None:
    """The teacher's backbone with its heads (a training), or the backbone alone (a release)."""
    model = ViT()
    weights = random_weights(model)
    published = weights
    if wrapping:
        published = {f"module.backbone.{name}": tensor for name, tensor in official(weights).items()}
        published |= {"module.dino_head.mlp.0.weight": torch.rand(4, 8), "module.head.last.weight": torch.rand(4, 8)}
        published = {wrapping: published, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(published, tmp_path / "dino.pth")
    load_weights(model, tmp_path / "dino.pth")
    assert same(dict(model.state_dict()), weights)


def test_other_modules_are_unchanged() -> None:
    weights = {"blocks.0.1.weight": torch.rand(2), "mask_token": torch.rand(2)}
    assert same(fit_vit(weights, nn.Linear(2, 2)), weights)
    assert same(fit_vit(weights, ViT()), weights)


def test_module_without_a_grid_is_unchanged() -> None:
    model = ViT()
    model.patch_embed.grid_size = None
    positions = {"pos_embed": torch.rand(1, 26, 8)}
    assert same(fit_vit(positions, model), positions)

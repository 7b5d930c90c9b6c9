"""Vision transformers' weights: official names and other image sizes, as timm's networks want them."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

__all__ = ["fit_vit"]

# DINOv2's official files: blocks in chunks, a mask token for its own training, SwiGLU's layers under other names.
_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
_RENAMED = {".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def fit_vit(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Give a vision transformer's weights the names and the position embedding of timm's module.

    What is changed is exact: names; the mask token, which no image needs, goes; with registers, which have no position,
    the class token's position is added to the class token. Position embeddings of another image size are resampled as
    timm does it, bicubically. Other modules and what is unknown stay as they are.

    Args:
        tensors: Of the file, by name.
        module: That they shall fit.
    """
    own = module.state_dict()
    if "pos_embed" not in own or "pos_embed" not in tensors:
        return dict(tensors)
    tensors = {key if key in own else _renamed(key): tensor for key, tensor in tensors.items()}
    if "mask_token" not in own:
        tensors.pop("mask_token", None)
    if "register_tokens" in tensors and "reg_token" in own:
        tensors = _with_registers(tensors)
    tensors["pos_embed"] = _resampled(tensors["pos_embed"], own["pos_embed"], module)
    return tensors


def _renamed(key: str) -> str:
    key = _CHUNK.sub("blocks.", key)
    for official, timms in _RENAMED.items():
        key = key.replace(official, timms)
    return key


def _with_registers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn positions of class and patches, (1, 1 + N, F), into those of the patches alone, (1, N, F)."""
    classes, positions = tensors.get("cls_token"), tensors["pos_embed"]
    if classes is None or positions.ndim != 3 or classes.shape != positions[:, :1].shape:
        return tensors
    tensors["cls_token"] = classes + positions[:, :1]
    tensors["pos_embed"] = positions[:, 1:]
    tensors["reg_token"] = tensors.pop("register_tokens")
    return tensors


def _resampled(positions: Tensor, own: Tensor, module: nn.Module) -> Tensor:
    """Resample a square grid of positions, (1, P + n², F), to the module's, (1, P + h w, F); P precede the patches."""
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if grid is None or positions.ndim != 3 or positions.shape[1] == own.shape[1]:
        return positions
    before = own.shape[1] - math.prod(grid)
    side = math.isqrt(max(positions.shape[1] - before, 0))
    if before < 0 or side == 0 or side**2 != positions.shape[1] - before:
        return positions
    square = positions[:, before:].mT.reshape(len(positions), -1, side, side)  # (1, F, n, n)
    resampled = interpolate(square.float(), size=tuple(grid), mode="bicubic", antialias=True)
    patches = resampled.flatten(2).mT.to(positions.dtype)  # (1, h w, F)
    return torch.cat([positions[:, :before], patches], 1)

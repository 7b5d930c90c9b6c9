"""Weights of vision transformers: official names and other image sizes, converted for timm's networks."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

__all__ = ["fit_vit"]

# DINOv2's official files have blocks in chunks, and other names for the layers of SwiGLU.
_RENAMED = {r"^blocks\.\d+\.(?=\d+\.)": "blocks.", r"\.mlp\.w12\.": ".mlp.fc1.", r"\.mlp\.w3\.": ".mlp.fc2."}


def fit_vit(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Convert a vision transformer's weights to the names and position embedding of timm's module.

    Layers are renamed and the mask token, which only pretraining uses, is dropped. With registers, which have no
    position, the position of the class token is added to the class token. Position embeddings of another image size are
    resampled bicubically, as in timm. Unknown tensors, and the weights of other modules, are returned unchanged.
    """
    own = module.state_dict()
    if "pos_embed" not in own or "pos_embed" not in tensors:
        return dict(tensors)
    tensors = {key if key in own else _rename(key): tensor for key, tensor in tensors.items()}
    if "mask_token" not in own:
        tensors.pop("mask_token", None)
    if "register_tokens" in tensors and "reg_token" in own:
        tensors = _convert_registers(tensors)
    tensors["pos_embed"] = _resample(tensors["pos_embed"], own["pos_embed"], module)
    return tensors


def _rename(key: str) -> str:
    for official, name in _RENAMED.items():
        key = re.sub(official, name, key)
    return key


def _convert_registers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert positions of class and patches, (1, 1 + N, F), to those of the patches alone, (1, N, F)."""
    classes, positions = tensors.get("cls_token"), tensors["pos_embed"]
    if classes is None or positions.ndim != 3 or classes.shape != positions[:, :1].shape:
        return tensors
    tensors["cls_token"] = classes + positions[:, :1]
    tensors["pos_embed"] = positions[:, 1:]
    tensors["reg_token"] = tensors.pop("register_tokens")
    return tensors


def _resample(positions: Tensor, own: Tensor, module: nn.Module) -> Tensor:
    """Resample a square grid of positions, (1, P + n², F), to the module's, (1, P + h w, F), with P prefix tokens."""
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    if grid is None or positions.ndim != 3 or positions.shape[1] == own.shape[1]:
        return positions
    prefix = own.shape[1] - math.prod(grid)
    side = math.isqrt(max(positions.shape[1] - prefix, 0))
    if prefix < 0 or side == 0 or side**2 != positions.shape[1] - prefix:
        return positions
    square = positions[:, prefix:].mT.reshape(len(positions), -1, side, side)  # (1, F, n, n)
    resampled = interpolate(square.float(), size=tuple(grid), mode="bicubic", antialias=True)
    patches = resampled.flatten(2).mT.to(positions.dtype)  # (1, h w, F)
    return torch.cat([positions[:, :prefix], patches], 1)

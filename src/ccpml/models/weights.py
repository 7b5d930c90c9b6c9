"""Published weights into a module: everything, or nothing and the reason."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ccpml.models.vit_weights import fit_vit

__all__ = ["load_weights"]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_HEADS = ("last_linear.", "fc.", "classifier.", "head.", "linear.", "dino_head.", "ibot_head.")
_WRAPPINGS = ("state_dict", "model", "model_state_dict", "teacher")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
_OF_RUN = "model.backbone."
_SHOWN = 10


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Load a file of weights into a module, key by key and shape by shape; on an error, change nothing.

    Files are read as tensors, never as code. What differs by custom only is put right:

    - ``{"state_dict": ...}`` is opened, and so are ``model``, ``model_state_dict`` and the ``teacher`` of DINO;
    - a prefix ``module.``, ``_orig_mod.``, ``model.`` or ``backbone.`` that all keys but the head's share is dropped;
    - of a run's own ``best.safetensors`` the backbone is taken, without the linear layer and the proxies;
    - the head (``last_linear.``, ``fc.``, ``classifier.``, ``head.``, ``linear.``, and DINOv2's two) is ignored where
      the module has none;
    - ``num_batches_tracked`` may be absent, as in files older than it;
    - vectors may have the shape (1, C), as the BatchNorms of old files have;
    - vision transformers may have DINOv2's official names, and position embeddings of another image size, which are
      resampled.

    Args:
        module: Anything with parameters, most often a backbone.
        path: A ``.safetensors`` file, or one of ``torch.save`` (``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.pth.tar``).

    Raises:
        ValueError: If the file cannot be read, its keys or shapes are not those of the module, or it has NaN.

    Example:
        >>> import tempfile
        >>> layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(layer.state_dict(), f"{folder}/layer.pth")
        ...     load_weights(other, f"{folder}/layer.pth")
        >>> torch.equal(layer.weight, other.weight)
        True
    """
    own = module.state_dict()
    tensors = _adapted(_read(Path(path).expanduser()), module)
    differences = _differences(tensors, own)
    if differences:
        raise ValueError(f"weights: {path} does not fit {type(module).__name__}: {'; '.join(differences)}")
    module.load_state_dict({**own, **tensors})


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"weights: expected a .safetensors, .pth or .pt file, got {path}")
    if not path.is_file():
        raise ValueError(f"weights: there is no file {path}")
    content: object
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([Namespace]):  # the arguments of its training: mere attributes
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(f"weights: cannot read {path}: it is damaged, or holds more than tensors") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(f"weights: expected a state_dict (names and their tensors) in {path}")
    return dict(content)


def _adapted(tensors: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Take the backbone of a run, drop prefixes and the head, give ViTs timm's names, and make vectors of (1, C)."""
    own = module.state_dict()
    of_run = {key.removeprefix(_OF_RUN): tensor for key, tensor in tensors.items() if key.startswith(_OF_RUN)}
    tensors = fit_vit(_without_prefixes(of_run or tensors, own), module)
    tensors = {key: tensor for key, tensor in tensors.items() if key in own or not key.startswith(_HEADS)}
    for key, tensor in tensors.items():
        if key in own and own[key].ndim == 1 and tensor.shape == (1, *own[key].shape):
            tensors[key] = tensor[0]
    return tensors


def _without_prefixes(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop one prefix after the other, as long as all keys but the head's have it, and the module's have not."""
    for prefix in _PREFIXES * 2:
        body = [key for key in tensors if not key.startswith(_HEADS)]
        shared = body and all(key.startswith(prefix) for key in body)
        if shared and not any(key.startswith(prefix) for key in own):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _differences(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Say in a phrase each what is missing, unexpected, mis-shaped or no weight; empty if nothing is."""
    kinds = {
        "missing": [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in tensors if key not in own],
        "mis-shaped": [
            f"{key} {tuple(tensor.shape)} instead of {tuple(own[key].shape)}"
            for key, tensor in tensors.items()
            if key in own and tensor.shape != own[key].shape
        ],
        "not of real numbers": [
            key
            for key, tensor in tensors.items()
            if key in own and own[key].is_floating_point() and not tensor.is_floating_point()
        ],
        "not finite": [key for key, tensor in tensors.items() if key in own and not tensor.isfinite().all()],
        "negative": [
            key for key, tensor in tensors.items() if key.endswith("running_var") and not (tensor.real >= 0).all()
        ],
    }
    return [f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in kinds.items() if keys]


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])

"""Published weights into a module: everything, or nothing and the reason."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

__all__ = ["load_weights"]

_HEADS = ("last_linear.", "fc.", "classifier.", "head.")
_OF_RUN = "model.backbone."
_SHOWN = 10


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Load a file of weights into a module, key by key and shape by shape; on an error, change nothing.

    Files are read as tensors, never as code. What differs by custom only is put right:

    - ``{"state_dict": ...}`` is opened, and a prefix ``module.`` that all keys share is dropped;
    - of a run's own ``best.safetensors`` the backbone is taken, without the linear layer and the proxies;
    - the head of a classifier (``last_linear.``, ``fc.``, ``classifier.``, ``head.``) that the module lacks is ignored;
    - ``num_batches_tracked`` may be absent, as in files older than it;
    - vectors may have the shape (1, C), as the BatchNorms of old files have.

    Args:
        module: Anything with parameters, most often a backbone.
        path: A ``.safetensors``, ``.pth`` or ``.pt`` file.

    Raises:
        ValueError: If the file cannot be read, or its keys or shapes are not those of the module.

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
    tensors = _adapted(_read(Path(path)), own)
    differences = _differences(tensors, own)
    if differences:
        raise ValueError(f"weights: {path} does not fit {type(module).__name__}: {'; '.join(differences)}")
    module.load_state_dict({**own, **tensors})


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in {".safetensors", ".pth", ".pt"}:
        raise ValueError(f"weights: expected a .safetensors, .pth or .pt file, got {path}")
    if not path.is_file():
        raise ValueError(f"weights: there is no file {path}")
    content: object
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(f"weights: cannot read {path}: it is damaged, or holds more than tensors") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(f"weights: expected a state_dict (names and their tensors) in {path}")
    return dict(content)


def _adapted(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the backbone of a run, drop the prefix and the head, and make vectors of (1, C)."""
    of_run = {key.removeprefix(_OF_RUN): tensor for key, tensor in tensors.items() if key.startswith(_OF_RUN)}
    tensors = of_run or tensors
    if of_run and not own.keys() & of_run.keys():  # the model within a TimmBackbone
        tensors = {key.removeprefix("model."): tensor for key, tensor in of_run.items()}
    if all(key.startswith("module.") for key in tensors) and not any(key.startswith("module.") for key in own):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    tensors = {key: tensor for key, tensor in tensors.items() if key in own or not key.startswith(_HEADS)}
    for key, tensor in tensors.items():
        if key in own and own[key].ndim == 1 and tensor.shape == (1, *own[key].shape):
            tensors[key] = tensor[0]
    return tensors


def _differences(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Say in a phrase each what is missing, unexpected and mis-shaped; empty if nothing is."""
    kinds = {
        "missing": [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in tensors if key not in own],
        "mis-shaped": [
            f"{key} {tuple(tensor.shape)} instead of {tuple(own[key].shape)}"
            for key, tensor in tensors.items()
            if key in own and tensor.shape != own[key].shape
        ],
    }
    return [f"{len(keys)} {kind} ({_listed(keys)})" for kind, keys in kinds.items() if keys]


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])

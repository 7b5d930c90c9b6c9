"""Loading of weights: all of a module's, or none and an error that lists the differences."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ccpml.artifacts import expand_home, not_found
from ccpml.backbones import WEIGHT_SUFFIXES
from ccpml.files import check_readable
from ccpml.method.checks import uncompiled
from ccpml.models.embedding import Backbone
from ccpml.models.tensor_file import read_tensors
from ccpml.models.vit_weights import fit_vit
from ccpml.system_errors import raise_shortage

__all__ = ["load_weights"]

_HEADS = ("last_linear.", "fc.", "classifier.", "head.", "linear.", "dino_head.", "ibot_head.")
_WRAPPINGS = ("state_dict", "model", "model_state_dict", "teacher")
_COMPILED = "_orig_mod."
_PREFIXES = ("module.", "model.", "backbone.")
_NETWORK = "model."
_RUN_PREFIX = f"{_NETWORK}backbone."
_MAX_LISTED = 10


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Load a file of weights into a module, key by key and shape by shape; on an error, change nothing.

    Files are read as tensors, never as code. Differences in convention are resolved:

    - the contents of ``state_dict``, ``model``, ``model_state_dict``, or the ``teacher`` of DINO are used;
    - ``_orig_mod.``, of compiled modules, and prefixes ``module.``, ``model.`` and ``backbone.`` of all keys (but the
      head's) are removed;
    - of the ``best.safetensors`` of a run, an `EmbeddingModel` takes the network, and a backbone its backbone, without
      the linear layer and the proxies;
    - the head (``last_linear.``, ``fc.``, ``classifier.``, ``head.``, ``linear.``, and the two of DINOv2) is ignored if
      the module has none;
    - ``num_batches_tracked`` may be missing, as in old files;
    - vectors may have the shape (1, C), as the BatchNorms of old files have;
    - EfficientNet-Lite0 may have the names of its original file;
    - vision transformers may have DINOv2's official names; position embeddings of another image size are resampled.

    Args:
        module: Module with parameters, usually a backbone.
        path: A ``.safetensors`` file, or one of ``torch.save`` (``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.pth.tar``).

    Raises:
        ValueError: If the file cannot be read, its keys or shapes differ from the module's, or values are not finite.

    Example:
        >>> import tempfile
        >>> layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(layer.state_dict(), f"{folder}/layer.pth")
        ...     load_weights(other, f"{folder}/layer.pth")
        >>> torch.equal(layer.weight, other.weight)
        True
    """
    module = uncompiled(module)
    own, tensors = module.state_dict(), _read(expand_home(path))
    run = {key.removeprefix(_RUN_PREFIX): tensor for key, tensor in tensors.items() if key.startswith(_RUN_PREFIX)}
    if own and all(f"{_NETWORK}{key}" in tensors for key in own):  # a run, into a whole network
        tensors = {key: tensors[f"{_NETWORK}{key}"] for key in own}
    else:
        tensors = fit_vit(_remove_prefixes(run or tensors, own), module)
    if isinstance(module, Backbone):
        tensors = module.convert_weights(tensors)
    tensors = {key: tensor for key, tensor in tensors.items() if key in own or not key.startswith(_HEADS)}
    for key, tensor in tensors.items():
        if key in own and own[key].ndim == 1 and tensor.shape == (1, *own[key].shape):
            tensors[key] = tensor[0]
    if differences := _differences(tensors, own):
        got = f"{path} does not fit {type(module).__name__}: {'; '.join(differences)}"
        raise ValueError(f"weights: {got}; {_way_out(differences, Path(path) if run else None)}")
    module.load_state_dict({**own, **tensors})


def _way_out(differences: Sequence[str], weights_of_run: Path | None) -> str:
    if not any(f" {kind} (" in each for each in differences for kind in ("missing", "unexpected", "mis-shaped")):
        return "restore the file from a copy"
    way_out = "choose the backbone, the channels and the options that the weights are of"
    settings = weights_of_run and weights_of_run.absolute().parents[1] / "experiment.yaml"
    return f"{way_out}, which {settings} has" if settings and settings.is_file() else way_out


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ValueError(f"weights: expected a .safetensors, .pth or .pt file, got {path}")
    if not path.is_file():
        raise ValueError(f"weights: {path}: {not_found(path)}")
    check_readable(path, "restore it from a copy")
    try:
        if path.suffix == ".safetensors":
            content: object = read_tensors(path)[0]
        else:
            with torch.serialization.safe_globals([Namespace]):  # the arguments of a training: attributes only
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise_shortage(error)
        reason = "damaged, or contains more than tensors; restore it from a copy, or download it again"
        raise ValueError(f"weights: {path} cannot be read: {reason}") from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(f"weights: expected a state_dict (names and tensors) in {path}")
    return {key.replace(_COMPILED, ""): value for key, value in content.items()}


def _remove_prefixes(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove each prefix that all keys but the head's share and no key of the module has."""
    for prefix in _PREFIXES * 2:
        body = [key for key in tensors if not key.startswith(_HEADS)]
        if body and all(key.startswith(prefix) for key in body) and not any(key.startswith(prefix) for key in own):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _differences(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return one phrase for each kind of difference."""
    pairs = [(key, tensor, own[key]) for key, tensor in tensors.items() if key in own]
    kinds = {
        "missing": [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in tensors if key not in own],
        "mis-shaped": [
            f"{key} {tuple(got.shape)} instead of {tuple(expected.shape)}"
            for key, got, expected in pairs
            if got.shape != expected.shape
        ],
        "not of real numbers": [
            key for key, got, expected in pairs if expected.is_floating_point() and not got.is_floating_point()
        ],
        "not finite": [key for key, got, _ in pairs if not got.isfinite().all()],
        "negative": [key for key, got, _ in pairs if key.endswith("running_var") and not (got.real >= 0).all()],
    }
    return [
        f"{len(keys)} {kind} ({', '.join(keys[:_MAX_LISTED])}{', ...' if len(keys) > _MAX_LISTED else ''})"
        for kind, keys in kinds.items()
        if keys
    ]

"""Exported weights: a file or a folder that ``ccpml export`` wrote, or such a folder on the Hugging Face hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from ccpml.artifacts import MODEL_READERS, expand_home
from ccpml.extras import require_extra
from ccpml.files import DESCRIPTION_FORMAT, NewerVersionError, check_readable, load_json
from ccpml.models.tensor_file import read_tensors
from ccpml.models.torch_state import torch_defaults

if TYPE_CHECKING:
    from ccpml.models.embedding import EmbeddingModel

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "load_pretrained"]

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"

_WAY_OUT: Final = "export the run again, or download the model again"


def load_pretrained(name: Path | str, revision: str | None = None) -> "EmbeddingModel":
    """Build the network of an exported model, with its weights, in eval mode; see `EmbeddingModel.from_pretrained`."""
    path = expand_home(name, "name")
    if revision is not None and path.exists():
        raise ValueError(f"revision: expected None for the file or folder {name}, got {revision!r}; leave it out")
    if path.is_dir():
        return _load(path / WEIGHTS_FILE, path / CONFIG_FILE)
    if path.exists():
        return _load(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) or str(name).startswith("."):
        raise FileNotFoundError(f"{name}: not found; expected a file or folder of `ccpml export`, or user/name")
    return _load(*_download(str(name), revision))


def _load(file: Path, config_file: Path | None = None) -> "EmbeddingModel":
    if config_file is not None and (config_file.parent / "experiment.yaml").is_file():
        raise ValueError(f"{config_file.parent}: expected an exported model, got a run; load_run opens it")
    config = {} if config_file is None else _read_config(config_file)
    if file.suffix != ".safetensors":
        way_out = MODEL_READERS.get(file.suffix.lower(), _WAY_OUT)
        raise ValueError(
            f"{file}: expected a .safetensors file, or a folder with {WEIGHTS_FILE} and {CONFIG_FILE}; {way_out}"
        )
    tensors, metadata = read_tensors(file, _WAY_OUT)
    facts: Mapping[str, Any] = config or metadata
    if isinstance(version := facts.get("format"), int) and version > DESCRIPTION_FORMAT:
        raise NewerVersionError(f"{config_file or file}: written by a newer version of ccpml; update ccpml")
    if config and metadata.get("fingerprint", config.get("fingerprint")) != config.get("fingerprint"):
        raise ValueError(f"{config_file}: of another model than {file.name} beside it; {_WAY_OUT}")
    return _build(file if config_file is None else config_file, facts.get("network"), file, tensors)


def _read_config(file: Path) -> dict[str, Any]:
    check_readable(file, _WAY_OUT)
    try:
        config = load_json(file)
    except ValueError as error:
        raise ValueError(f"{file}: damaged ({error}); {_WAY_OUT}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected the description of an exported model; {_WAY_OUT}")
    return config


def _build(source: Path, network: Any, file: Path, tensors: dict[str, Tensor]) -> "EmbeddingModel":
    """Build the network that ``source`` describes, and load the tensors of ``file``."""
    from ccpml.models.create import create_model

    expected = {"backbone", "embedding_dim", "pooling", "channels", "image_size", "bias"}
    if not isinstance(network, dict) or set(network) != expected:
        raise ValueError(f"{source}: expected a model that `ccpml export` wrote, got another file; {_WAY_OUT}")
    try:
        with torch_defaults():
            model = create_model(**network)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: not the description of a network ({error}); {_WAY_OUT}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{file}: not the weights of the network that {source.name} describes; {_WAY_OUT}") from error
    return model.eval()


def _download(name: str, revision: str | None) -> tuple[Path, Path]:
    """Return the two files of a model on the hub, from its cache or downloaded."""
    require_extra(f"{name}: no such file or folder; the hub", ["huggingface_hub"], "hub")
    from huggingface_hub import hf_hub_download

    try:
        found = [Path(hf_hub_download(name, file, revision=revision)) for file in (WEIGHTS_FILE, CONFIG_FILE)]
    except Exception as error:  # the hub's client and its libraries raise many kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{name}: no such file or folder, and not downloaded from the hub ({reason})") from error
    return found[0], found[1]

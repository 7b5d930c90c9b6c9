"""Files of tensors with a checksum: safetensors itself does not notice a flipped bit."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ccpml.files import check_readable, write_bytes
from ccpml.system_errors import raise_shortage

__all__ = ["read_tensors", "write_tensors"]

_KEY = "ccpml"


def write_tensors(file: Path, values: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata, which become JSON, with a checksum of the tensors."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in values.items()}
    content = json.dumps({**metadata, "crc32": _checksum(tensors)})  # as one text: safetensors shuffles several
    write_bytes(file, save(tensors, {_KEY: content}))


def read_tensors(file: Path, way_out: str = "restore it from a copy") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and metadata of a file; without a checksum, as of another program, none is compared.

    Raises:
        ValueError: If the file is missing or damaged; it ends with ``way_out``, unless the system refuses to read it.
    """
    check_readable(file, way_out)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, Any] = json.loads((opened.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- not a mapping
    except Exception as error:  # whatever safetensors raises on a damaged file
        raise_shortage(error)
        raise ValueError(f"{file}: damaged, cannot be read as safetensors ({error}); {way_out}") from error
    if metadata.get("crc32", expected := _checksum(tensors)) != expected:
        raise ValueError(f"{file}: damaged (wrong checksum); {way_out}")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    checksum = 0
    for name in sorted(tensors):
        values = tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()
        checksum = zlib.crc32(values, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"

"""The format of torch.export, a ``.pt2`` file."""

import io
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ccpml.exported.description import DESCRIPTION_KEY, Description
from ccpml.exporting.errors import ExportError
from ccpml.exporting.graph import first_line

__all__ = ["embed_with_pt2", "to_pt2"]


def to_pt2(program: torch.export.ExportedProgram, description: Description) -> bytes:
    """Return the content of a ``.pt2`` file, with the description among its extra files.

    Raises:
        ExportError: If torch cannot write an operator of the network.
    """
    content = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own internals
            torch.export.save(program, content, extra_files={DESCRIPTION_KEY: description.to_json()})
    except Exception as error:
        raise ExportError(f"torch.export: the network cannot be written ({first_line(error)})") from error
    return content.getvalue()


def embed_with_pt2(content: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed images (B, C, size, size) with the content of a ``.pt2`` file: (B, d)."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module: Any = torch.export.load(io.BytesIO(content)).module()
        embeddings: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return embeddings

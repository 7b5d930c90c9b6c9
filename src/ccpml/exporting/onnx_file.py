"""The ONNX format."""

import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ccpml.exported.description import DESCRIPTION_KEY, Description
from ccpml.exporting.errors import ExportError
from ccpml.exporting.graph import INPUT, OUTPUT, first_line

__all__ = ["OPSET", "embed_with_onnx", "to_onnx"]

OPSET: Final = 18
"""Version of ONNX's operators that a file uses: onnxruntime 1.14 and newer read it."""


def to_onnx(program: torch.export.ExportedProgram, description: Description) -> bytes:
    """Return the content of an ONNX file: one file, weights included, with the description in its metadata.

    Raises:
        ExportError: If an operator of the network has no counterpart in ONNX.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it notes that torchvision is not installed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about its own internals
            found: Any = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:
        raise ExportError(f"torch.onnx: the network cannot be exported ({first_line(error)})") from error
    finally:
        log.setLevel(level)
    model = found.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = DESCRIPTION_KEY, description.to_json()
    content: bytes = model.SerializeToString()
    return content


def embed_with_onnx(content: bytes | Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed images (B, C, size, size) with an ONNX file, in onnxruntime on the CPU: (B, d)."""
    import onnxruntime

    source = str(content) if isinstance(content, Path) else content
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    embeddings: NDArray[np.float32] = session.run([OUTPUT], {INPUT: images})[0]
    return embeddings

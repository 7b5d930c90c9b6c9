"""The formats: how each is written, and read back for the check."""

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ccpml.exported.description import DESCRIPTION_KEY, Description
from ccpml.exported.onnx_file import add_description, content_digest
from ccpml.exported.runtime import import_onnxruntime
from ccpml.exporting.errors import ExportError
from ccpml.exporting.graph import BATCH, INPUT, OUTPUT, EmbeddingGraph, reason_of, trace
from ccpml.files import write_bytes, write_json
from ccpml.models import EmbeddingModel
from ccpml.models.pretrained import CONFIG_FILE, WEIGHTS_FILE
from ccpml.models.tensor_file import write_tensors

__all__ = ["IR_VERSION", "OPSET", "READERS", "WRITERS", "Embed"]

OPSET: Final = 18
"""Version of ONNX's operators that a file uses."""

IR_VERSION: Final = 8
"""Version of the ONNX format, the oldest with these operators; torch writes 10, for onnxruntime 1.18 and newer."""

Embed: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From images (B, C, size, size) to φ-normalized embeddings (B, d)."""


def _write_onnx(target: Path, graph: EmbeddingGraph, description: Description) -> None:
    """Write an ONNX file: weights included, with the description in its metadata."""
    import_onnxruntime()  # at Ctrl-C, an import ends the process at once, which a written file would survive

    program = trace(graph, description.size)
    try:
        with _quiet(), torch.no_grad():
            found: Any = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        model = found.model_proto
        model.ir_version = IR_VERSION
        _name_batch(model)
        content = model.SerializeToString()
    except Exception as error:  # of the many kinds that torch raises, none is documented
        raise ExportError(f"the network cannot be exported by torch.onnx ({reason_of(error)})") from error
    write_bytes(target, add_description(content, replace(description, content_sha256=content_digest(content))))


def _name_batch(model: Any) -> None:
    """Name the first axis of input and output "batch", for which torch writes a name of its own, such as s34."""
    graph = model.graph
    own = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if own and dimension.dim_param:  # to set it elsewhere would delete a size
                dimension.dim_param = re.sub(rf"\b{own}\b", BATCH, dimension.dim_param)


def _read_onnx(target: Path) -> Embed:
    session = import_onnxruntime().InferenceSession(str(target), providers=["CPUExecutionProvider"])

    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        embeddings: NDArray[np.float32] = session.run([OUTPUT], {INPUT: images})[0]
        return embeddings

    return embed


def _write_pt2(target: Path, graph: EmbeddingGraph, description: Description) -> None:
    """Write a program of torch.export, with the description among its extra files."""
    content, program = io.BytesIO(), trace(graph, description.size)
    try:
        with _quiet():
            torch.export.save(program, content, extra_files={DESCRIPTION_KEY: description.to_json()})
    except Exception as error:
        raise ExportError(f"the network cannot be written by torch.export ({reason_of(error)})") from error
    write_bytes(target, content.getbuffer())


def _read_pt2(target: Path) -> Embed:
    with _quiet():
        module: Any = torch.export.load(target).module()
    return _without_gradients(module)


def _write_safetensors(target: Path, graph: EmbeddingGraph, description: Description) -> None:
    """Write the weights, with the description in the metadata."""
    write_tensors(target, graph.model.state_dict(), json.loads(description.to_json()))


def _write_hub(target: Path, graph: EmbeddingGraph, description: Description) -> None:
    """Write a folder with the weights and the description; the model card comes last."""
    _write_safetensors(target / WEIGHTS_FILE, graph, description)
    write_json(target / CONFIG_FILE, json.loads(description.to_json()))


def _read_pretrained(target: Path) -> Embed:
    return _without_gradients(EmbeddingGraph(EmbeddingModel.from_pretrained(target)))


def _without_gradients(module: Any) -> Embed:
    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            embeddings: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return embeddings

    return embed


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from noting that torchvision is not installed, and from warning about its own internals."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


WRITERS: Final[dict[str, Callable[[Path, EmbeddingGraph, Description], None]]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "safetensors": _write_safetensors,
    "hub": _write_hub,
}

READERS: Final[dict[str, Callable[[Path], Embed]]] = {
    "onnx": _read_onnx,
    "pt2": _read_pt2,
    "safetensors": _read_pretrained,
    "hub": _read_pretrained,
}

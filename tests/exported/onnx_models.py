"""Small ONNX files as `ccpml export` writes them, whose embeddings NumPy computes too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ccpml.exported.description import Description
from ccpml.exported.onnx_file import add_description, content_digest, read_description

SIZE, DIM = 6, 4


def weights(channels: int = 3, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """A linear map of pixels to embeddings, of which some have lengths above 1: float32 (C · size², d)."""
    return np.random.default_rng(seed).normal(0, 0.1, (channels * SIZE * SIZE, dim)).astype(np.float32)


def expected(pixels: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The embeddings of cropped images, uint8 (N, C, size, size), from the definition: φ(pixels / 255 · w)."""
    v = (pixels.reshape(len(pixels), -1).astype(np.float64) / 255) @ w.astype(np.float64)
    return v / np.maximum(1, np.linalg.norm(v, axis=1, keepdims=True))


def describe(**changes: object) -> Description:
    """A description of such a model."""
    facts = {"fingerprint": "f" * 64, "embedding_dim": DIM, "channels": 3, "size": SIZE, "resize": SIZE + 1}
    return Description(**{**facts, **changes})


def write_model(
    path: Path,
    description: Description | None = None,
    w: np.ndarray | None = None,
    names: tuple[str, str] = ("images", "embeddings"),
    batch: int | str = "batch",
) -> Path:
    """Write the ONNX file of a linear model."""
    description = describe() if description is None else description
    w = weights(description.channels, description.embedding_dim) if w is None else w
    image, embedding = names
    constants = {"w": w, "scale": np.float32(255), "one": np.float32(1), "axis": np.int64([1])}
    nodes = [
        helper.make_node("Cast", [image], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["v"]),
        helper.make_node("ReduceL2", ["v", "axis"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "one"], ["divisor"]),
        helper.make_node("Div", ["v", "divisor"], [embedding]),
    ]
    shape = [batch, description.channels, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(image, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(embedding, TensorProto.FLOAT, [batch, w.shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(add_description(content, description))
    return path


def with_digest(path: Path) -> Path:
    """Write the digest of its content into the description of such a file."""
    model, description = onnx.load(path), read_description(path)
    del model.metadata_props[:]
    content = model.SerializeToString()
    path.write_bytes(add_description(content, replace(description, content_sha256=content_digest(content))))
    return path

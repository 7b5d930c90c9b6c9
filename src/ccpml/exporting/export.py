"""Export a run: trace it, write it in a format, check it against the run on real images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ccpml.exporting.check import check_images, compare
from ccpml.exporting.describe import UNKNOWN_LICENSE, describe_run
from ccpml.exporting.errors import ExportError, TargetExistsError
from ccpml.exporting.graph import EmbeddingGraph, trace
from ccpml.files import write_bytes
from ccpml.progress import announce
from ccpml.runs.inference import load_run

__all__ = ["FORMATS", "Export", "ExportError", "Format", "default_target", "export_run"]

Format = Literal["onnx", "pt2"]

FORMATS: Final[tuple[str, ...]] = get_args(Format)


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: The file, or the folder of the format ``hub``.
        difference: Largest difference to the embeddings of the run, on the images of the check.
        checked_on: These images, in words.
        notes: What is missing or unusual.
    """

    path: Path
    difference: float
    checked_on: str
    notes: list[str] = field(default_factory=list)


def default_target(run: Path, format_name: str) -> Path:
    """Return where a run is exported to: ``<run>/export/<name of the run>.<format>``."""
    return run / "export" / f"{run.resolve().name}.{format_name}"


def export_run(
    path: Path | str, file_format: Format, target: Path | str | None = None, *, license_id: str = UNKNOWN_LICENSE
) -> Export:
    """Export a run to a format that other software reads, after checking it against the run."""
    path = Path(path)
    place = default_target(path, file_format) if target is None else Path(target)
    if place.exists():
        raise TargetExistsError(f"{place}: already exists")
    run = load_run(path)
    description, notes = describe_run(run, license_id)
    graph = EmbeddingGraph(run.model).eval()
    announce("reading images for the check")
    check = check_images(run, description.channels)
    announce(f"exporting to {file_format}")
    program = trace(graph, description.channels, description.size)
    if file_format == "onnx":
        from ccpml.exporting.onnx_file import embed_with_onnx, to_onnx

        content = to_onnx(program, description)
        embed: Callable[[bytes, NDArray[np.uint8]], NDArray[np.float32]] = embed_with_onnx
    else:
        from ccpml.exporting.pt2_file import embed_with_pt2, to_pt2

        content, embed = to_pt2(program, description), embed_with_pt2
    announce("checking the exported model")
    difference = compare(graph, lambda images: embed(content, images), check.images, str(place))
    write_bytes(place, content)
    return Export(place, difference, check.origin, [*notes, *([check.note] if check.note else [])])

"""Check an exported model against the run on real images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ccpml.data import ImageTable
from ccpml.data.images.read import BadImageError, read_part
from ccpml.exporting.errors import ExportError
from ccpml.exporting.graph import EmbeddingGraph
from ccpml.runs.build import transforms
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import find_images
from ccpml.runs.inference import Run

__all__ = ["BATCHES", "TOLERANCE", "Check", "check_images", "compare"]

TOLERANCE: Final = 1e-5
"""Largest difference of a number of an embedding, which has length 1 at most."""

BATCHES: Final = (1, 2, 13)
"""Batch sizes of the check; two images are traced."""

_IMAGES: Final = max(BATCHES)
_GENERATED: Final = "generated images"


@dataclass(frozen=True)
class Check:
    """Images of a check, uint8 (N, C, size, size), and where they come from."""

    images: NDArray[np.uint8]
    origin: str
    note: str = ""


def check_images(run: Run, channels: int) -> Check:
    """Return images of the run's test classes as its evaluation crops them; generated ones if its data are gone."""
    try:
        source = find_images(run.settings)
        table, split = source.table, _splits(run)
        tests = [label for label, name in enumerate(table.class_names) if split.get(name) == "test"]
        found, bad = _read(run, table.subset(tests) if tests else table, channels)
        reason = "none of the images that were tried can be read"
    except (OSError, ValueError) as error:
        found, bad, reason = [], [], str(error)
    if found:
        kind = "images of test classes" if tests else "images of the run's data"
        note = (
            f"{len(bad)} of {len(found) + len(bad)} images for the check cannot be read, such as {bad[0]}"
            if bad
            else ""
        )
        images = np.stack([found[row % len(found)] for row in range(_IMAGES)])
        return Check(images, f"{min(len(found), _IMAGES)} {kind}", note and f"{note}; restore them to check on all")
    return Check(_generate(channels, run.settings.image_size), _GENERATED, f"checked on {_GENERATED}: {reason}")


def _splits(run: Run) -> Mapping[str, str]:
    directory = RunDirectory(run.path)
    return directory.record().split_of_class if directory.record_file.exists() else {}


def _read(run: Run, table: ImageTable, channels: int) -> tuple[list[NDArray[np.uint8]], list[BadImageError]]:
    """Read a few images, spread over a table; also return the errors of those that cannot be read."""
    transform, found, bad = transforms(run.settings)[1], [], []
    for row in np.unique(np.linspace(0, len(table) - 1, _IMAGES).round().astype(int)).tolist():
        try:
            array, view = read_part(table.images[row], channels, transform.view, transform.min_size, table.rotate)
        except BadImageError as error:
            bad.append(error)
        else:
            found.append(np.ascontiguousarray(view.of(array).transpose(2, 0, 1)))
    return found, bad


def _generate(channels: int, size: int) -> NDArray[np.uint8]:
    """Return smooth random pictures, one black, one white, and one of noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (_IMAGES, channels, 8, 8))
    rows = np.arange(size) * 8 // size
    images = coarse[:, :, rows][:, :, :, rows].astype(np.uint8)
    images[0], images[1], images[2] = 0, 255, rng.integers(0, 256, images[2].shape)
    return images


def compare(
    graph: EmbeddingGraph,
    embed: Callable[[NDArray[np.uint8]], Any],
    images: NDArray[np.uint8],
    name: str,
    batches: Sequence[int] = BATCHES,
) -> float:
    """Return the largest difference between the embeddings of a run and of its export, over several batch sizes.

    Raises:
        ExportError: If it is above the tolerance, or an embedding is not finite.
    """
    largest = 0.0
    for size in batches:
        batch = np.ascontiguousarray(images[:size])
        with torch.no_grad():
            expected = graph(torch.from_numpy(batch)).numpy()
        if not np.isfinite(expected).all():
            raise ExportError(
                f"{name}: not written: expected finite embeddings of the run, got NaN or infinity; the weights have "
                "diverged or are damaged"
            )
        found = np.asarray(embed(batch))
        if found.shape != expected.shape:
            raise ExportError(f"{name}: not written: expected embeddings {expected.shape}, got {found.shape}")
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{name}: not written: expected the embeddings of the run to {TOLERANCE:g}, got a difference of "
                f"{difference:.1e} in a batch of {size}; please report it"
            )
        largest = max(largest, difference)
    return largest

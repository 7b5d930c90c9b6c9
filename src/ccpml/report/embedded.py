"""The files of a finished run that hold vectors: embeddings, instances and proxies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.retrieval import evaluate
from ccpml.runs.directory import RunDirectory

__all__ = ["Embedded", "Instance", "evenly_spaced", "read_embedded", "read_instance_files", "read_proxies"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embeddings of a split by the best weights.

    Attributes:
        embeddings: φ-normalized, (N, d).
        labels: (N,).
        class_names: (C,).
        paths: Names of the images, (N,).
        roles: ``query``, ``gallery`` or empty for each image, (N,).
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    roles: NDArray[np.str_]

    @property
    def has_roles(self) -> bool:
        """Whether queries search a gallery rather than each other."""
        return bool((self.roles == "query").any())

    def queries(self) -> NDArray[np.int64]:
        """Return the rows of the queries."""
        return self._rows("query")

    def gallery(self) -> NDArray[np.int64]:
        """Return the rows that are searched."""
        return self._rows("gallery")

    def _rows(self, role: str) -> NDArray[np.int64]:
        return np.flatnonzero(self.roles == role) if self.has_roles else np.arange(len(self.labels))

    def map_at_r(self) -> NDArray[np.float64]:
        """Return the score of each image as a query, (N,); NaN for images that are no query or have no reference."""
        scores = np.full(len(self.labels), np.nan)
        x, y, rows, others = self.embeddings, self.labels, self.queries(), self.gallery()
        references = (x[others], y[others]) if self.has_roles else ()
        try:
            per_query = evaluate(x[rows], y[rows], *references, per_query=True).per_query
        except ValueError:  # no query has a reference
            return scores
        assert per_query is not None
        scores[rows] = per_query.map_at_r
        return scores


@dataclass(frozen=True, eq=False)
class Instance:
    """Samples of some classes, and their proxies, at one step of a run: a panel of the map.

    Attributes:
        title: Title of the panel.
        classes: Labels of the classes, (c,).
        class_names: (c,).
        samples: (n, d).
        labels: Labels of the samples, (n,).
        converged: Trained proxies, (c, K, d), or None.
        following: Proxies of the next instance, (c, K, d), or None.
    """

    title: str
    classes: NDArray[np.int64]
    class_names: tuple[str, ...]
    samples: NDArray[np.float32]
    labels: NDArray[np.int64]
    converged: NDArray[np.float32] | None = None
    following: NDArray[np.float32] | None = None

    @classmethod
    def read(cls, path: Path) -> "Instance":
        """Read the record of an instance that training left."""
        with np.load(path, allow_pickle=False) as file:
            number, step = int(path.stem), int(file["step"])
            return cls(
                title=f"Instance {number}, step {step:,}" if number else "First proxies, step 0",
                classes=file["classes"],
                class_names=tuple(file["class_names"].tolist()),
                samples=file["samples"],
                labels=file["labels"],
                converged=file["converged"] if "converged" in file.files else None,
                following=file["next"],
            )


def evenly_spaced(count: int, limit: int) -> NDArray[np.int64]:
    """Return at most ``limit`` of the indices 0..count − 1, evenly spaced, the first and the last among them.

    Example:
        >>> evenly_spaced(9, 3)
        array([0, 4, 8])
    """
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def read_embedded(run: RunDirectory, split: str) -> Embedded | None:
    """Read the embeddings of a split; None if there is no file."""
    path = run.embeddings / f"{split}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        return Embedded(
            embeddings=file["embeddings"],
            labels=file["labels"],
            class_names=tuple(file["class_names"].tolist()),
            paths=tuple(file["paths"].tolist()),
            roles=file["roles"],
        )


def read_instance_files(run: RunDirectory) -> list[Path]:
    """Return the files of the instances, in order."""
    return sorted((path for path in run.instances.glob("*.npz") if path.stem.isdigit()), key=lambda p: int(p.stem))


def read_proxies(run: RunDirectory) -> Tensor | None:
    """Read the proxies of the best weights, not normalized, (C, K, d); None if there are none."""
    if not run.weights_file.is_file():
        return None
    from safetensors import safe_open

    with safe_open(run.weights_file, framework="pt") as file:
        if "criterion.proxies" not in file.keys():  # noqa: SIM118  # a file of safetensors is no mapping
            return None
        proxies: Tensor = file.get_tensor("criterion.proxies")
    return proxies.to(torch.float32)

"""The files of a finished run that hold vectors: embeddings, instances and proxies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from ccpml.retrieval import evaluate
from ccpml.runs.directory import RunDirectory

__all__ = ["Embedded", "Instance", "evenly_spaced", "read_embedded", "read_instance_files", "read_proxies"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embeddings of a split by the best weights."""

    embeddings: NDArray[np.float32]  # φ-normalized, (N, d)
    labels: NDArray[np.int64]  # (N,)
    class_names: tuple[str, ...]  # (C,)
    paths: tuple[str, ...]  # names of the images, (N,)
    roles: NDArray[np.str_]  # query, gallery or empty, (N,)

    @property
    def has_roles(self) -> bool:
        """Whether queries search a gallery rather than each other."""
        return bool((self.roles == "query").any())

    def rows(self, role: str) -> NDArray[np.int64]:
        """Return the rows of a role, ``query`` or ``gallery``; without roles, each image has both."""
        return np.flatnonzero(self.roles == role) if self.has_roles else np.arange(len(self.labels))

    def map_at_r(self) -> NDArray[np.float64]:
        """Return the score of each image as a query, (N,); NaN for images that are no query or have no reference."""
        scores = np.full(len(self.labels), np.nan)
        x, y, rows, others = self.embeddings, self.labels, self.rows("query"), self.rows("gallery")
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
    """Samples of some classes, and their proxies, at one step of a run: a panel of the map."""

    title: str
    classes: NDArray[np.int64]  # their labels, (c,)
    class_names: tuple[str, ...]  # (c,)
    samples: NDArray[np.float32]  # (n, d)
    labels: NDArray[np.int64]  # of the samples, (n,)
    converged: NDArray[np.float32] | None = None  # trained proxies, (c, K, d)
    following: NDArray[np.float32] | None = None  # proxies of the next instance, (c, K, d)

    @classmethod
    def read(cls, path: Path) -> "Instance":
        """Read the record of an instance that training left."""
        with np.load(path, allow_pickle=False) as file:
            number, step = int(path.stem), int(file["step"])
            return cls(
                title=f"Instance {number}, step {step:,}" if number else f"First proxies, step {step:,}",
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
        names, paths = (tuple(file[name].tolist()) for name in ("class_names", "paths"))
        return Embedded(file["embeddings"], file["labels"], names, paths, file["roles"])


def read_instance_files(run: RunDirectory) -> list[Path]:
    """Return the files of the instances, in order."""
    return sorted((path for path in run.instances.glob("*.npz") if path.stem.isdigit()), key=lambda p: int(p.stem))


def read_proxies(run: RunDirectory) -> Tensor | None:
    """Read the proxies of the best weights, not normalized, (C, K, d); None if there are none."""
    if not run.weights_file.is_file():
        return None
    proxies: Tensor | None = load_file(run.weights_file).get("criterion.proxies")
    return None if proxies is None else proxies.float()

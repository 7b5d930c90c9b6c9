"""The files of a finished run that hold vectors: embeddings, instances and proxies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ccpml.files import read_arrays
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
    def read(cls, path: Path, run: str = "") -> "Instance":
        """Read what training left of an instance; ``run`` is the digest of the record of its run, if it is known.

        Raises:
            ValueError: If the file is missing, damaged, or of another run.
        """
        names, way_out = ("step", "classes", "class_names", "samples", "labels", "next"), "restore it from a copy"
        arrays = read_arrays(path, names, way_out)
        if run not in {"", str(arrays.get("record", run))}:  # earlier files have none
            raise ValueError(f"{path}: of another run; {way_out}")
        number, step = int(path.stem), int(arrays["step"])
        samples, classes = arrays["samples"], arrays["classes"]
        counts = {len(classes), len(arrays["class_names"]), len(arrays["next"])}
        if samples.ndim != 2 or samples.shape[:1] != arrays["labels"].shape or counts != {len(classes)}:
            raise ValueError(f"{path}: damaged (arrays of different lengths); {way_out}")
        return cls(
            title=f"Instance {number}, step {step:,}" if number else f"First proxies, step {step:,}",
            classes=classes,
            class_names=tuple(arrays["class_names"].tolist()),
            samples=samples,
            labels=arrays["labels"],
            converged=arrays.get("converged"),
            following=arrays["next"],
        )


def evenly_spaced(count: int, limit: int) -> NDArray[np.int64]:
    """Return at most ``limit`` of the indices 0..count − 1, evenly spaced, the first and the last among them.

    Example:
        >>> evenly_spaced(9, 3)
        array([0, 4, 8])
    """
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def read_embedded(run: RunDirectory, split: str) -> Embedded:
    """Read the embeddings of a split.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    path = run.embeddings / f"{split}.npz"
    way_out = run.rewrite(path)
    arrays = read_arrays(path, ("embeddings", "labels", "class_names", "paths", "roles"), way_out)
    run.check_embeddings(path)
    embeddings, labels, paths, roles = (arrays[name] for name in ("embeddings", "labels", "paths", "roles"))
    count, names = len(embeddings), tuple(arrays["class_names"].tolist())
    valid = embeddings.ndim == 2 and count and {labels.shape, paths.shape, roles.shape} == {(count,)}
    if not valid or labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"{path}: damaged (expected a vector, a label, a path and a role each); {way_out}")
    if not np.isfinite(embeddings).all():
        raise ValueError(f"{path}: damaged (expected finite embeddings); {way_out}")
    return Embedded(embeddings, labels, names, tuple(paths.tolist()), roles)


def read_instance_files(run: RunDirectory) -> list[Path]:
    """Return the files of the instances, in order."""
    return sorted((path for path in run.instances.glob("*.npz") if path.stem.isdigit()), key=lambda p: int(p.stem))


def read_proxies(run: RunDirectory) -> Tensor | None:
    """Read the proxies of the best weights, not normalized, (C, K, d); None if they have none.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    proxies = run.weights().get("criterion.proxies")
    return None if proxies is None else proxies.float()

"""What a finished run's .npz files say: embeddings with their names, and the instances on the way."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.retrieval import RetrievalScores, evaluate
from ccpml.runs.directory import RunDirectory

__all__ = ["Embedded", "Instance", "read_embedded", "read_instance_files", "read_proxies"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """A split as the best weights see it.

    Attributes:
        embeddings: φ-normalized, (N, d).
        labels: (N,).
        class_names: (C,).
        paths: Names of the images, (N,).
        roles: ``query``, ``gallery`` or nothing for each image, (N,).
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    roles: NDArray[np.str_]

    @property
    def has_roles(self) -> bool:
        """Whether queries search a gallery, rather than each other."""
        return bool((self.roles == "query").any())

    def queries(self) -> NDArray[np.int64]:
        """Give the rows of the queries."""
        return np.flatnonzero(self.roles == "query") if self.has_roles else np.arange(len(self.labels))

    def gallery(self) -> NDArray[np.int64]:
        """Give the rows that are searched."""
        return np.flatnonzero(self.roles == "gallery") if self.has_roles else np.arange(len(self.labels))

    def map_at_r(self) -> NDArray[np.float64]:
        """Score each query, as the run's test did: (N,), NaN for what is no query or has nothing to find."""
        scores = np.full(len(self.labels), np.nan)
        try:
            per_query = self._evaluate().per_query
        except ValueError:  # no query has anything to find
            return scores
        assert per_query is not None  # asked for
        scores[self.queries()] = per_query.map_at_r
        return scores

    def _evaluate(self) -> RetrievalScores:
        if not self.has_roles:
            return evaluate(self.embeddings, self.labels, per_query=True)
        rows, others = self.queries(), self.gallery()
        x, y = self.embeddings, self.labels
        return evaluate(x[rows], y[rows], x[others], y[others], per_query=True)


@dataclass(frozen=True, eq=False)
class Instance:
    """A moment of a run, as the map shows it: some classes and their proxies.

    Attributes:
        title: What moment.
        classes: Labels of the classes, (c,).
        class_names: (c,).
        samples: (n, d).
        labels: Of the samples, (n,).
        converged: Proxies as they were trained, (c, K, d), or None.
        following: The proxies chosen next, (c, K, d), or None.
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
        """Read what training recorded of an instance."""
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


def read_embedded(run: RunDirectory, split: str) -> Embedded | None:
    """Read a split's embeddings; None if the file is gone."""
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
    """Give the files of the instances in their order."""
    return sorted((path for path in run.instances.glob("*.npz") if path.stem.isdigit()), key=lambda p: int(p.stem))


def read_proxies(run: RunDirectory) -> Tensor | None:
    """Read the proxies that belong to the best weights, as they are stored, (C, K, d); None without any."""
    if not run.weights_file.is_file():
        return None
    from safetensors import safe_open

    with safe_open(run.weights_file, framework="pt") as file:
        if "criterion.proxies" not in file.keys():  # noqa: SIM118  # not a mapping
            return None
        proxies: Tensor = file.get_tensor("criterion.proxies")
    return proxies.to(torch.float32)

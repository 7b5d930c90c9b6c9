"""Several models as one: their embeddings are joined."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ccpml.files import check_readable, load_json, write_json
from ccpml.numbers import as_tuple
from ccpml.reranking import join
from ccpml.serving.embedder import Embedder, check_embedder

__all__ = ["MEMBERS_FILE", "EnsembleEmbedder", "MemberNotFoundError", "find_members", "read_members", "write_members"]

MEMBERS_FILE: Final = "ensemble.json"


class MemberNotFoundError(FileNotFoundError):
    """A further run of an ensemble is neither where the index names it nor beside the first."""


class EnsembleEmbedder:
    """An embedder of several runs or exported models: φ([e₁ … e_F]), as `ccpml benchmark` scores ensembles.

    Args:
        runs: The models, in order; another order is another model.

    Raises:
        ValueError: If a model is given twice, there are fewer than two, or one is no model.

    Example:
        ```python
        model = EnsembleEmbedder([load_run("runs/photos"), load_run("runs/photos-seed1")])
        embeddings = model.embed(["mug.jpg"])  # (1, 256)
        ```
    """

    def __init__(self, runs: Sequence[Embedder]) -> None:
        runs = as_tuple("embedder", runs, "several models")
        for run in runs:
            check_embedder(run)
        prints = [run.fingerprint for run in runs]
        if len(set(prints)) < max(2, len(runs)):
            names = ", ".join(str(run.path) for run in runs)
            raise ValueError(f"ensemble: expected two or more models with different weights, got {names}")
        self.runs: list[Embedder] = list(runs)
        self.fingerprint = hashlib.sha256(" ".join(prints).encode()).hexdigest()

    @property
    def path(self) -> Path:
        """The first model."""
        return self.runs[0].path

    @property
    def embedding_dim(self) -> int:
        """Dimensions of the joint embeddings."""
        return sum(run.embedding_dim for run in self.runs)

    def embed(self, images: Sequence[Path | str | bytes | NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return φ-normalized joint embeddings, float32 (N, d₁ + … + d_F); see `ccpml.Run.embed`."""
        return join([np.asarray(run.embed(images)) for run in self.runs])


def write_members(index: Path, model: EnsembleEmbedder) -> None:
    """Write the runs of an ensemble into the index that was made with it.

    Raises:
        WriteError: If it cannot be written.
    """
    write_json(index / MEMBERS_FILE, {"runs": [str(run.path.resolve()) for run in model.runs]})


def read_members(index: Path) -> list[Path]:
    """Return the runs of the ensemble that an index was made with; none if it was made with one run.

    Raises:
        ValueError: If the file that names them is damaged or cannot be read.
    """
    file = index / MEMBERS_FILE
    if not file.exists():
        return []
    check_readable(file, "build the index again")
    try:
        content: Any = load_json(file)
        return [Path(name) for name in content["runs"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: damaged; build the index again") from error


def find_members(index: Path, first: Path) -> list[Path]:
    """Return the models of the ensemble that an index was made with, which are looked for beside the first one too.

    Args:
        index: The index.
        first: The first model; it may have moved.

    Returns:
        The models in order: the first alone, if the index was made with one.

    Raises:
        ValueError: If the file that names the ensemble is damaged.
        MemberNotFoundError: If a further model is not found.
    """
    others = read_members(index)[1:]
    found = [path if path.exists() else first.parent / path.name for path in others]
    for path, place in zip(others, found, strict=True):
        if not place.exists():
            expected = f"{path}" if path == place else f"{path} there or at {place}"
            raise MemberNotFoundError(
                f"{index / MEMBERS_FILE}: expected the run {expected}, which is not found; move it there, or write its "
                "new path into this file"
            )
    return [first, *found]

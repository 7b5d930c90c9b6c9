"""Several runs as one model: their embeddings are joined."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ccpml.files import write_json
from ccpml.reranking import join
from ccpml.runs.inference.run import Run, load_embedder

__all__ = ["EnsembleEmbedder", "load_model", "write_members"]

_MEMBERS: Final = "ensemble.json"


class EnsembleEmbedder:
    """An embedder of several runs: φ([e₁ … e_F]), as `ccpml benchmark` scores ensembles.

    Args:
        runs: The runs, in order; another order is another model.

    Raises:
        ValueError: If a run is given twice, or there are fewer than two.

    Example:
        ```python
        model = EnsembleEmbedder([load_run("runs/photos"), load_run("runs/photos-seed1")])
        embeddings = model.embed(["mug.jpg"])  # (1, 256)
        ```
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        prints = [run.fingerprint for run in runs]
        if len(set(prints)) < max(2, len(runs)):
            names = ", ".join(str(run.path) for run in runs)
            raise ValueError(f"ensemble: expected two or more runs with different weights, got {names}")
        self.runs = list(runs)
        self.fingerprint = hashlib.sha256(" ".join(prints).encode()).hexdigest()

    @property
    def path(self) -> Path:
        """The first run directory."""
        return self.runs[0].path

    @property
    def embedding_dim(self) -> int:
        """Dimensions of the joint embeddings."""
        return sum(run.embedding_dim for run in self.runs)

    def embed(self, images: Sequence[Path | str | bytes | NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return φ-normalized joint embeddings, float32 (N, d₁ + … + d_F); see `Run.embed`."""
        return join([run.embed(images).numpy() for run in self.runs])


def write_members(index: Path, model: EnsembleEmbedder) -> None:
    """Write the runs of an ensemble into the index that was made with it.

    Raises:
        WriteError: If it cannot be written.
    """
    write_json(index / _MEMBERS, {"runs": [str(run.path.resolve()) for run in model.runs]})


def load_model(run: Path, index: Path | None = None) -> Run | EnsembleEmbedder:
    """Load the model of an index: a run, or the ensemble that the index names.

    Args:
        run: The run, or the first of the ensemble. If it has moved, the others are looked for beside it too.
        index: The index; None for a run.

    Raises:
        ValueError: If the file that names the ensemble is damaged.
        FileNotFoundError: If a run is not found.
    """
    file = None if index is None else index / _MEMBERS
    if file is None or not file.is_file():
        return load_embedder(run)
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        others = [Path(name) for name in content["runs"][1:]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: damaged; build the index again") from error
    found = [path if path.exists() else run.parent / path.name for path in others]
    return EnsembleEmbedder([load_embedder(path) for path in (run, *found)])

"""A trained run: load it, and embed images with it."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.data.crops import cropped_batches, name_of_image
from ccpml.data.embedding_file import check_finite
from ccpml.method import lipschitz_normalize
from ccpml.models import EmbeddingModel
from ccpml.models.torch_state import torch_defaults, without_autocast
from ccpml.progress import print_note
from ccpml.runs.build import available_device, build_model, transforms
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import ResolvedSettings
from ccpml.training.embed import eval_mode

__all__ = ["Run", "channels_of", "load_embedder", "load_run", "open_run", "open_weights", "unfinished_note"]


@dataclass(frozen=True)
class Run:
    """A trained run; `load_run` opens one. It serves as the path of its directory, too.

    Attributes:
        path: The run directory; of `load_run`, absolute, as files are read when they are needed.
        settings: The settings it was trained with.

    Example:
        ```python
        run = load_run("runs/photos")
        weights = run.model.state_dict()
        print(run.settings.loss, run.scores["test"]["map_at_r"])
        ```
    """

    path: Path
    settings: ResolvedSettings

    def __fspath__(self) -> str:
        return str(self.path)

    @cached_property
    def model(self) -> EmbeddingModel:
        """The network with its best weights, in eval mode on the CPU; its embeddings are not normalized."""
        state = RunDirectory.open(self.path).weights()
        with torch_defaults():
            model = build_model(self.settings, channels_of(self.settings), initial_weights=False)
        own = {name.removeprefix("model."): x for name, x in state.items() if name.startswith("model.")}
        try:
            model.load_state_dict(own)
        except RuntimeError as error:
            file = RunDirectory(self.path).weights_file
            raise ValueError(f"{file}: not the weights of this run's network; restore it from a copy") from error
        return model.eval()

    @property
    def scores(self) -> dict[str, Any]:
        """The content of ``scores.json``: test scores, best validation score, sizes, versions and hardware.

        Raises:
            FileNotFoundError: If the run is not finished.
        """
        return RunDirectory.open(self.path).scores()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing, in hexadecimal: equal fingerprints produce equal embeddings.

        Embeddings on a GPU differ from those on a CPU by rounding, and have the same fingerprint.
        """
        settings, transform = self.settings, transforms(self.settings)[1]
        facts = {
            "backbone": settings.backbone,
            "pooling": settings.pooling,
            "embedding_dim": settings.embedding_dim,
            "channels": channels_of(settings),
            "transform": {**asdict(transform), "side": transform.side, "min_size": transform.min_size},
            "convention": asdict(self.model.backbone.convention),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def embedding_dim(self) -> int:
        """Dimensions d of an embedding."""
        return self.settings.embedding_dim

    def embed(self, images: Sequence[Path | str | bytes | NDArray[np.uint8]], batch_size: int = 128) -> Tensor:
        """Embed images as the run's own evaluation does, whatever autocast the caller has; EXIF rotations are applied.

        Args:
            images: Paths of image files, contents of files, or arrays: uint8, (H, W), (H, W, 1) or (H, W, 3) in RGB,
                such as images of Pillow in mode L or RGB that are upright.
            batch_size: Images embedded at a time.

        Returns:
            φ-normalized embeddings, float32 (N, d), on the CPU.

        Raises:
            BadImageError: If an image cannot be read.
            ValueError: If an image is neither, an array has another shape or type, or an embedding is not finite.
        """
        batches = cropped_batches(images, transforms(self.settings)[1], channels_of(self.settings), batch_size)
        device = next(self.model.parameters()).device
        parts = [torch.empty(0, self.settings.embedding_dim, dtype=torch.float32, device="cpu")]
        with eval_mode(self.model), without_autocast(), closing(batches):
            for batch in batches:  # (B, C, H, W)
                parts.append(self.model(torch.from_numpy(batch).to(device)).float().cpu())
        embeddings = lipschitz_normalize(torch.cat(parts))
        check_finite(embeddings.numpy(), lambda row: name_of_image(images[row], row), str(self.path))
        return embeddings


def load_run(path: str | os.PathLike[str]) -> Run:
    """Load a trained run.

    Args:
        path: A run directory, as ``ccpml train`` writes it.

    Returns:
        The run. Its network is loaded on first use, with the best weights so far if training is unfinished.

    Raises:
        FileNotFoundError: If ``path`` is not a run directory; on first use of ``model``, if it has no weights yet.
        ValueError: If its files are damaged.

    Example:
        ```python
        run = load_run("runs/photos")
        embeddings = run.embed(["mug.jpg", "cup.jpg"])  # (2, 128)
        print(run.settings.backbone, run.scores["test"]["map_at_r"])
        ```
    """
    run = open_run(path)
    return replace(run, path=run.path.absolute())


def open_run(path: str | os.PathLike[str]) -> Run:
    """Load a run for use in the present folder: errors and notes about it name the path as it is given."""
    directory = RunDirectory.open(path)
    return Run(directory.path, directory.settings())


def open_weights(path: str | os.PathLike[str]) -> Run:
    """Load a run as `open_run` does, to use its weights, and print a note if its training is unfinished."""
    run = open_run(path)
    if note := unfinished_note(run):
        print_note(note)
    return run


def unfinished_note(run: Run) -> str:
    """Return that the weights of a run are those of an unfinished training; empty if it is finished or has none."""
    directory = RunDirectory(run.path)
    if directory.finished or not directory.weights_file.is_file():
        return ""
    missing = directory.scores_file.name
    return f"{run.path}: the run is unfinished ({missing} not found); these are its best weights so far"


def load_embedder(path: str | os.PathLike[str]) -> Run:
    """Load a trained run with its network on the device where it computes, to embed many images."""
    run = open_weights(path)
    run.model.to(available_device(run.settings.device))
    return run


def channels_of(settings: ResolvedSettings) -> int:
    """Return the channels of the images of a run."""
    return 3 if settings.channels == "auto" else settings.channels

"""Embeddings of whole sets of images by a trained run, and files of them."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ccpml.artifacts import expand_home
from ccpml.data import ImageTable
from ccpml.data.dataset import ended_workers
from ccpml.data.embedding_file import check_finite
from ccpml.data.embedding_file import write_embeddings as write_file
from ccpml.data.loading import read_source
from ccpml.data.upkeep.check import readable_images
from ccpml.method import lipschitz_normalize
from ccpml.models.torch_state import without_autocast
from ccpml.numbers import check_flags
from ccpml.progress import progress_bar
from ccpml.runs.build import available_device, evaluation_batches
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import cached_side
from ccpml.runs.inference.run import Run, channels_of, open_weights
from ccpml.runs.inference.unseen import note_changes
from ccpml.training import embed

__all__ = ["embed_normalized", "embed_run", "embed_table", "write_embeddings"]


def embed_run(
    path: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str],
    *,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad_images: bool = False,
) -> int:
    """Embed all images of some data and write them to an .npz or Parquet file; see `write_embeddings`.

    Splits are those of the run in which a class of that name was, empty for none. A folder may hold images in itself,
    and a CSV file needs no labels: the name of their class is empty. Arguments are those of `evaluate_run`.

    Returns:
        N.
    """
    check_flags(allow_partial=allow_partial, skip_bad_images=skip_bad_images)
    run, record = open_weights(path), RunDirectory(path).record()
    root = data_root or run.settings.data_root or None
    source = read_source(data, root, allow_partial, cached_side(run.settings), labeled=False)
    note_changes(run, record, source, data)
    table, _ = readable_images(source, data, skip_bad_images)
    write_embeddings(expand_home(output), embed_table(run, table), table, record.split_of_class, run.fingerprint)
    return len(table)


def write_embeddings(
    path: Path,
    embeddings: Tensor,
    table: ImageTable,
    split_of_class: Mapping[str, str] | None = None,
    fingerprint: str = "",
) -> None:
    """Write embeddings of a table, which need not be normalized, as `ccpml.data.embedding_file.write_embeddings` does.

    Raises:
        ValueError: If an embedding is not finite; nothing is written.
    """
    write_file(path, lipschitz_normalize(embeddings).numpy(), table, split_of_class, fingerprint)


def embed_normalized(run: Run, table: ImageTable) -> NDArray[np.float32]:
    """Return the φ-normalized embeddings of a table by a run, (N, d), with a progress bar.

    Raises:
        ValueError: If an embedding is not finite.
    """
    embeddings: NDArray[np.float32] = lipschitz_normalize(embed_table(run, table)).numpy()
    check_finite(embeddings, table.name_of, str(run.path))
    return embeddings


def embed_table(run: Run, table: ImageTable) -> Tensor:
    """Embed a table by the best weights of a run, with a progress bar; not normalized, float32 (N, d), on the CPU."""
    device = available_device(run.settings.device)
    batches = evaluation_batches(run.settings, table, channels_of(run.settings))
    with progress_bar(len(table), "image", "embedding") as bar, ended_workers(batches), without_autocast():
        return embed(run.model.to(device), batches, device, bar.update)[0]

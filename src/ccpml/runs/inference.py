"""What a trained run is for: embeddings and scores of other images."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ccpml.data import ImageTable, load_source
from ccpml.files import write_arrays
from ccpml.method import lipschitz_normalize
from ccpml.models import EmbeddingModel
from ccpml.progress import progress_bar, progress_to
from ccpml.retrieval import ClusterScores, RetrievalScores, cluster_scores
from ccpml.runs.directory import RunDirectory
from ccpml.runs.prepare import (
    build_model,
    cached_side,
    evaluation_batches,
    is_query,
    load_images,
    readable_images,
)
from ccpml.runs.settings import Experiment
from ccpml.training import embed, evaluate_with_roles

__all__ = ["Evaluation", "embed_run", "evaluate_run", "load_model", "write_embeddings"]


class Evaluation(NamedTuple):
    """What `evaluate_run` gives.

    Attributes:
        scores: Of retrieval.
        size: The size of what was scored, in words.
        clusters: Agreement of clusters and classes, where asked for.
    """

    scores: RetrievalScores
    size: str
    clusters: ClusterScores | None = None


def load_model(run: RunDirectory) -> EmbeddingModel:
    """Load a run's network with its best weights so far.

    Raises:
        FileNotFoundError: If the run has no weights yet.
        ValueError: If their file is damaged.
    """
    state = run.weights()
    experiment = run.experiment()
    model = build_model(experiment, experiment.channels or 3, weights=False)
    prefix = "model."
    model.load_state_dict({name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)})
    return model.eval()


def evaluate_run(
    run: RunDirectory,
    data: str | None = None,
    *,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad: bool = False,
    clusters: bool = False,
) -> Evaluation:
    """Score a run on its own test classes, or on other data.

    Args:
        run: A run with weights.
        data: As an experiment names them: their test classes if they have a split of their own, else all images. None:
            the run's test classes.
        data_root: Where the paper's benchmarks lie; None is where the run found its own, or $CCPML_DATA.
        allow_partial: Whether a benchmark need not be whole.
        skip_bad: Whether images that cannot be read are left out.
        clusters: Whether to cluster all that is scored too, queries and gallery alike, with the run's seed.
    """
    experiment = run.experiment()
    data_root = data_root or experiment.data_root
    if data is None:
        skip_bad, partial = experiment.skip_bad_images or skip_bad, experiment.allow_partial or allow_partial
        own = replace(experiment, data_root=data_root, allow_partial=partial, skip_bad_images=skip_bad)
        table = load_images(own).splits.test
    else:
        source = load_source(data, data_root, allow_partial, cached_side(experiment))
        table = readable_images(source, data, skip_bad)[0]
        if source.split_of_class is not None:
            split = source.split_of_class
            tests = [label for label, name in enumerate(table.class_names) if split[name] == "test"]
            table = table.subset(tests) if tests else table
    embeddings, labels = _embed(run, experiment, table), torch.from_numpy(table.labels)
    with progress_bar(len(table), "query", "scoring") as bar:
        scores = evaluate_with_roles(embeddings, labels, is_query(table), progress=progress_to(bar))
    size = f"{table.num_classes:,} classes, {len(table):,} images"
    return Evaluation(scores, size, _cluster(embeddings, labels, experiment.seed) if clusters else None)


def _cluster(embeddings: torch.Tensor, labels: torch.Tensor, seed: int) -> ClusterScores:
    with progress_bar(0, "iteration", "clustering") as bar:
        return cluster_scores(lipschitz_normalize(embeddings), labels, seed=seed, progress=progress_to(bar))


def embed_run(
    run: RunDirectory,
    data: str,
    to: Path,
    *,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad: bool = False,
) -> int:
    """Embed all images of some data and write them to an .npz file.

    Args:
        run: A run with weights.
        data: As an experiment names them.
        to: The file: φ-normalised ``embeddings`` (N, d), ``labels`` (N,), ``class_names`` (C,), ``paths`` (N,) and
            ``roles`` (N,).
        data_root: As for `evaluate_run`.
        allow_partial: As for `evaluate_run`.
        skip_bad: Whether images that cannot be read are left out.

    Returns:
        N.
    """
    experiment = run.experiment()
    source = load_source(data, data_root or experiment.data_root, allow_partial, cached_side(experiment))
    table, _ = readable_images(source, data, skip_bad)
    write_embeddings(to, _embed(run, experiment, table), table)
    return len(table)


def write_embeddings(path: Path, embeddings: torch.Tensor, table: ImageTable) -> None:
    """Write φ-normalised embeddings, with labels, class names, image names and roles."""
    write_arrays(
        path,
        embeddings=lipschitz_normalize(embeddings).numpy(),
        labels=table.labels,
        class_names=np.array(table.class_names),
        paths=np.array([table.name_of(row) for row in range(len(table))]),
        roles=np.array([""] * len(table)) if table.roles is None else table.roles,
    )


def _embed(run: RunDirectory, experiment: Experiment, table: ImageTable) -> torch.Tensor:
    model = load_model(run)
    kind = experiment.device.partition(":")[0]
    gpu = kind in {"auto", "cuda"} and torch.cuda.is_available()
    device = torch.device(experiment.device if gpu and kind == "cuda" else "cuda" if gpu else "cpu")
    batches = evaluation_batches(experiment, table, experiment.channels or 3)
    with progress_bar(len(table), "image", "embedding") as bar:
        return embed(model.to(device), batches, device, bar.update)[0]

"""Scores of a trained run on classes that it has not seen."""

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from ccpml.method import lipschitz_normalize
from ccpml.numbers import check_flags, counted
from ccpml.progress import progress_bar, progress_to
from ccpml.retrieval import ClusterScores, RetrievalScores, cluster_scores, score_intervals
from ccpml.runs.images import is_query, query_labels
from ccpml.runs.inference.embedding import embed_table
from ccpml.runs.inference.run import open_weights
from ccpml.runs.inference.unseen import unseen_images
from ccpml.training import evaluate_with_roles

__all__ = ["Evaluation", "evaluate_run"]


class Evaluation(NamedTuple):
    """Scores of a run on ``size``, the number of classes and images in words; of a clustering too, if requested.

    ``intervals`` are the 95 % bootstrap intervals over classes of MAP@R and P@1, by name; empty with one class.
    """

    scores: RetrievalScores
    size: str
    clusters: ClusterScores | None = None
    intervals: Mapping[str, Sequence[float]] = MappingProxyType({})


def evaluate_run(
    path: str | os.PathLike[str],
    data: str | None = None,
    *,
    clusters: bool = False,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad_images: bool = False,
    all_classes: bool = False,
) -> Evaluation:
    """Score a run on its own test classes, or on other data.

    Classes that the run was trained on or chosen by are never scored as unseen ones: of other data, those of the same
    names, or with images of these files, are left out, and named on standard error.

    Args:
        path: The directory of a run with weights.
        data: Data as in `Settings`: their test classes if they have their own split, else all images. None: the run's
            test classes.
        clusters: Whether to cluster all images too, queries and gallery alike, with the run's seed.
        data_root: Folder of the benchmarks; None is the run's own, or $CCPML_DATA.
        allow_partial: Whether a benchmark may be incomplete.
        skip_bad_images: Whether unreadable images are left out.
        all_classes: Whether all classes of other data are scored, also those that the run was trained on, and those
            outside of the data's own test split.

    Raises:
        DataChangedError: Without ``data``, if the run's data are not those that it was started with.
        SeenClassesError: If the run was trained on all classes of the data.
        ValueError: If the data cannot be used, or a file of the run is damaged.
    """
    check_flags(
        clusters=clusters, allow_partial=allow_partial, skip_bad_images=skip_bad_images, all_classes=all_classes
    )
    run = open_weights(path)
    table = unseen_images(
        run,
        data,
        data_root=data_root,
        allow_partial=allow_partial,
        skip_bad_images=skip_bad_images,
        all_classes=all_classes,
    )
    embeddings, labels = embed_table(run, table), torch.from_numpy(table.labels)
    with progress_bar(len(table), "query", "scoring") as bar:
        scores = evaluate_with_roles(embeddings, labels, is_query(table), progress=progress_to(bar), per_query=True)
    size = f"{counted(table.num_classes, 'class')}, {counted(len(table), 'image')}"
    clustered = _cluster(embeddings, labels, run.settings.seed) if clusters else None
    return Evaluation(scores, size, clustered, score_intervals(scores, query_labels(table)))


def _cluster(embeddings: Tensor, labels: Tensor, seed: int) -> ClusterScores:
    with progress_bar(0, "iteration", "clustering") as bar:
        return cluster_scores(lipschitz_normalize(embeddings), labels, seed=seed, progress=progress_to(bar))

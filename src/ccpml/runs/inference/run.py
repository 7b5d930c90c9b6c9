"""Use a trained run: load it, embed images with it, score it."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.data import ImageTable, load_source
from ccpml.data.class_records import listed_classes
from ccpml.data.crops import cropped_batches
from ccpml.data.embedding_file import write_embeddings as write_file
from ccpml.data.sources.source import Source
from ccpml.data.upkeep.check import readable_images
from ccpml.data_name import DataName
from ccpml.method import lipschitz_normalize
from ccpml.models import EmbeddingModel
from ccpml.progress import progress_bar, progress_to
from ccpml.retrieval import ClusterScores, RetrievalScores, cluster_scores, score_intervals
from ccpml.runs.build import available_device, build_model, evaluation_batches, transforms
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.images import cached_side, is_query, load_images, query_labels
from ccpml.runs.settings import ResolvedSettings
from ccpml.training import embed, evaluate_with_roles
from ccpml.training.embed import eval_mode

__all__ = [
    "Evaluation",
    "Run",
    "SeenClassesError",
    "embed_run",
    "embed_table",
    "evaluate_run",
    "leave_out_seen",
    "load_embedder",
    "load_run",
    "unseen_images",
    "write_embeddings",
]


class SeenClassesError(ValueError):
    """A run was trained on all classes of the data that it would be scored on."""


@dataclass(frozen=True)
class Run:
    """A trained run; `load_run` opens one.

    Attributes:
        path: The run directory.
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

    @cached_property
    def model(self) -> EmbeddingModel:
        """The network with its best weights, in eval mode on the CPU; its embeddings are not normalized."""
        state = RunDirectory.open(self.path).weights()
        model = build_model(self.settings, _channels(self.settings), initial_weights=False)
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
            "channels": _channels(settings),
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
        """Embed images as the run's own evaluation does; EXIF rotations are applied.

        Args:
            images: Paths of image files, contents of files, or arrays: uint8, (H, W), (H, W, 1) or (H, W, 3) in RGB,
                such as images of Pillow in mode L or RGB.
            batch_size: Images embedded at a time.

        Returns:
            φ-normalized embeddings, float32 (N, d), on the CPU.

        Raises:
            BadImageError: If an image cannot be read.
            ValueError: If an image is neither, or an array has another shape or type.
        """
        batches = cropped_batches(images, transforms(self.settings)[1], _channels(self.settings), batch_size)
        device = next(self.model.parameters()).device
        parts = [torch.empty(0, self.settings.embedding_dim)]
        with eval_mode(self.model), closing(batches):
            for batch in batches:  # (B, C, H, W)
                parts.append(self.model(torch.from_numpy(batch).to(device)).float().cpu())
        return lipschitz_normalize(torch.cat(parts))


def load_run(path: Path | str) -> Run:
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
    directory = RunDirectory.open(Path(path))
    return Run(directory.path, directory.settings())


def load_embedder(path: Path | str) -> Run:
    """Load a trained run with its network on the device where it computes, to embed many images."""
    run = load_run(path)
    run.model.to(available_device(run.settings.device))
    return run


class Evaluation(NamedTuple):
    """Scores of a run on ``size``, the number of classes and images in words; of a clustering too, if requested.

    ``intervals`` are the 95 % bootstrap intervals over classes of MAP@R and P@1, by name; empty with one class.
    """

    scores: RetrievalScores
    size: str
    clusters: ClusterScores | None = None
    intervals: Mapping[str, Sequence[float]] = MappingProxyType({})


def evaluate_run(
    path: Path,
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
    names are left out, and named on standard error.

    Args:
        path: The directory of a run with weights.
        data: Data as in `Settings`: their test classes if they have their own split, else all images. None: the run's
            test classes.
        clusters: Whether to cluster all images too, queries and gallery alike, with the run's seed.
        data_root: Folder of the benchmarks; None is the run's own, or $CCPML_DATA.
        allow_partial: Whether a benchmark may be incomplete.
        skip_bad_images: Whether unreadable images are left out.
        all_classes: Whether the classes of other data are scored even if the run was trained on them.

    Raises:
        DataChangedError: Without ``data``, if the run's data are not those that it was started with.
        SeenClassesError: If the run was trained on all classes of the data.
        ValueError: If the data cannot be used, or a file of the run is damaged.
    """
    run = load_run(path)
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
    size = f"{table.num_classes:,} classes, {len(table):,} images"
    clustered = _cluster(embeddings, labels, run.settings.seed) if clusters else None
    return Evaluation(scores, size, clustered, score_intervals(scores, query_labels(table)))


def unseen_images(
    run: Run,
    data: str | None = None,
    *,
    data_root: str | None = None,
    allow_partial: bool = False,
    skip_bad_images: bool = False,
    all_classes: bool = False,
) -> ImageTable:
    """Return the images of classes that a run was not trained on or chosen by; arguments as in `evaluate_run`."""
    settings, record = run.settings, RunDirectory(run.path).record()
    if data is None:
        partial, skip = settings.allow_partial or allow_partial, settings.skip_bad_images or skip_bad_images
        root = data_root or settings.data_root
        own = replace(settings, data_root=root, allow_partial=partial, skip_bad_images=skip)
        return load_images(own, record=record, run=run.path).splits.test
    source = load_source(data, data_root or settings.data_root or None, allow_partial, cached_side(settings))
    _note_changes(run, record, source, data)
    table, _ = readable_images(source, data, skip_bad_images)
    split = source.split_of_class or {}
    tests = [label for label, name in enumerate(table.class_names) if split.get(name) == "test"]
    table = table.subset(tests) if tests else table
    return leave_out_seen(table, record, data, all_classes)


def _note_changes(run: Run, record: RunRecord, source: Source, data: str) -> None:
    """Name on standard error in which classes data differ from those of the run, if they are the same by name."""
    if str(DataName.parse(data).resolved()) == run.settings.data:
        changes = record.changes(source)
        if changes:
            print(f"note: {data}: not as {run.path} was started with: {changes}", file=sys.stderr)


def leave_out_seen(table: ImageTable, record: RunRecord, data: str, all_classes: bool) -> ImageTable:
    """Return a table without the classes of a run's training and validation, or all; name them on standard error."""
    seen = {name for name, entry in record.classes.items() if entry.split != "test"}
    unseen = [label for label, name in enumerate(table.class_names) if name not in seen]
    if len(unseen) == table.num_classes:
        return table
    known = listed_classes([name for name in table.class_names if name in seen])
    if not unseen and not all_classes:
        raise SeenClassesError(f"{data}: expected classes that the run was not trained on, got {known} that it was")
    what = "scored too" if all_classes else "left out"
    print(f"note: {data}: the run was trained on or chosen by {known}; {what}", file=sys.stderr)
    return table if all_classes else table.subset(unseen)


def _cluster(embeddings: Tensor, labels: Tensor, seed: int) -> ClusterScores:
    with progress_bar(0, "iteration", "clustering") as bar:
        return cluster_scores(lipschitz_normalize(embeddings), labels, seed=seed, progress=progress_to(bar))


def embed_run(
    path: Path,
    data: str,
    output: Path,
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
    run, record = load_run(path), RunDirectory(path).record()
    root = data_root or run.settings.data_root or None
    source = load_source(data, root, allow_partial, cached_side(run.settings), labeled=False)
    _note_changes(run, record, source, data)
    table, _ = readable_images(source, data, skip_bad_images)
    write_embeddings(output, embed_table(run, table), table, record.split_of_class, run.fingerprint)
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


def embed_table(run: Run, table: ImageTable) -> Tensor:
    """Embed a table by the best weights of a run, with a progress bar; not normalized, float32 (N, d), on the CPU."""
    device = available_device(run.settings.device)
    batches = evaluation_batches(run.settings, table, _channels(run.settings))
    with progress_bar(len(table), "image", "embedding") as bar:
        return embed(run.model.to(device), batches, device, bar.update)[0]


def _channels(settings: ResolvedSettings) -> int:
    return 3 if settings.channels == "auto" else settings.channels

"""Ensembles: the embeddings of one model per fold, concatenated and scored.

Shapes: N test images, d dimensions of a model, F folds, R repeats.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccpml.benchmark.protocol import Benchmark, Cell
from ccpml.files import digest_of, read_arrays, write_json
from ccpml.progress import progress_bar
from ccpml.retrieval import RetrievalScores
from ccpml.runs.build import available_device
from ccpml.runs.directory import RunDirectory
from ccpml.system_errors import message_of, raise_shortage
from ccpml.training import evaluate_with_roles

__all__ = ["Ensembles", "score_ensembles"]

MAX_LOADED = 16
"""Models whose embeddings are in memory at a time."""

_WRITE_SECONDS = 10.0
"""Seconds between two writes of the scores."""

Combination = tuple[int, ...]
"""The repeat of each fold's model, (F,)."""


@dataclass(frozen=True)
class Ensembles:
    """The scores of each combination of models of a row, and why models are missing."""

    scores: Mapping[Combination, Mapping[str, float]]
    problems: tuple[str, ...] = ()

    def of_repeats(self) -> dict[int, Mapping[str, float]]:
        """Return the ensembles whose models are all of one repeat; they share no model, so they are independent."""
        return {repeats[0]: scores for repeats, scores in self.scores.items() if len(set(repeats)) == 1}


def score_ensembles(benchmark: Benchmark, cells: Sequence[Cell], progress: bool = True) -> dict[str, Ensembles]:
    """Score all ensembles of every row: a model of each fold, from any repeat, among the finished cells.

    Scores are kept in ``ensembles/<row>.json`` and computed again only if embeddings have changed.

    Returns:
        The ensembles by the name of the row; none if a fold has no model, or there is a single fold.

    Source: Musgrave et al., ECCV 2020, section 4.1; φ of Gürbüz et al., WACV 2024, Lemma 4.1.
    """
    rows = [
        _RowEnsembles(benchmark, row.name, [cell for cell in cells if cell.row.name == row.name])
        for row in benchmark.rows
    ]
    device = available_device(benchmark.base.device)
    total = sum(len(row.missing()) for row in rows)
    with progress_bar(total, "ensemble", "ensembles", shown=progress and total > 0) as bar:
        return {row.name: row.score(device, bar.update) for row in rows}


def _score(models: Sequence["_TestEmbeddings"], device: torch.device) -> RetrievalScores:
    """Score φ([e₁ … e_F]) in float64."""
    joined = torch.cat([model.embeddings.double() for model in models], dim=1)  # (N, F · d)
    roles, labels = models[0].roles, torch.from_numpy(models[0].labels)
    is_query = torch.from_numpy(roles == "query").to(device) if (roles != "").any() else None
    return evaluate_with_roles(joined.to(device), labels.to(device), is_query)


@dataclass(frozen=True, eq=False)
class _TestEmbeddings:
    """The test images as a run embeds them: embeddings (N, d) float; labels, paths and roles (N,)."""

    run: Path
    embeddings: Tensor
    labels: NDArray[np.int64]
    paths: NDArray[np.str_]
    roles: NDArray[np.str_]

    @classmethod
    def read(cls, run: Path) -> "_TestEmbeddings":
        """Read the embeddings of a run."""
        file = _embeddings_file(run)
        hint = f"remove {RunDirectory(run).scores_file} and run the benchmark again"
        arrays = read_arrays(file, ("embeddings", "labels", "paths", "roles"), hint)
        RunDirectory(run).check_embeddings(file)
        rows = [arrays[name] for name in ("labels", "paths", "roles")]
        try:
            read = cls(run, torch.from_numpy(arrays["embeddings"]), *rows)
        except TypeError as error:
            raise ValueError(f"{file}: damaged ({error}); {hint}") from error
        shapes = {read.embeddings.shape[:1], *(array.shape for array in rows)}
        if read.embeddings.ndim != 2 or shapes != {(len(read.labels),)} or not torch.isfinite(read.embeddings).all():
            raise ValueError(f"{file}: damaged (expected a finite vector, a label, a path and a role each); {hint}")
        return read

    def check_same_images(self, first: "_TestEmbeddings") -> None:
        """Check that the images are those of another run, in the same order."""
        for name in ("labels", "paths", "roles"):
            mine, expected = getattr(self, name), getattr(first, name)
            if not np.array_equal(mine, expected):
                same = len(mine) == len(expected)
                where = f", from row {int((mine != expected).argmax())} on" if same else ""
                raise ValueError(
                    f"{self.run}: expected the test images of {first.run} ({len(expected):,}), got {len(mine):,} with "
                    f"other {name}{where}; train it again on the same data"
                )


class _RowEnsembles:
    """The ensembles of a row, and the file that keeps their scores. Models are identified by (fold, repeat)."""

    def __init__(self, benchmark: Benchmark, name: str, cells: Sequence[Cell]) -> None:
        self.name = name
        self.folds = benchmark.folds
        self.file = benchmark.out / "ensembles" / f"{name}.json"
        self.problems: list[str] = []
        self.digests: dict[tuple[int, int], str] = {}
        self.runs = {(cell.fold, cell.repeat): cell.path for cell in cells} if len(self.folds) > 1 else {}
        for model, run in self.runs.items():
            try:
                with _embeddings_file(run).open("rb") as file:
                    self.digests[model] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise_shortage(error)
                reason = f"{_embeddings_file(run)}: cannot be read ({error.strerror or error})"
                self.problems.append(f"{reason}; remove {RunDirectory(run).scores_file} and run the benchmark again")
        repeats = [[repeat for fold, repeat in self.digests if fold == each] for each in self.folds]
        self.combinations = sorted(product(*repeats), key=lambda repeats: (len(set(repeats)) > 1, repeats))
        self.entries = self._read_file()

    def missing(self) -> list[Combination]:
        """Return the combinations that are not scored, those of one repeat first."""
        return [repeats for repeats in self.combinations if self._key(repeats) not in self.entries]

    def score(self, device: torch.device, scored: Callable[[], object]) -> Ensembles:
        """Score the missing combinations; return all."""
        missing = self.missing()
        if missing:
            try:
                self._score_all(missing, device, scored)
            finally:
                self._write_file()
        entries = {repeats: self.entries.get(self._key(repeats)) for repeats in self.combinations}
        scores = {repeats: entry["scores"] for repeats, entry in entries.items() if entry is not None}
        return Ensembles(scores, tuple(dict.fromkeys(self.problems)))

    def _score_all(self, missing: Sequence[Combination], device: torch.device, scored: Callable[[], object]) -> None:
        first = self._first_readable()

        @lru_cache(maxsize=MAX_LOADED)
        def load(model: tuple[int, int]) -> _TestEmbeddings | None:
            try:
                read = _TestEmbeddings.read(self.runs[model])
                read.check_same_images(first or read)
            except (OSError, ValueError) as error:
                self.problems.append(message_of(error))
                return None
            return read

        written = time.monotonic()
        for repeats in missing:
            models = [model for model in map(load, self._models(repeats)) if model is not None]
            if len(models) == len(self.folds):
                entry = {"repeats": list(repeats), "scores": _score(models, device).as_dict()}
                self.entries[self._key(repeats)] = entry
            scored()
            if time.monotonic() - written > _WRITE_SECONDS:
                self._write_file()
                written = time.monotonic()

    def _first_readable(self) -> _TestEmbeddings | None:
        """Return the first model whose embeddings can be read. All others must have its images."""
        for model in sorted(self.digests):
            try:
                return _TestEmbeddings.read(self.runs[model])
            except (OSError, ValueError):
                continue
        return None

    def _models(self, repeats: Combination) -> list[tuple[int, int]]:
        return list(zip(self.folds, repeats, strict=True))

    def _key(self, repeats: Combination) -> str:
        """Return the key of a combination, which changes with the embeddings of any of its models."""
        text = " ".join(f"{fold}:{self.digests[fold, repeat]}" for fold, repeat in self._models(repeats))
        return hashlib.sha256(text.encode()).hexdigest()

    def _read_file(self) -> dict[str, dict[str, Any]]:
        """Read the kept scores; none if the file is damaged, since they can be computed again."""
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            entries = {
                key: {"repeats": list(entry["repeats"]), "scores": entry["scores"]}
                for key, entry in content["entries"].items()
                if isinstance(entry["scores"]["map_at_r"], float)
            }
            return entries if content["digest"] == digest_of(entries) else {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _write_file(self) -> None:
        """Write the scores, without those of embeddings that have changed."""
        current = {self._key(repeats): repeats for repeats in self.combinations}
        others = {key: entry for key, entry in self.entries.items() if tuple(entry["repeats"]) not in current.values()}
        mine = {key: self.entries[key] for key in current if key in self.entries}
        entries = {**mine, **others}
        write_json(self.file, {"digest": digest_of(entries), "entries": entries})


def _embeddings_file(run: Path) -> Path:
    return RunDirectory(run).embeddings / "test.npz"

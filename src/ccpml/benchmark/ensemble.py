"""Ensembles: the embeddings of a row's models, one of each fold, concatenated and scored.

Shapes: N test images, d dimensions of a model, F folds, R repeats.
"""

import hashlib
import json
import time
import zipfile
import zlib
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
from ccpml.files import write_json
from ccpml.progress import progress_bar
from ccpml.retrieval import RetrievalScores
from ccpml.runs.directory import RunDirectory
from ccpml.training import evaluate_with_roles

__all__ = ["Ensembles", "concatenate", "score_ensembles"]

_LOADED = 16
"""Models whose embeddings are held at a time."""

_SECONDS = 10.0
"""Between two writings of what is scored."""

_NAMES = ("labels", "paths", "roles")

Combination = tuple[int, ...]
"""Of which repeat the model of each fold is, (F,)."""


@dataclass(frozen=True)
class Ensembles:
    """The ensembles of a row.

    Attributes:
        scores: The scores by name, for each combination of models.
        problems: Why some models could not take part.
    """

    scores: Mapping[Combination, Mapping[str, float]]
    problems: tuple[str, ...] = ()

    def of_repeats(self) -> dict[int, Mapping[str, float]]:
        """Give those whose models are all of one repeat: repeats share no model, so they are independent."""
        return {repeats[0]: scores for repeats, scores in self.scores.items() if len(set(repeats)) == 1}


def concatenate(paths: Sequence[Path], device: torch.device | str = "cpu") -> RetrievalScores:
    """Score the ensemble of some runs: their test embeddings concatenated, and normalised again.

    Args:
        paths: Run directories, finished and tested on the same images.
        device: Where to compute; in float64, whichever it is.

    Returns:
        The scores of the embeddings φ([e₁ … e_F]), (N, F · d).

    Raises:
        FileNotFoundError: If a run has no embeddings.
        ValueError: If there is no run, the embeddings of one are damaged, or its images are not those of the first.

    Source: Musgrave et al., ECCV 2020, section 4.1; φ of Gürbüz et al., WACV 2024, Lemma 4.1.
    """
    if not paths:
        raise ValueError("paths: expected one run or more, got none")
    models = [_Embedded.read(path) for path in paths]
    for model in models[1:]:
        model.require_like(models[0])
    return _score(models, device)


def score_ensembles(benchmark: Benchmark, cells: Sequence[Cell], progress: bool = True) -> dict[str, Ensembles]:
    """Score all ensembles of every row: the model of each fold from any repeat.

    What is scored is remembered in ``ensembles/<row>.json`` and not scored again, unless the embeddings have changed.

    Args:
        benchmark: The benchmark.
        cells: Those that are finished.
        progress: Show a line of progress on standard error.

    Returns:
        The ensembles of each row, by its name; none where a fold has no model, or there is one fold alone.
    """
    rows = [
        _RowEnsembles(benchmark, row.name, [cell for cell in cells if cell.row.name == row.name])
        for row in benchmark.rows
    ]
    device = _device(benchmark.base.device)
    total = sum(len(row.waiting()) for row in rows)
    with progress_bar(total, "ensemble", "ensembles", shown=progress and total > 0) as bar:
        return {row.name: row.score(device, bar.update) for row in rows}


@dataclass(frozen=True, eq=False)
class _Embedded:
    """The test images as a run embeds them: embeddings (N, d) float; labels, paths and roles (N,)."""

    path: Path
    embeddings: Tensor
    labels: NDArray[np.int64]
    paths: NDArray[np.str_]
    roles: NDArray[np.str_]

    @classmethod
    def read(cls, path: Path) -> "_Embedded":
        """Read those of a run."""
        file = _file(path)
        again = f"remove {RunDirectory(path).scores_file}, and the same command scores the run again"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: the run's embeddings are not there; {again}")
        try:
            with np.load(file, allow_pickle=False) as arrays:
                read = cls(path, torch.from_numpy(arrays["embeddings"]), *(arrays[name] for name in _NAMES))
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{file}: damaged ({error}); {again}") from error
        count = len(read.labels)
        shapes = {read.embeddings.shape[:1], *(getattr(read, name).shape for name in _NAMES)}
        if read.embeddings.ndim != 2 or shapes != {(count,)} or not torch.isfinite(read.embeddings).all():
            raise ValueError(f"{file}: damaged (not a finite vector, a label, a path and a role each); {again}")
        return read

    def require_like(self, first: "_Embedded") -> None:
        """Check that the images are those of another run, in the same order.

        Raises:
            ValueError: If they are not.
        """
        for name in _NAMES:
            mine, others = getattr(self, name), getattr(first, name)
            if not np.array_equal(mine, others):
                same = len(mine) == len(others)
                where = f" (the first that differ: row {int((mine != others).argmax())})" if same else ""
                raise ValueError(
                    f"{self.path}: its test images are not those of {first.path}: {len(mine):,} and {len(others):,}, "
                    f"other {name}{where}; train it again on the same data"
                )


def _score(models: Sequence[_Embedded], device: torch.device | str) -> RetrievalScores:
    joined = torch.cat([model.embeddings.double() for model in models], dim=1)  # (N, F · d)
    roles, labels = models[0].roles, torch.from_numpy(models[0].labels)
    is_query = torch.from_numpy(roles == "query").to(device) if (roles != "").any() else None
    return evaluate_with_roles(joined.to(device), labels.to(device), is_query)


class _RowEnsembles:
    """The ensembles of a row, and the file that remembers them."""

    def __init__(self, benchmark: Benchmark, name: str, cells: Sequence[Cell]) -> None:
        self.name = name
        self.file = benchmark.out / "ensembles" / f"{name}.json"
        self.problems: list[str] = []
        self.digests: dict[tuple[int, int], str] = {}  # by fold and repeat
        self.paths = {(cell.fold, cell.repeat): cell.path for cell in cells}
        for place, path in self.paths.items() if len(benchmark.folds) > 1 else ():
            try:
                with _file(path).open("rb") as file:
                    self.digests[place] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                self.problems.append(f"{path}: its embeddings cannot be read: {error.strerror or error}")
        each = [[repeat for fold_, repeat in self.digests if fold_ == fold] for fold in benchmark.folds]
        combinations = [tuple(repeats) for repeats in product(*each)] if len(benchmark.folds) > 1 else []
        self.folds = benchmark.folds
        self.combinations = sorted(combinations, key=lambda repeats: (len(set(repeats)) > 1, repeats))
        self.known = self._read_file()

    def waiting(self) -> list[Combination]:
        """Give the combinations that are not scored, those of one repeat first."""
        return [repeats for repeats in self.combinations if self._digest(repeats) not in self.known]

    def score(self, device: torch.device, scored: Callable[[], object]) -> Ensembles:
        """Score what is not scored."""
        waiting = self.waiting()
        if waiting:
            try:
                self._score_all(waiting, device, scored)
            finally:
                self._write_file()
        found = {repeats: self.known.get(self._digest(repeats)) for repeats in self.combinations}
        return Ensembles(
            {repeats: entry["scores"] for repeats, entry in found.items() if entry is not None}, tuple(self.problems)
        )

    def _score_all(self, waiting: Sequence[Combination], device: torch.device, scored: Callable[[], object]) -> None:
        first = self._first()
        bad: set[tuple[int, int]] = set()

        @lru_cache(maxsize=_LOADED)
        def load(place: tuple[int, int]) -> _Embedded:
            model = _Embedded.read(self.paths[place])
            if first is not None:
                model.require_like(first)
            return model

        written = time.monotonic()
        for repeats in waiting:
            places = self._places(repeats)
            for place in places:
                if place in bad:
                    continue
                try:
                    load(place)
                except (OSError, ValueError) as error:
                    bad.add(place)
                    self.problems.append(str(error))
            if not bad.intersection(places):
                scores = _score([load(place) for place in places], device).as_dict()
                self.known[self._digest(repeats)] = {"repeats": list(repeats), "scores": scores}
            scored()
            if time.monotonic() - written > _SECONDS:
                self._write_file()
                written = time.monotonic()

    def _first(self) -> _Embedded | None:
        """Give the first model whose embeddings can be read: the others must have its images."""
        for place in sorted(self.digests):
            try:
                return _Embedded.read(self.paths[place])
            except (OSError, ValueError):
                continue
        return None

    def _places(self, repeats: Combination) -> list[tuple[int, int]]:
        return list(zip(self.folds, repeats, strict=True))

    def _digest(self, repeats: Combination) -> str:
        """Give the key of a combination: it changes with the embeddings of any of its models."""
        text = " ".join(f"{fold}:{self.digests[fold, repeat]}" for fold, repeat in self._places(repeats))
        return hashlib.sha256(text.encode()).hexdigest()

    def _read_file(self) -> dict[str, dict[str, Any]]:
        """Read what is remembered; nothing, if the file is damaged: it is made again."""
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            return {
                key: {"repeats": list(entry["repeats"]), "scores": entry["scores"]}
                for key, entry in content.items()
                if isinstance(entry["scores"]["map_at_r"], float)
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _write_file(self) -> None:
        """Write what is scored, without what was scored of embeddings that have changed."""
        current = {self._digest(repeats): repeats for repeats in self.combinations}
        others = {key: entry for key, entry in self.known.items() if tuple(entry["repeats"]) not in current.values()}
        mine = {key: self.known[key] for key in current if key in self.known}
        write_json(self.file, {**mine, **others})


def _file(path: Path) -> Path:
    return RunDirectory(path).embeddings / "test.npz"


def _device(name: str) -> torch.device:
    """Give where to compute: where the models are trained if that is a CUDA device, as others have no float64."""
    if not torch.cuda.is_available() or not (name == "auto" or name.startswith("cuda")):
        return torch.device("cpu")
    return torch.device("cuda" if name == "auto" else name)

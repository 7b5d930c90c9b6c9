"""Compare runs on the same unseen classes. Shapes: Q queries, S scores, K runs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ccpml.artifacts import expand_home
from ccpml.comparison.provenance import Fact, Identity, index_sentences, list_differences
from ccpml.comparison.seeds import Configuration, group_by_seed
from ccpml.comparison.statistics import SCORES, Estimate, compare_tables, score_queries
from ccpml.comparison.unseen import UnseenImages, find_unseen
from ccpml.comparison.versus import Versus, compare_queries
from ccpml.numbers import as_tuple
from ccpml.report.embedded import Embedded
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import Run, open_run, open_weights

__all__ = ["ComparedRun", "Comparison", "compare_runs"]


@dataclass(frozen=True)
class ComparedRun:
    """A run and its scores.

    Attributes:
        name: The shortest name that tells it from the others.
        path: The run directory.
        dimensions: Dimensions of its embeddings.
        fingerprint: That of weights and preprocessing; None if the weights cannot be read.
        scores: By the names of `ccpml.RetrievalScores.as_dict`.
    """

    name: str
    path: str
    dimensions: int
    fingerprint: str | None
    scores: Mapping[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found.

    Attributes:
        runs: The runs; the first is the reference.
        data: The data that they are compared on.
        classes: Number of classes that none of the runs has seen.
        queries: Number of queries in the means.
        skipped: Number of queries whose class has no other reference.
        versus: Each further run, compared with the reference.
        configurations: Runs that differ in their seed alone, as one; empty if there are none.
        differences: Settings, data, versions and hardware that differ.
        indexes: For each further run, whether it searches an index of the reference, as a sentence.
        features: Scores of the untouched features of the backbone, and their dimensions; empty if they are not known.
        notes: What was left out, and why.
        embedded: The embeddings of each run, on the same images.
        source: The data that have the pictures.
    """

    runs: Sequence[ComparedRun]
    data: str
    classes: int
    queries: int
    skipped: int
    versus: Sequence[Versus]
    configurations: Sequence[Configuration]
    differences: Sequence[Fact]
    indexes: Sequence[str]
    features: Mapping[str, float]
    notes: Sequence[str]
    embedded: Sequence[Embedded] = field(default=(), repr=False, compare=False)
    source: str = field(default="", repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON can hold it, without embeddings."""
        own = {name: value for name, value in vars(self).items() if name not in {"embedded", "source"}}
        return {name: _plain(value) for name, value in own.items()}


def _plain(value: Any) -> Any:
    """Return dataclasses as mappings, and tuples as lists."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(each) for name, each in asdict(value).items()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def compare_runs(paths: Sequence[str | os.PathLike[str]], data: str | None = None, **options: Any) -> Comparison:
    """Compare runs on the same classes, which none of them has seen; the first run is the reference.

    Without ``data``, these are the test classes that all runs have in common, and the embeddings that the runs have
    kept are scored: no image is read. Differences are paired by query, with classes as the units of the bootstrap
    (`ccpml.retrieval.paired_difference`).

    Args:
        paths: Two or more run directories.
        data: Other data, as in ``ccpml evaluate``; each run embeds them.
        **options: With ``data``, further options of ``ccpml evaluate``: ``data_root``, ``allow_partial`` and
            ``skip_bad_images``.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: If a path is not a run directory, or, without ``data``, a run is not finished.
        NoCommonClassesError: If no class is unseen by all of the runs.
        ValueError: If there are fewer than two runs, one is given twice, or a file is missing or damaged.

    Example:
        ```python
        from ccpml.comparison.compare import compare_runs

        comparison = compare_runs(["runs/plain", "runs/ccp"])
        difference = comparison.versus[0].differences["map_at_r"]
        print(difference.value, (difference.low, difference.high), difference.verdict)
        ```
    """
    places = [expand_home(path) for path in as_tuple("paths", paths, "two or more runs")]
    if len(places) < 2:
        raise ValueError(f"runs: expected two or more, got {len(places)}")
    for path in places:
        if sum(other.resolve() == path.resolve() for other in places) > 1:
            raise ValueError(f"{path}: expected each run once, got it twice")
    runs = [(open_run if data is None else open_weights)(path) for path in places]  # own data need finished runs
    unseen = find_unseen(runs, data, **options)
    scored = [score_queries(each) for each in unseen.embedded]
    tables, rows = [table for table, _ in scored], scored[0][1]
    labels = unseen.embedded[0].labels[rows]  # (Q,)
    estimates, differences = compare_tables(tables, labels)
    names, identities = short_names(places), [Identity.of(run) for run in runs]
    counted = ~np.isnan(tables[0][0])
    compared = [
        ComparedRun(name, str(run.path), run.embedding_dim, identity.fingerprint, scores)
        for name, run, identity, scores in zip(names, runs, identities, estimates, strict=True)
    ]
    return Comparison(
        runs=compared,
        data=unseen.data,
        classes=len(np.unique(labels[counted])),
        queries=int(counted.sum()),
        skipped=int((~counted).sum()),
        versus=[
            compare_queries(number, own, unseen.embedded[0], rows, tables[0][0], tables[number][0])
            for number, own in enumerate(differences, 1)
        ],
        configurations=group_by_seed([run.settings.flat() for run in runs], tables, labels, estimates),
        differences=list_differences(runs),
        indexes=index_sentences(names, runs, identities),
        features=_features(runs, unseen),
        notes=unseen.notes,
        embedded=unseen.embedded,
        source=unseen.source,
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart.

    Example:
        >>> short_names([Path("runs/a"), Path("runs/b")]), short_names([Path("x/run"), Path("y/run")])
        (['a', 'b'], ['x/run', 'y/run'])
    """
    whole = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-length:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _features(runs: Sequence[Run], unseen: UnseenImages) -> dict[str, float]:
    """Return the scores of untouched features that all runs report for these images."""
    if not unseen.complete:
        return {}
    found = [RunDirectory(run.path).scores().get("features") for run in runs]
    known = [each for each in found if each]
    if not known or any(each != known[0] for each in known):
        return {}
    return {name: float(known[0][name]) for name in ("dimensions", *SCORES)}

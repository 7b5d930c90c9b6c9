"""Runs that differ in their seed alone: means and standard deviations over seeds, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccpml.benchmark.spread import Gain, Spread
from ccpml.comparison.statistics import SCORES, Difference, Estimate, compare_tables
from ccpml.runs.values import INCIDENTAL

__all__ = ["Configuration", "group_by_seed"]


@dataclass(frozen=True)
class Configuration:
    """Runs with the same settings, except for the seed.

    Attributes:
        runs: Numbers of the runs, from 0.
        seeds: Their seeds.
        spread: Mean and standard deviation of each score over the runs.
        gains: Paired differences from the first configuration over common seeds, by score; empty for the first.
        differences: Differences of the scores averaged over seeds, with intervals over classes; empty for the first.
    """

    runs: tuple[int, ...]
    seeds: tuple[int, ...]
    spread: Mapping[str, Spread]
    gains: Mapping[str, Gain]
    differences: Mapping[str, Difference]


def group_by_seed(
    settings: Sequence[Mapping[str, Any]],
    tables: Sequence[NDArray[np.float64]],
    labels: NDArray[np.int64],
    estimates: Sequence[Mapping[str, Estimate]],
) -> tuple[Configuration, ...]:
    """Group runs by their settings without the seed; the first configuration is that of the first run.

    Args:
        settings: Flat settings of each run, K.
        tables: Scores of each query by each run, K of shape (S, Q).
        labels: Classes of the queries, (Q,).
        estimates: Mean scores of each run.

    Returns:
        The configurations; none if each has one run, or a seed occurs twice in one.
    """
    groups: dict[str, list[int]] = {}
    for number, own in enumerate(settings):
        key = {name: value for name, value in own.items() if name not in {*INCIDENTAL, "seed"}}
        groups.setdefault(repr(sorted(key.items())), []).append(number)
    members = list(groups.values())
    seeds = [tuple(int(settings[number]["seed"]) for number in group) for group in members]
    if max(map(len, members)) < 2 or any(len(set(own)) < len(own) for own in seeds):
        return ()
    averages = [np.mean([tables[number] for number in group], axis=0) for group in members]  # (S, Q) each
    differences = compare_tables(averages, labels)[1]
    found = [
        Configuration(tuple(group), own, _spread(group, estimates), {}, {})
        for group, own in zip(members, seeds, strict=True)
    ]
    return (
        found[0],
        *(
            replace(each, gains=_gains(found[0], each, estimates), differences=own)
            for each, own in zip(found[1:], differences, strict=True)
        ),
    )


def _spread(group: Sequence[int], estimates: Sequence[Mapping[str, Estimate]]) -> dict[str, Spread]:
    return {name: Spread.of(estimates[number][name].value for number in group) for name in SCORES}


def _gains(first: Configuration, other: Configuration, estimates: Sequence[Mapping[str, Estimate]]) -> dict[str, Gain]:
    """Return the paired differences over the seeds that both have; none without a common one."""
    common = [seed for seed in first.seeds if seed in other.seeds]
    if not common:
        return {}
    pairs = [(other.runs[other.seeds.index(seed)], first.runs[first.seeds.index(seed)]) for seed in common]
    return {
        name: Gain.of(
            "reference",
            [estimates[ours][name].value for ours, _ in pairs],
            [estimates[theirs][name].value for _, theirs in pairs],
        )
        for name in SCORES
    }

"""Change of covering radii and distances over the instances of alternating projections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

__all__ = ["MEASURES", "Change", "changes"]

MEASURES = {
    "train_covering_radius": ("training classes", "radius"),
    "train_interclass_distance": ("training classes", "distance"),
    "val_covering_radius": ("validation classes", "radius"),
    "val_interclass_distance": ("validation classes", "distance"),
}
"""The compared columns of ``metrics.csv``, with the classes and the measure that each is about."""


@dataclass(frozen=True)
class Change:
    """A measure at the end of the first instance and at the end of training, over models.

    Attributes:
        before: Its mean at the last validation of the first instance.
        after: Its mean at the last validation of all.
        fell: Number of models in which it decreased.
        count: Number of models.
    """

    before: float
    after: float
    fell: int
    count: int


def changes(histories: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Change]:
    """Compare the end of the first instance with the end of training.

    Args:
        histories: Rows of ``metrics.csv`` of each model. Models without a projection are left out.

    Returns:
        The change of each measure that all other models have; empty if there is no such model.

    Example:
        >>> validations = [{"instance": 0, "val_covering_radius": 0.5}, {"instance": 1, "val_covering_radius": 0.25}]
        >>> changes([validations])
        {'val_covering_radius': Change(before=0.5, after=0.25, fell=1, count=1)}

    Source: Gürbüz et al., WACV 2024: over the instances radii shrink, and distances between classes do not.
    """
    ends = []
    for validations in histories:
        first = [row for row in validations if row.get("instance") == 0]
        if first and len(first) < len(validations):
            ends.append((first[-1], validations[-1]))
    found = {}
    for name in MEASURES:
        if ends and all(name in before and name in after for before, after in ends):
            pairs = [(before[name], after[name]) for before, after in ends]
            fell = sum(after < before for before, after in pairs)
            found[name] = Change(fmean(a for a, _ in pairs), fmean(b for _, b in pairs), fell, len(pairs))
    return found

"""A comparison in words and tables of plain text."""

from collections.abc import Iterator, Sequence
from typing import Final

from ccpml.comparison.compare import Comparison
from ccpml.comparison.statistics import SCORES, Difference, Estimate
from ccpml.comparison.versus import Versus
from ccpml.data.sources.source import listed_names
from ccpml.numbers import counted
from ccpml.retrieval.intervals import LEVEL, MIN_CLASSES

__all__ = [
    "ABOUT",
    "configuration_rows",
    "configuration_sentence",
    "describe",
    "difference_cells",
    "estimate_cell",
    "feature_sentence",
    "scope",
    "score_rows",
    "text_of",
    "verdict_sentence",
]

ABOUT: Final = (
    f"Intervals of {100 * LEVEL:.0f} % are over classes: they say what other classes of the same kind would give, not "
    "other seeds of the training."
)

_CLASSES_SHOWN: Final = 5


def text_of(comparison: Comparison) -> str:
    """Return what ``ccpml compare`` prints."""
    return "\n".join(_lines(comparison))


def _lines(comparison: Comparison) -> Iterator[str]:
    reference = comparison.runs[0].name
    yield scope(comparison)
    yield from (f"note: {note}" for note in comparison.notes)
    yield ABOUT
    for versus in comparison.versus:
        name = comparison.runs[versus.run].name
        yield ""
        yield from _table(("", reference, name, "difference", "p", ""), list(score_rows(comparison, versus)))
        yield verdict_sentence(comparison, versus)
        yield f"Queries: {describe(versus)}"
        yield from _classes(versus)
    if len(comparison.versus) > 1:
        yield f"\nBy Holm, p is adjusted for the {len(comparison.versus)} runs that are compared with {reference}."
    if comparison.features:
        yield f"\n{feature_sentence(comparison)}"
    if comparison.configurations:
        yield "\nRuns that differ in their seed alone: mean ± standard deviation"
        yield from _table(*configuration_rows(comparison))
        for number in range(1, len(comparison.configurations)):
            yield configuration_sentence(comparison, number)
    yield ""
    yield from comparison.indexes
    if comparison.differences:
        yield "\nWhat differs:"
        rows = [(fact.name, *fact.values) for fact in comparison.differences]
        yield from _table(("", *(run.name for run in comparison.runs)), rows)


def scope(comparison: Comparison) -> str:
    """Return what was scored, as a sentence."""
    skipped = (
        f"; {comparison.skipped:,} without another image of their class are left out" if comparison.skipped else ""
    )
    few = (
        f" Fewer than {MIN_CLASSES} classes are few: intervals hold less often than they say."
        if comparison.classes < MIN_CLASSES
        else ""
    )
    return (
        f"{comparison.data}: {counted(comparison.classes, 'class')} that none of the runs has seen, "
        f"{counted(comparison.queries, 'query')}{skipped}.{few}"
    )


def score_rows(comparison: Comparison, versus: Versus) -> Iterator[tuple[str, ...]]:
    """Return the cells of each score: title, both estimates, difference, p-value and verdict."""
    for name, title in SCORES.items():
        values = (comparison.runs[number].scores[name] for number in (0, versus.run))
        yield title, *map(estimate_cell, values), *difference_cells(versus.differences[name])


def estimate_cell(estimate: Estimate) -> str:
    """Return a mean with its interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ({estimate.low:.3f} to {estimate.high:.3f})"


def difference_cells(difference: Difference) -> tuple[str, str, str]:
    """Return a difference with its interval, its p-value, and the verdict."""
    value = _signed(difference.value)
    if difference.low is None or difference.high is None or difference.p_adjusted is None:
        return value, "–", difference.verdict if difference.verdict == "equal" else "one class: no interval"
    p = "< 0.001" if difference.p_adjusted < 0.001 else f"{difference.p_adjusted:.3f}"
    return f"{value} ({_signed(difference.low)} to {_signed(difference.high)})", p, difference.verdict


def verdict_sentence(comparison: Comparison, versus: Versus) -> str:
    """Return in words whether a run is better than the reference by MAP@R."""
    name, reference = comparison.runs[versus.run].name, comparison.runs[0].name
    found = versus.differences["map_at_r"]
    by = f"by {abs(found.value):.4f} MAP@R"
    if found.verdict == "equal":
        return f"{name} and {reference} are equal on every query."
    if found.verdict == "not distinguishable":
        if found.low is None or found.high is None:
            return f"{name} and {reference} cannot be compared on one class: there is no interval."
        return (
            f"{name} is not distinguishable from {reference}: the difference in MAP@R, {_signed(found.value)}, could "
            f"be anything from {_signed(found.low)} to {_signed(found.high)} on other classes like these."
        )
    return f"{name} is {found.verdict} than {reference} {by}, also on other classes like these."


def describe(versus: Versus) -> str:
    """Return how many queries and classes were won and lost."""
    won = sum(each.change > 0 for each in versus.classes)
    lost = sum(each.change < 0 for each in versus.classes)
    return (
        f"{versus.won:,} with a higher MAP@R, {versus.lost:,} lower, {versus.equal:,} equal; "
        f"classes: {won:,} higher, {lost:,} lower."
    )


def feature_sentence(comparison: Comparison) -> str:
    """Return the scores of the untouched features."""
    scores = comparison.features
    return (
        f"Untouched features of the backbone, {int(scores['dimensions']):,}-D: MAP@R {scores['map_at_r']:.4f}, "
        f"P@1 {scores['precision_at_1']:.4f}."
    )


def configuration_rows(comparison: Comparison) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the table of runs that differ in their seed alone: its header, and its rows."""
    rows = []
    for each in comparison.configurations:
        spread = [each.spread[name] for name in SCORES]
        cells = [f"{s.mean:.4f}" + ("" if s.std is None else f" ± {s.std:.4f}") for s in spread]
        rows.append((_members(comparison, each.runs), str(len(each.runs)), *cells))
    return ("", "seeds", *SCORES.values()), rows


def configuration_sentence(comparison: Comparison, number: int) -> str:
    """Return how a configuration compares with the first: over classes, and over seeds."""
    each = comparison.configurations[number]
    found, gain = each.differences["map_at_r"], each.gains.get("map_at_r")
    first = _members(comparison, comparison.configurations[0].runs)
    over_classes = " ".join(_over_classes(found))
    text = f"{_members(comparison, each.runs)} against {first}, MAP@R averaged over seeds: {over_classes}"
    if gain is None:
        return f"{text}; no seed in common, so seeds are not paired."
    seeds = f"over {gain.count} {'seed' if gain.count == 1 else 'seeds'} in common {_signed(gain.mean)}"
    if gain.p is None:
        return f"{text}; {seeds}."
    return f"{text}; {seeds} ± {gain.std:.4f}, higher in {gain.won}, p {gain.p:.3f} by the paired t-test."


def _over_classes(found: Difference) -> Iterator[str]:
    value, p, verdict = difference_cells(found)
    yield value
    yield f"over classes, p {p}, {verdict}"


def _members(comparison: Comparison, runs: Sequence[int]) -> str:
    names = [comparison.runs[number].name for number in runs]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _classes(versus: Versus) -> Iterator[str]:
    """Return the classes with the largest gains and losses."""
    gains = [each for each in versus.classes if each.change > 0][:_CLASSES_SHOWN]
    losses = [each for each in versus.classes[::-1] if each.change < 0][:_CLASSES_SHOWN]
    for what, classes in (("gains", gains), ("losses", losses)):
        if classes:
            listed = ", ".join(f"{listed_names([each.name], most=1)} {_signed(each.change, 3)}" for each in classes)
            yield f"Largest {what}: {listed}"


def _signed(value: float, digits: int = 4) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return the lines of a table, the first column aligned left, the others right."""
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    for cells in (head, *rows):
        first, *others = (c.rjust(w) if at else c.ljust(w) for at, (c, w) in enumerate(zip(cells, widths, strict=True)))
        yield "  ".join([first, *others]).rstrip()

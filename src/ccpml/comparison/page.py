"""The page of a comparison: one HTML file with its pictures, which loads nothing."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ccpml.comparison import text
from ccpml.comparison.compare import Comparison
from ccpml.comparison.pictures import draw_versus
from ccpml.comparison.versus import QueryChange, Versus
from ccpml.files import write_text
from ccpml.progress import print_note, progress_bar
from ccpml.report import page
from ccpml.report.embedded import Embedded
from ccpml.report.gallery import neighbors_of
from ccpml.report.images import Images
from ccpml.report.style import style
from ccpml.report.tiles import Row, Tile

__all__ = ["write_page"]

_CLASSES: Final = 8


def write_page(comparison: Comparison, output: Path) -> None:
    """Write the page of a comparison; the queries won and lost are shown with their nearest neighbors.

    Pictures that no longer exist are drawn as placeholders.

    Raises:
        WriteError: If the file cannot be written.
    """
    images = Images(comparison.source)
    names = [each.name for versus in comparison.versus for each in versus.classes]
    total = sum(2 * (len(versus.queries_won) + len(versus.queries_lost)) for versus in comparison.versus)
    with (
        style([*names, *(run.name for run in comparison.runs)]),
        progress_bar(total, "row", "pictures", delay=2) as bar,
    ):
        body = list(_head(comparison))
        for versus in comparison.versus:
            body += _versus(comparison, versus)
            body += _queries(comparison, versus, images, bar.update)
        body += _rest(comparison, images)
    if problem := images.problem():
        print_note(problem)
    write_text(output, page.document(_title(comparison), body))


def _title(comparison: Comparison) -> str:
    first, *others = (run.name for run in comparison.runs)
    return f"{', '.join(others)} compared with {first}"


def _head(comparison: Comparison) -> Iterator[str]:
    yield f"<h1>{page.text(_title(comparison))}</h1>\n"
    yield page.paragraph(text.scope(comparison), lead=True)
    yield page.listing([text.verdict_sentence(comparison, versus) for versus in comparison.versus])
    if comparison.notes:
        yield page.paragraph("Not compared:")
        yield page.listing(comparison.notes)
    if len(comparison.versus) > 1:
        yield page.paragraph(
            f"p-values are adjusted by Holm for the {len(comparison.versus)} runs that are compared with "
            f"{comparison.runs[0].name}."
        )
    if comparison.configurations:
        head, rows = text.configuration_rows(comparison)
        sentences = [text.configuration_sentence(comparison, n) for n in range(1, len(comparison.configurations))]
        about = "Mean ± standard deviation over runs that have the same settings except for the seed."
        table = page.table(head, rows, "numbers dense")
        yield page.section("Over seeds", table, page.paragraph(about), page.listing(sentences))


def _versus(comparison: Comparison, versus: Versus) -> Iterator[str]:
    name, reference = comparison.runs[versus.run].name, comparison.runs[0].name
    head = ("score", "difference", "", "p", name, reference)
    rows = [
        (title, difference, verdict, p, value, base)
        for title, base, value, difference, p, verdict in text.score_rows(comparison, versus)
    ]
    caption = (
        f"{text.ABOUT} The first panel shows differences with their intervals: filled marks are better or worse, "
        "hollow ones not distinguishable. In the second, each mark is a class; upward triangles are above the line, "
        f"where the MAP@R is higher by {name}."
    )
    yield page.section(
        f"{name} against {reference}",
        page.table(head, rows, "numbers dense"),
        page.figure(draw_versus(comparison, versus), caption),
        *_classes(versus, reference, name),
    )


def _classes(versus: Versus, reference: str, name: str) -> Iterator[str]:
    gains = [each for each in versus.classes if each.change > 0][:_CLASSES]
    losses = [each for each in versus.classes[::-1] if each.change < 0][:_CLASSES]
    head = ("class", "difference", name, reference, "queries")
    for title, classes in (("Largest gains", gains), ("Largest losses", losses)):
        if classes:
            rows = [
                (c.name, f"{c.change:+.3f}".replace("-", "−"), f"{c.value:.3f}", f"{c.reference:.3f}", f"{c.queries:,}")
                for c in classes
            ]
            yield f"<h3>{title}, mean MAP@R of a class</h3>\n{page.table(head, rows, 'numbers dense')}"


def _queries(comparison: Comparison, versus: Versus, images: Images, done: Callable[[int], object]) -> Iterator[str]:
    """Yield the parts about queries won and lost; ``done`` is called with the number of rows of each query."""
    name, reference = comparison.runs[versus.run].name, comparison.runs[0].name
    about = (
        "The queries whose MAP@R changes most, at most one of a class, with their nearest neighbors by both runs. "
        "A green frame with ✓ marks the query's class, a dashed red frame with ✗ another class. Neighbors beyond "
        "the R nearest, which do not count, are faded."
    )
    shown = [page.paragraph(about)] if versus.queries_won or versus.queries_lost else []
    yield page.section(f"Queries: {name} against {reference}", page.paragraph(text.describe(versus)), *shown)
    for title, queries in (("Won", versus.queries_won), ("Lost", versus.queries_lost)):
        if queries:
            yield f"<h3>{title} by {page.text(name)}</h3>\n"
        for query in queries:
            both = ((0, reference, query.reference), (versus.run, name, query.value))
            rows = [_row(comparison.embedded[k], query, run, score, images) for k, run, score in both]
            change = f"{query.change:+.3f}".replace("-", "−")
            yield page.rows(rows, f"{query.class_name}, {query.path}: MAP@R {change}")
            done(len(rows))


def _row(embedded: Embedded, query: QueryChange, run: str, score: float, images: Images) -> Row:
    """Return a query and its nearest neighbors by a run."""
    [neighbors] = neighbors_of(embedded, np.array([query.row]))
    own = embedded.labels[query.row]
    references = int((embedded.labels[embedded.rows("gallery")] == own).sum()) - (not embedded.has_roles)
    tiles = [Tile(images.small(query.path), "query")]
    for rank, row in enumerate(neighbors.tolist()):
        right, beyond = bool(embedded.labels[row] == own), rank >= references
        name = embedded.class_names[embedded.labels[row]]
        tiles.append(Tile(images.small(embedded.paths[row]), name, None if beyond and not right else right, beyond))
    return Row(run, f"MAP@R {score:.3f}", tiles, lead=1)


def _rest(comparison: Comparison, images: Images) -> Iterator[str]:
    if problem := images.problem():
        yield page.paragraph(f"{problem}.")
    if comparison.features:
        yield page.paragraph(text.feature_sentence(comparison))
    yield page.section(
        "Indexes", page.listing(sentence.replace("`", "") for sentence in comparison.indexes), _fingerprints(comparison)
    )
    rows = [(fact.name, *fact.values) for fact in comparison.differences]
    head = ("", *(run.name for run in comparison.runs))
    nothing = page.paragraph("Nothing: settings, data, versions and hardware are the same.")
    yield page.section("What differs", _wrapped(head, rows) if rows else nothing)


def _fingerprints(comparison: Comparison) -> str:
    return page.facts(
        (run.name, f"{run.dimensions:,}-D, fingerprint {run.fingerprint[:16] if run.fingerprint else 'not known'}")
        for run in comparison.runs
    )


def _wrapped(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return page.table(head, rows, "facts")

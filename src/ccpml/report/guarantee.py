"""What the certificate of a run promises, and what was observed."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ccpml.calibration import Certificate
from ccpml.numbers import counted
from ccpml.report import page
from ccpml.report.style import COLORS, INK, MUTED, WHOLE, Layout, Picture

__all__ = ["draw_guarantee", "guarantee_parts"]

_PROXIES = {
    "training_proxies": "training classes, their proxies",
    "training_images": "training classes, images as proxies",
    "unseen_images": "unseen classes, images as proxies",
}


def draw_guarantee(certificate: Certificate) -> Picture:
    """Draw promised and observed precision over thresholds, and the fraction of queries that are answered."""
    made = ", ".join(f"{p:g} within {d:.3f}" for p, d in _asked(certificate).items())
    alt = (
        "Curves over the threshold: precision on calibration and check classes, queries answered. Promised: "
        f"{made or 'nothing that was asked for'}."
    )
    return Picture.in_layouts(partial(_draw, certificate), "guarantee.png", alt)


def _draw(certificate: Certificate, layout: Layout) -> Figure:
    curve = {name: np.array(values, dtype=float) for name, values in certificate.details["curve"].items()}
    x, answered = curve["distance"], curve["answered"]
    last = x[min(int(np.argmax(answered >= answered[-1])) + 40, len(x) - 1)]
    first = x[max(int(np.argmax(answered > 0)) - 20, 0)]
    figure = Figure(figsize=(layout.width, 5.6 if layout.is_narrow else 4.4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(x, answered, color="#eef1f3", label="queries answered", zorder=0)
    axes.plot(x, curve["calibration"], color=COLORS[0], label="observed, calibration classes")
    axes.plot(x, curve["check"], color=COLORS[4], label="observed, check classes")
    ladder = sorted(((d, p) for p, d in certificate.distances.items()), key=lambda pair: pair[0])
    if ladder:
        steps = np.array([(d, certificate.precision_at(d)) for d, _ in ladder], dtype=float)
        axes.step(steps[:, 0], steps[:, 1], where="pre", color=INK, linewidth=1.6, label="promised")
    for precision, distance in _asked(certificate).items():
        point = (min(distance, last), precision)  # a threshold of 2 lies beyond the axes
        axes.plot(*point, marker="o", markersize=7, color=INK, linestyle="", **WHOLE)
        axes.annotate(f"{precision:g}", point, (-4, -14), textcoords="offset points", ha="right", fontweight="bold")
    axes.set(xlim=(first, last), ylim=(0, 1.02), xlabel="threshold, a distance")
    axes.set_title("Precision within a threshold")
    axes.tick_params(colors=MUTED)
    figure.legend(loc="outside lower center", ncols=1 if layout.is_narrow else 4)
    return figure


def guarantee_parts(certificate: Certificate, figure: str) -> Iterator[str]:
    """Return the parts of the section in HTML: promises, picture, answer sets, rejections, proxies."""
    details, confidence = certificate.details, f"{certificate.confidence:g}"
    count = certificate.answers
    what = "its nearest image" if count == 1 else f"each of its {count} nearest images"
    yield page.paragraph(
        f"{details['classes']:,} classes of {details['data']}, which the run has not seen, were cut at random: "
        f"{len(details['calibrated']):,} calibrate and {len(details['checked']):,} check. An answer to a query is "
        f"{what}, if it is within the threshold. A promise says: over classes drawn like these, searched in a gallery "
        "like this one, the mean precision of a class is at least as promised. It holds with confidence "
        f"{confidence}, over the draw of the calibration classes. It says nothing about a single answer, about classes "
        "of another kind, or about queries whose class is not in the gallery."
    )
    head = ("promised", "within", "calibration", "check", "answered")
    yield page.table(head, [_promise(row) for row in details["promises"]], "numbers dense")
    short = [row for row in details["promises"] if row["distance"] is None]
    if short:
        yield page.listing(_shortage(row, details["classes"]) for row in short)
    yield figure
    yield page.paragraph(
        "Answer sets: the k nearest images hold one of the query's class with the promised probability, on average "
        "over calibrations and further classes."
    )
    sets = [
        (f"{row['probability']:g}", _number(row["size"], ",d"), _number(row.get("check")))
        for row in details["answer_sets"]
    ]
    yield page.table(("promised", "k", "check"), sets)
    yield page.paragraph(
        "Nothing matches: if the nearest image is farther than the distance, the query's class is not in the gallery. "
        "Promised, on average, is the fraction of queries of absent classes that are turned away. Both errors are "
        f"those on the check classes, in parentheses their bounds with confidence {confidence}."
    )
    errors = ("accepted_absent", "rejected_present")
    rejections = [
        (f"{r['probability']:g}", _number(r["distance"]), *(_bounded(r, name) for name in errors))
        for r in details["rejections"]
    ]
    yield page.table(("promised", "distance", "absent, accepted", "present, rejected"), rejections, "numbers dense")
    yield from _proxies(details["training"], confidence)


def _proxies(training: Mapping[str, Any], confidence: str) -> Iterator[str]:
    near, far = training["beta"] - training["alpha"], training["beta"] + training["alpha"]
    source = "the margins of the loss" if training["margins_of_loss"] else "where both are as frequent in training"
    yield "<h3>Chance constraints and covers</h3>\n"
    yield page.paragraph(
        "The covering radius of a class is the largest distance of its images from the nearest proxy. A pair of an "
        f"image and a proxy violates its constraint if it is of one class and farther than {near:.3f}, or of two "
        f"classes and nearer than {far:.3f} ({source}). Values are means over classes; in parentheses, their bounds "
        f"with confidence {confidence} for classes drawn like those of the row. The rows of training classes say "
        "nothing about others: the network was trained on them. Unseen classes have no proxies; some of their images "
        "serve instead, chosen by greedy k-center and not measured. None of these numbers is a precision."
    )
    columns = ("radius", "same_class", "other_classes")
    yield page.table(
        ("", "covering radius", "same class violates", "other classes violate"),
        [(_PROXIES[n], *(_bounded(row, column) for column in columns)) for n, row in training["measured"].items()],
        "numbers dense",
    )
    terms = training["terms"]
    yield page.paragraph(
        "Proposition 4.2 bounds the gap between training and unseen classes by ζ δ + training error + sampling. Here "
        f"δ is {terms['covering_radius']:.3f} and the training error {terms['training_error']:.3f}; the sampling term "
        f"is {terms['sampling']:.3f} without its constants, and ζ is not estimated, so their sum is no bound. The gap "
        "that was observed between unseen and training classes, with images as proxies, is "
        f"{terms['observed_gap']:.3f}."
    )


def _asked(certificate: Certificate) -> dict[float, float]:
    """Return the thresholds of the precisions that were asked for and could be promised."""
    rows = certificate.details["promises"]
    return {row["precision"]: row["distance"] for row in rows if row["distance"] is not None}


def _promise(row: Mapping[str, Any]) -> tuple[str, ...]:
    reached = row.get("reached")  # where nothing is promised
    seen = reached or row
    check, calibration = seen.get("check", {}), seen.get("calibration", {})
    distance = _number(seen["distance"])
    observed = (_number(part.get("precision")) for part in (calibration, check))
    return (
        f"{row['precision']:g}",
        f"({distance})" if reached else distance,
        *observed,
        _number(check.get("answered"), ".0%"),
    )


def _shortage(row: Mapping[str, Any], classes: int) -> str:
    if row["classes_needed"] is None:
        return f"{row['precision']:g} cannot be promised: at no distance are so many answers right."
    needed = f"about {row['classes_needed']:,} like these would do"
    return f"{row['precision']:g} cannot be promised from {counted(classes, 'class')}; {needed}."


def _bounded(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_at_most']:.3f})" if name in row else "–"


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)

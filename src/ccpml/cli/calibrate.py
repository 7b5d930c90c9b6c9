"""``ccpml calibrate``: distances within which a run's answers are right with a promised probability."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccpml.calibration.certificate import CERTIFICATE_FILE, Certificate, CertificateError
from ccpml.cli.common.commas import check_commas, is_number
from ccpml.cli.common.libraries import announce_libraries
from ccpml.cli.common.options import UsageError, add_data_options, check_data_of_run, check_run
from ccpml.cli.common.parser import Parser
from ccpml.data_name import known_names
from ccpml.numbers import counted
from ccpml.progress import announce, print_note


def run(arguments: list[str]) -> int:
    """Calibrate a run, write its certificate and print it; return 1 if no precision can be promised."""
    options = vars(parse(arguments))
    path, as_json = check_run(options["path"]), options.pop("json")
    check_data_of_run(options["data"], options["data_root"])

    announce_libraries()
    from ccpml.calibration.run import calibrate_run

    former = _read(path)
    certificate = calibrate_run(**options)
    details, file = certificate.details, path / CERTIFICATE_FILE
    if as_json:
        print(json.dumps({"fingerprint": certificate.fingerprint, "confidence": certificate.confidence, **details}))
    else:
        print("\n".join(_text(details, certificate.confidence, certificate.answers)))
        print(f"\ncertificate  {file}", flush=True)
    promised = any(row["distance"] is not None for row in details["promises"])
    if not promised:
        shortage = _shortage(details["promises"][0], details)
        is_kept = former is not None and former.precisions and _read(path) == former
        kept = f"its promises from {former.details.get('data')}" if former and is_kept else "what was measured"
        print(f"ccpml: {details['data']}: {shortage}; {file} keeps {kept}", file=sys.stderr)
    _note_what_is_lost(former, _read(path), file)
    from ccpml.report import write_report
    from ccpml.runs.directory import RunDirectory

    announce("writing the report")
    report = write_report(RunDirectory.open(path), keep=True)
    if not as_json:
        print(f"report       {report}")
    return 0 if promised else 1


def _note_what_is_lost(former: Certificate | None, new: Certificate | None, file: Path) -> None:
    if former is None or new is None or former.fingerprint != new.fingerprint:
        return
    if lost := [p for p in former.precisions if new.distance_for(p) is None]:
        print_note(f"{file}: the one before, from {former.details.get('data')}, promised {lost[-1]:g} too")


def _read(path: Path) -> Certificate | None:
    """Return the certificate of a run; None if it has none that can be read."""
    try:
        return Certificate.read(path)
    except CertificateError:
        return None


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = (
        "Find the largest distance within which answers of a run are right with a promised probability, on classes "
        "that it has not seen: some calibrate, the others check. Writes certificate.json into the run directory."
    )
    parser = Parser(prog="ccpml calibrate", description=text)
    parser.add_argument("path", metavar="run", type=Path, help="run directory")
    parser.add_argument("data", nargs="?", help=f"{known_names()} (default: the run's test classes)")
    parser.add_argument(
        *("--precision", "--precisions"),
        dest="precisions",
        type=_probabilities,
        default=(0.8, 0.9, 0.95),
        help="the fraction of answers that are right, one or more, such as 0.9,0.95 (default: 0.8,0.9,0.95)",
    )
    parser.add_argument(
        "--confidence",
        type=_probability,
        default=0.95,
        help="probability that a promised precision holds (default: 0.95)",
    )
    parser.add_argument(
        "--answers", type=int, default=1, help="how many nearest images of a query count as answers (default: 1)"
    )
    parser.add_argument(
        "--calibration-share",
        type=_probability,
        default=0.5,
        help="fraction of the classes that calibrate, fixed before anything is observed; the others check (default: "
        "0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print the certificate as JSON")
    add_data_options(parser)
    check_commas(arguments, dict.fromkeys(("--precision", "--precisions"), is_number))
    options = parser.parse_intermixed_args(arguments)
    if options.answers < 1:
        raise UsageError(f"--answers: expected an integer of at least 1, got {options.answers}")
    return options


def _probability(text: str) -> float:
    value = float(text) if is_number(text) else -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, such as 0.95, got {text!r}")
    return value


def _probabilities(text: str) -> tuple[float, ...]:
    values = tuple(_probability(part) for part in text.split(","))
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"expected each once, got {text}")
    return values


def _text(details: Mapping[str, Any], confidence: float, answers: int) -> Iterator[str]:
    """Return the lines that say what is promised and what was observed."""
    calibrated, checked = len(details["calibrated"]), len(details["checked"])
    classes, queries = counted(details["classes"], "class"), counted(details["queries"], "query")
    yield f"{details['data']}: {classes} that the run has not seen, {queries}"
    yield f"{calibrated:,} classes calibrate, the other {checked:,} check"
    what = "the nearest image" if answers == 1 else f"an image among the {answers} nearest"
    yield f"\nWithin the distance, {what} is right; each promise holds with confidence {confidence:g}:"
    yield from _table(
        ("promised", "distance", "calibration", "check", "check classes", "queries answered"),
        [_promise_cells(row) for row in details["promises"]],
    )
    if any(row.get("reached") for row in details["promises"]):
        yield (
            "Nothing is promised for a distance in parentheses: it is the largest at which the calibration classes "
            "reach the precision"
        )
    for row in details["promises"]:
        if row["distance"] is None:
            yield f"{row['precision']:g}: {_shortage(row, details)}"
    best = max(details["ladder"], key=lambda row: row["precision"], default=None)
    if best and all(row["distance"] is None for row in details["promises"]):
        yield f"The largest precision that can be promised is {best['precision']:g}, within {best['distance']:.3f}"
    yield "\nThe right image is among the k nearest; on average over calibrations:"
    yield from _table(
        ("promised", "k", "check"),
        [
            (f"{row['probability']:g}", _cell(row["size"], ",d"), _cell(row.get("check")))
            for row in details["answer_sets"]
        ],
    )
    yield (
        "\nNothing in the gallery matches if the nearest image is farther than the distance. Promised, on average over "
        "calibrations,\nis that queries of a class that the gallery lacks are rejected, not that others are accepted.\n"
        "Of check classes, how often one that the gallery lacks is accepted, and one that it has is "
        f"rejected (at most, with confidence {confidence:g}):"
    )
    yield from _table(
        ("promised", "distance", "lacking, accepted", "present, rejected"),
        [_rejection_cells(row) for row in details["rejections"]],
    )
    lacking = [row for row in (*details["answer_sets"], *details["rejections"]) if "classes_needed" in row]
    for probability, needed in sorted({row["probability"]: row["classes_needed"] for row in lacking}.items()):
        if needed is None:
            yield f"{probability:g}: at no distance are so many queries of a class that the gallery lacks rejected"
        else:
            yield f"{probability:g}: needs {counted(needed, 'class')} that the run has not seen"
    yield from _training_text(details["training"], confidence)


def _training_text(training: Mapping[str, Any], confidence: float) -> Iterator[str]:
    """Return the lines about proxies: how well they cover classes, and how often pairs with them violate."""
    near, far = training["beta"] - training["alpha"], training["beta"] + training["alpha"]
    yield (
        f"\nProxies: a pair with a proxy violates its constraint if it is of one class and farther than {near:.3f}, or "
        f"of two and nearer than {far:.3f}.\nMeans over classes (at most, with confidence {confidence:g}, for classes "
        "drawn like these):"
    )
    names = {
        "training_proxies": "training, its proxies",
        "training_images": "training, images as proxies",
        "unseen_images": "unseen, images as proxies",
    }
    columns = ("radius", "same_class", "other_classes")
    yield from _table(
        ("classes", "covering radius", "same class violates", "other classes violate"),
        [
            (names[name], *(f"{row[column]:.3f} ({row[f'{column}_at_most']:.3f})" for column in columns))
            for name, row in training["measured"].items()
        ],
    )
    terms = training["terms"]
    yield (
        f"Terms of Proposition 4.2: covering radius {terms['covering_radius']:.3f}, training error "
        f"{terms['training_error']:.3f}, sampling {terms['sampling']:.3f}; observed gap {terms['observed_gap']:.3f}"
    )


def _promise_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    reached = row.get("reached")  # where nothing is promised
    seen = reached or row
    check = seen.get("check", {})
    distance = _cell(seen["distance"])
    cells = (
        f"({distance})" if reached else distance,
        _cell(seen.get("calibration", {}).get("precision")),
        _cell(check.get("precision")),
        _cell(check.get("classes"), ",d"),
    )
    return f"{row['precision']:g}", *cells, _cell(check.get("answered"), ".0%")


def _rejection_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    rates = (
        f"{row[name]:.3f} ({row[f'{name}_at_most']:.3f})" if name in row else "–"
        for name in ("accepted_absent", "rejected_present")
    )
    return f"{row['probability']:g}", _cell(row["distance"]), *rates


def _shortage(row: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Return how many classes would do for a precision that cannot be promised."""
    if row["classes_needed"] is None:
        return f"a precision of {row['precision']:g} cannot be promised: at no distance are so many answers right"
    return (
        f"a precision of {row['precision']:g} cannot be promised from {counted(details['classes'], 'class')}; about "
        f"{row['classes_needed']:,} like these would do"
    )


def _cell(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return the lines of a table of texts, aligned right."""
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    for cells in (head, *rows):
        yield "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

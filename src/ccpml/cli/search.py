"""``ccpml search``: find the pictures of an index that are most like others."""

import argparse
import shlex
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ccpml.cli.common.commas import check_single, is_number_only
from ccpml.cli.common.hints import hint_for
from ccpml.cli.common.libraries import EMBEDDING, announce_libraries
from ccpml.cli.common.models import find_model, is_exported, load_model_of
from ccpml.cli.common.options import UsageError, add_store, check_data_root, check_index, find_location
from ccpml.cli.common.parser import Parser
from ccpml.cli.common.scan_options import DTYPES, RERANK, add_scan_options, check_scan_options, use_scan
from ccpml.data_name import BENCHMARKS
from ccpml.progress import announce, print_note
from ccpml.system_errors import is_writable

if TYPE_CHECKING:
    from ccpml.calibration import Certificate
    from ccpml.data.images.read import BadImageError
    from ccpml.serving import Embedder, Hit, PictureIndex, Query, Reply
    from ccpml.serving.search.answers import Printer

_NO_RUN: Final = "run not found; if it has moved, pass --run for its certificate"
_MONTAGE_QUERIES: Final = 50
_MONTAGE_ANSWERS: Final = 20
_OPERATORS: Final = frozenset({"=", "!=", "is", "in", "not", "like", "contains", "and", "or"})
"""Words of filters that are seldom names of pictures."""
_SEVERAL: Final = 64
"""Queries from which on progress is shown."""


def run(arguments: list[str]) -> int:
    """Search an index; the exit code is 1 if a picture cannot be read."""
    options = parse(arguments)
    if options.montage is not None:
        _check_montage(options.montage)
    if options.index is not None:
        check_index(Path(options.index))
    for query in options.queries:
        if query in BENCHMARKS and not Path(query).exists():
            check_data_root(query, options.data_root)
    announce_libraries(needed=EMBEDDING)
    from ccpml.data.upkeep.depth import depth_note
    from ccpml.serving import find_queries, open_index

    location = find_location(options.index, options.store)
    with open_index(location) as index:
        _check_filter(index, options.where, options.queries)
        _check_ids(index, options.id)
        queries = find_queries(options.queries, options.id, options.together, options.data_root)
        model = options.run or index.model_path
        certificate = None if options.rerank else _certificate(index, model, options.precision)
    embedder = None
    if pictures := [one for query in queries for one in query.pictures]:
        if dark := depth_note([one.file if one.image is None else one.image for one in pictures]):
            print_note(dark)
        embedder = load_model_of(options.index, find_model(index, options.run))
    elif certificate is None and not options.rerank and not _has_model(model):
        print_note(f"{model}: {_NO_RUN}")
    with open_index(location, embedder) as index:
        use_scan(index, options)
        return _search(index, embedder, queries, options, certificate)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    text = "Find the pictures of an index that are most like others."
    parser = Parser(prog="ccpml search", description=text)
    parser.add_argument("index", nargs="?", help="directory of the index, as `ccpml index` makes it; not with --store")
    parser.add_argument(
        "queries",
        metavar="query",
        nargs="*",
        help="an image; or a folder, a CSV file, a pattern in quotes, or a set of images such as groceries: each "
        "picture in it is a query",
    )
    add_store(parser)
    add = parser.add_argument
    add(
        "--id",
        metavar="<id>",
        type=int,
        action="append",
        default=[],
        help="search for an item of the index; repeatable",
    )
    add("--together", action="store_true", help="all queries show one thing, and are one query")
    add("-k", metavar="<number>", type=int, default=10, help="answers to a query at most (default: 10)")
    add("--where", metavar="<filter>", help="answers that pass a filter, such as \"label = 'mug' and price < 20\"")
    add("--precision", metavar="<p>", type=float, help="answers within the distance certified for this precision")
    add_scan_options(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--csv", action="store_true", help="print CSV, a line for each answer")
    add("--montage", metavar="<file>", type=Path, help="draw queries and answers into a new .png file")
    add(
        "--run",
        metavar="<run>",
        type=Path,
        help="the index's model if it has moved: a run, or its .onnx file",
    )
    add("--data-root", metavar="<folder>", help="folder of cub, cars196, sop and inshop (default: $CCPML_DATA)")
    numbers = dict.fromkeys(("--id", "-k", "--precision", "--min-recall"), is_number_only)
    check_single(arguments, {**numbers, "--rerank": RERANK.__contains__, "--dtype": DTYPES.__contains__}, ["--id"])
    options = parser.parse_intermixed_args(arguments)
    if options.store is not None and options.index is not None:
        options.index, options.queries = None, [options.index, *options.queries]
    if options.k < 1:
        raise UsageError(f"-k: expected a number of answers of at least 1, got {options.k}")
    if not options.queries and not options.id:
        raise UsageError("expected pictures to search for, or --id; see ccpml search --help")
    if options.precision is not None and not 0 < options.precision < 1:
        raise UsageError(f"--precision: expected a number between 0 and 1, got {options.precision:g}")
    if options.precision is not None and options.rerank:
        raise UsageError("--precision: certified for the nearest pictures, which --rerank replaces; leave out one")
    check_scan_options(options)
    return options


def _check_montage(file: Path) -> None:
    """Check that the montage can be written, before the search."""
    if file.suffix.lower() != ".png":
        raise UsageError(f"--montage: expected a file that ends in .png, got {file}")
    if file.exists():
        raise UsageError(f"--montage: {file} already exists; choose another name or remove it")
    if not file.parent.is_dir():
        raise UsageError(f"--montage: folder {file.parent} not found; make it, or choose another")
    if not is_writable(file.parent):
        raise UsageError(f"--montage: {file.parent} is not a writable folder")


def _check_filter(index: "PictureIndex", where: str | None, queries: list[str]) -> None:
    from ccpml.serving import Filter, FilterError

    if where is not None:
        try:
            index.check_fields(Filter.parse(where))
        except FilterError as error:
            hint = "; put the filter in quotes" if _OPERATORS.intersection(queries) else ""
            raise UsageError(f"--where: {error}{hint}") from error


def _check_ids(index: "PictureIndex", ids: list[int]) -> None:
    for key in ids:
        try:
            index.item(key)
        except KeyError as error:
            raise UsageError(f"--id: {error.args[0]}") from error


def _certificate(index: "PictureIndex", model: Path, precision: float | None) -> "Certificate | None":
    """Return the certificate of the model, if it has one of the weights of the index; it must, for a precision."""
    from ccpml.calibration import CertificateError
    from ccpml.exported import find_certificate
    from ccpml.serving.ensemble import read_members

    if read_members(index.path):
        if precision is not None:
            raise UsageError(f"--precision: {index} is of several models, which have no certificate; leave it out")
        return None
    try:
        certificate = find_certificate(model, index.fingerprint)
    except CertificateError as error:
        if precision is None:
            index_is_older = ", or build the index again if that is of others" * ("weights in use" in str(error))
            print_note(f"{error}{index_is_older}; until then, answers have no certified precision")
            return None
        raise UsageError(f"--precision: {error}") from error
    if precision is None:
        return certificate
    if certificate is None:
        if not _has_model(model):
            raise UsageError(f"--precision: {model}: {_NO_RUN}")
        way_out = f"`ccpml calibrate {shlex.quote(str(model))}` writes one"
        if is_exported(model):
            way_out = "calibrate the run with `ccpml calibrate`, and export it again"
        raise UsageError(f"--precision: {model} has no certificate; {way_out}")
    if certificate.distance_for(precision) is None:
        known = ", ".join(f"{p:g}" for p in sorted(certificate.distances)) or "none"
        raise UsageError(f"--precision: expected one that is certified ({known}), got {precision:g}")
    return certificate


def _has_model(model: Path) -> bool:
    return (model / "experiment.yaml").is_file() or is_exported(model)


def _search(
    index: "PictureIndex",
    embedder: "Embedder | None",
    queries: "list[Query]",
    options: argparse.Namespace,
    certificate: "Certificate | None",
) -> int:
    from ccpml.progress import progress_bar
    from ccpml.serving import ask

    printer = _printer(index, options, certificate)
    skipped, shown = list["BadImageError"](), list["Reply"]()
    with (
        closing(ask(index, queries, options.k, options.where, embedder)) as replies,
        progress_bar(len(queries), "query", "searching", shown=len(queries) > _SEVERAL) as bar,
    ):
        for reply in replies:
            if options.precision is not None and certificate is not None and reply.hits is not None:
                reply.hits = _certified(reply, certificate, options.precision)
            printer.reply(reply)
            skipped += reply.skipped
            if options.montage is not None and len(shown) < _MONTAGE_QUERIES:
                shown.append(reply)
            bar.update()
    printer.end()
    if options.montage is not None:
        _write_montage(options.montage, index, shown, len(queries))
    return _report(skipped, sum(len(query.pictures) for query in queries))


def _printer(index: "PictureIndex", options: argparse.Namespace, certificate: "Certificate | None") -> "Printer":
    from ccpml.serving.search.answers import CsvAnswers, JsonAnswers, TextAnswers

    if options.json:
        facts = {"index": str(index), "k": options.k, "where": options.where, "together": options.together}
        return JsonAnswers(certificate, facts)
    if options.csv:
        return CsvAnswers(certificate, index.summary(0).columns)
    if not len(index):
        empty = "no answer: the index is empty"
    elif options.precision is not None:
        empty = f"no answer with a certified precision of {options.precision:g}"
    else:
        empty = "no answer: no picture of the index passes the filter" if options.where else "no answer"
    return TextAnswers(certificate, empty)


def _certified(reply: "Reply", certificate: "Certificate", precision: float) -> "list[Hit]":
    from ccpml.serving.search.answers import precision_of

    found = [(hit, precision_of(certificate, reply, hit)) for hit in reply.hits or ()]
    return [hit for hit, certified in found if certified is not None and certified >= precision]


def _write_montage(file: Path, index: "PictureIndex", replies: "list[Reply]", total: int) -> None:
    from ccpml.data.images.read import read_image
    from ccpml.files import write_bytes
    from ccpml.serving.search.answers import name_of
    from ccpml.serving.search.montage import Answer, MontageRow, draw_montage

    announce(f"drawing {file}")
    rows = []
    for reply in replies:
        pictures = [None if jpeg is None else read_image(jpeg, 3) for jpeg in reply.thumbnails]
        hits = (reply.hits or [])[:_MONTAGE_ANSWERS]
        answers = []
        for hit in hits:
            with suppress(KeyError):  # removed since it was found
                answers.append(Answer(hit, read_image(index.thumbnail(hit.item.id), 3)))
        rows.append(MontageRow(name_of(reply.query, short=True), reply.label, pictures, answers))
    write_bytes(file, draw_montage(rows))
    if len(replies) < total:
        print(f"{file}: shows the first {len(replies)} of {total:,} queries", file=sys.stderr)


def _report(skipped: "list[BadImageError]", total: int) -> int:
    """Print which pictures cannot be read; return the exit code."""
    from ccpml.data.images.read import first_lines
    from ccpml.progress import printable

    if not skipped:
        return 0
    lines = [printable(f"{error.name}: {error.reason}") for error in skipped]
    title = f"{len(lines):,} of {total:,} pictures cannot be read; restore or repair them, or leave them out:"
    text = f"{lines[0]}{hint_for(skipped[0])}" if total == 1 else "\n".join([title, *first_lines(lines, None)])
    print(f"ccpml: error: {text}", file=sys.stderr)
    return 1

"""Options of how an index is searched: exactly, approximately, in smaller rows, ranked again."""

import argparse
import sys
from typing import TYPE_CHECKING, Final

from ccpml.cli.common.options import UsageError
from ccpml.progress import print_note

if TYPE_CHECKING:
    from ccpml.serving import Index, PictureIndex

__all__ = ["DTYPES", "RERANK", "add_scan_options", "check_scan_options", "use_dtype", "use_scan"]

DTYPES: Final = ("float32", "float16", "int8")
RERANK: Final = ("k-reciprocal", "query-expansion", "augmentation")
"""As in `ccpml.reranking`, which is not imported for them."""


def add_scan_options(parser: argparse.ArgumentParser, rerank: bool = True) -> None:
    """Add the options, with or without re-ranking."""
    add = parser.add_argument
    add("--approximate", action="store_true", help="search by a graph (HNSW), whose recall is measured and printed")
    add(
        "--min-recall",
        metavar="<fraction>",
        type=float,
        help="smallest recall@10 that --approximate accepts (default: 0.95)",
    )
    add("--dtype", choices=DTYPES, help="scan rows of this type, and re-score (default: as indexed, or float32)")
    if rerank:
        add("--rerank", choices=RERANK, help="rank the 500 nearest of a query again")


def check_scan_options(options: argparse.Namespace) -> None:
    """Check that the options fit together."""
    if options.min_recall is not None and not 0 < options.min_recall <= 1:
        raise UsageError(f"--min-recall: expected a number above 0 and up to 1, got {options.min_recall:g}")
    if options.min_recall is not None and not options.approximate:
        raise UsageError("--min-recall: expected together with --approximate")
    if options.approximate and options.dtype is not None:
        raise UsageError("--approximate, --dtype: expected one of them, got both")
    rerank = getattr(options, "rerank", None)
    if options.store is not None and (options.dtype or rerank):
        raise UsageError("--store: expected no --dtype and no --rerank, which are of an index in a directory")


def use_scan(index: "PictureIndex", options: argparse.Namespace) -> None:
    """Search an index as the options say, and print on standard error how that is done."""
    from ccpml.serving import Index, QdrantIndex
    from ccpml.serving.search.reranked import Reranked
    from ccpml.serving.search.scan import Exact

    min_recall = 0.95 if options.min_recall is None else options.min_recall
    if not isinstance(index, Index):
        if options.approximate and isinstance(index, QdrantIndex):
            print(f"{index}: approximate search, {index.use_graph(min_recall)}", file=sys.stderr)
        return
    if options.approximate:
        use_graph(index, min_recall)
    else:
        use_dtype(index, options.dtype)
    if rerank := getattr(options, "rerank", None):
        index.scan = Reranked(index.scan or Exact(), rerank)


def use_graph(index: "Index", min_recall: float) -> None:
    """Search an index by a graph, unless it is small."""
    from ccpml.progress import progress_bar
    from ccpml.serving.search.approximate import MIN_ROWS, open_approximate

    if len(index) < MIN_ROWS:
        print(
            f"{index.path}: {len(index):,} pictures are searched exactly, which is as fast below {MIN_ROWS:,}",
            file=sys.stderr,
        )
        return
    with index.view() as view, progress_bar(len(view.rows), "row", "graph", delay=1.0) as bar:
        scan = open_approximate(index.path, view, "hnsw", min_recall, bar.update)
    index.scan = scan
    _note(index, scan.notes, f"approximate search, {scan.recall}")


def use_dtype(index: "Index", dtype: str | None = None) -> None:
    """Scan rows of a type, by default that which the index was given; it chooses speed alone, not the answers."""
    from ccpml.serving import DamagedIndexError
    from ccpml.serving.search.approximate import default_dtype, open_approximate

    try:
        chosen = dtype or default_dtype(index.path)
    except DamagedIndexError as error:
        print_note(f"{error}; until then, rows of float32 are scanned")
        return
    if chosen == "float32" or not len(index):
        return
    with index.view() as view:
        scan = open_approximate(index.path, view, chosen)
    index.scan = scan
    size = scan.structure.facts()["bytes_per_row"]
    text = f"{chosen} rows, {size:,} bytes each instead of {4 * index.embedding_dim:,}, re-scored: {scan.recall}"
    _note(index, scan.notes, text)


def _note(index: "Index", notes: list[str], text: str) -> None:
    for sentence in (*notes, text):
        print(f"{index.path}: {sentence}" if sentence == text else f"note: {sentence}", file=sys.stderr)

"""Index and search beside other libraries: build, open, query, filtered query, add and remove, as Markdown tables.

Run ``python -m benchmarks.search [--sizes 10000 60000]``. Each row runs in its own process with one thread of OpenMP;
its processor time is measured, of all its threads. Other libraries run in their own environment, .venv-peers.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, peak_mib, print_table, run_row, versions
from benchmarks.search_stores import PRICE, STORES

MODULE = "benchmarks.search"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
DIM, QUERIES, K, CHANGED = 128, 50, 10, 1000
SIZES = (10_000, 60_000, 100_000, 1_000_000)


def make_data(count: int, seed: int) -> tuple[Any, Any, Any]:
    """Return unit vectors around random class centers, 20 to a class; their prices; and queries of the same classes."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((max(1, count // 20), DIM), dtype=np.float32)
    vectors = centers[rng.integers(len(centers), size=count)] + rng.standard_normal((count, DIM), dtype=np.float32)
    queries = centers[rng.integers(len(centers), size=QUERIES)] + rng.standard_normal((QUERIES, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return vectors, rng.integers(100, size=count), queries


def nearest(queries: Any, vectors: Any, numbers: Any) -> list[set[int]]:
    """Return the K nearest of some vectors, by the definition, in float32 and blocks."""
    best, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for part in np.array_split(numbers, max(1, len(numbers) // 50_000)):
        rows = vectors[part]
        best = np.concatenate([best, (rows**2).sum(1) - 2 * queries @ rows.T], axis=1)
        found = np.concatenate([found, np.broadcast_to(part, (len(queries), len(part)))], axis=1)
        order = np.argpartition(best, min(K, best.shape[1] - 1), axis=1)[:, :K]
        best, found = np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)
    return [set(row) for row in found.tolist()]


@contextmanager
def timed(record: dict[str, float], name: str) -> Iterator[None]:
    """Record processor time; of opening, the time on the clock too."""
    clock, start = time.perf_counter(), time.process_time()
    yield
    record[name] = time.process_time() - start
    record[f"{name} clock"] = time.perf_counter() - clock


def measure(name: str, count: int, seed: int) -> dict[str, float]:
    """Measure a store in this process."""
    vectors, prices, queries = make_data(count, seed)
    truth = {
        False: nearest(queries, vectors, np.arange(count)),
        True: nearest(queries, vectors, np.flatnonzero(prices == PRICE)),
    }
    store, record = STORES[name].make(), dict[str, float]()
    before = peak_mib()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with timed(record, "build"):
            store.build(folder, vectors, prices)
        record["disk"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        with timed(record, "first open"):  # with imports
            store.open(folder)
        store.close()
        with timed(record, "open"):
            store.open(folder)
        for filtered in (False, True):
            kind = "filtered" if filtered else "query"
            record[kind], record[f"{kind} recall"] = query_all(store, queries, truth[filtered], filtered)
        if name == "ccpml":
            record["rows beside faiss"], record["answers beside faiss"] = beside_faiss(store, vectors, queries)
        with timed(record, "add"):
            store.add(vectors[:CHANGED] * np.float32(0.5), prices[:CHANGED])
        try:
            with timed(record, "remove"):
                store.remove(list(range(0, count, max(1, count // CHANGED)))[:CHANGED])
        except RuntimeError:  # faiss: the graph cannot
            record["remove"] = -1
        record["memory"] = peak_mib() - before
        store.close()
    return record


def query_all(store: Any, queries: Any, truth: list[set[int]], filtered: bool) -> tuple[float, float]:
    """Return the median processor time of a query, and the recall."""
    seconds, found = [], []
    store.search(queries[0], K, filtered)
    for query in queries:
        start = time.process_time()
        found.append(set(store.search(query, K, filtered)))
        seconds.append(time.process_time() - start)
    recall = statistics.mean(len(a & b) / len(b) for a, b in zip(found, truth, strict=True))
    return statistics.median(seconds), recall


def beside_faiss(store: Any, vectors: Any, queries: Any) -> tuple[float, float]:
    """Return the time of the search for rows, and of a query with its items, as multiples of faiss flat's, in turns."""
    import faiss

    from ccpml.serving.search.scan import Exact

    flat, exact = faiss.IndexFlatL2(DIM), Exact()
    flat.add(vectors)
    with store.index.view() as view:
        searches: dict[str, Callable[[Any], object]] = {
            "flat": lambda query: flat.search(query[None], K),
            "rows": lambda query: exact.nearest(view, query[None], K, None),
            "answers": lambda query: store.search(query, K, False),
        }
        seconds: dict[str, list[float]] = {name: [] for name in searches}
        for query in [*queries] * 4:
            for name in ("flat", "rows", "flat", "answers"):  # the other's vectors are in the cache before each
                start = time.process_time()
                searches[name](query)
                seconds[name].append(time.process_time() - start)
    base, rows, answers = (statistics.median(each) for each in seconds.values())
    return rows / base, answers / base


def cells(record: dict[str, float]) -> list[str]:
    """Return the cells of a row."""
    milliseconds = [f"{1e3 * record[name]:,.2f}" for name in ("query", "filtered")]
    remove = "cannot" if record["remove"] < 0 else f"{1e3 * record['remove']:,.0f}"
    return [
        f"{record['build']:,.1f}",
        f"{1e3 * record['open clock']:,.1f}",
        f"{milliseconds[0]} ({record['query recall']:.3f})",
        f"{milliseconds[1]} ({record['filtered recall']:.3f})",
        f"{1e3 * record['add']:,.0f}",
        remove,
        f"{record['disk']:,.0f}",
        f"{record['memory']:,.0f}",
    ]


def print_size(count: int, names: list[str], seed: int, peers: Path, installed: dict[str, str]) -> None:
    """Measure all stores at one size, and print their table."""
    rows: dict[str, list[str] | str] = {}
    beside = None
    for name in names:
        entry = STORES[name]
        package = entry.make().package
        if count > entry.most:
            rows[entry.title] = entry.reason
        elif package is not None and package not in installed:
            rows[entry.title] = "not installed (make bench installs it)"
        else:
            options = (f"--store={name}", f"--sizes={count}", f"--seed={seed}")
            found = run_row(MODULE, *options, **({} if package is None else {"python": peers}))
            rows[entry.title] = f"failed: {found}" if isinstance(found, str) else cells(found)
            if name == "ccpml" and not isinstance(found, str):
                beside = found["rows beside faiss"], found["answers beside faiss"]
    print(f"### {count:,} vectors\n")
    columns = ["build, s", "open, ms", f"query, ms (recall@{K})", f"filtered, ms (recall@{K})"]
    print_table([*columns, "add 1,000, ms", "remove 1,000, ms", "disk, MB", "memory, MiB"], rows)
    if beside is not None:
        text = "In turns with faiss flat, the exact search for rows takes {:.2f} of its time, with the items {:.2f}."
        print(f"\n{text.format(*beside)}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="numbers of vectors")
    parser.add_argument("--stores", nargs="+", choices=list(STORES), default=list(STORES), help="what is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=Path, default=PEERS, help="Python of the environment of the other libraries")
    parser.add_argument("--store", choices=list(STORES), help=argparse.SUPPRESS)
    parser.add_argument("--versions", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    packages = sorted({entry.make().package for entry in STORES.values()} - {None})
    if arguments.versions:
        print(json.dumps(versions(*packages)))
    elif arguments.store:
        warnings.filterwarnings("ignore")  # of the local mode of qdrant-client, about its size
        print(json.dumps(measure(arguments.store, arguments.sizes[0], arguments.seed)))
    else:
        os.environ["OMP_NUM_THREADS"] = "1"
        peers = arguments.peers.absolute()
        found = run_row(MODULE, "--versions", python=peers) if peers.is_file() else {}
        installed = {} if isinstance(found, str) else found
        named = ", ".join(f"{name} {version}" for name, version in installed.items()) or "no peers"
        print(f"{DIM} dimensions, float32, seed {arguments.seed}, {os.cpu_count()} cores; {named}\n")
        for count in arguments.sizes:
            print_size(count, arguments.stores, arguments.seed, peers, installed)


if __name__ == "__main__":
    main()

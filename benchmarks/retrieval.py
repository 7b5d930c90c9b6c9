"""Time and memory of exact retrieval metrics beside other libraries: Markdown tables.

Run ``python -m benchmarks.retrieval [--sets sop inshop]``. Each contestant runs in a separate process, so that its peak
memory is its own; other libraries run in their own environment, which ``make bench`` creates in .venv-peers.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.contestants import CONTESTANTS, Data
from benchmarks.measure import ROOT, machine, peak_mib, print_table, run_row, versions

MODULE = "benchmarks.retrieval"
PEERS = ROOT / ".venv-peers" / "bin" / "python"


def make_data(n: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return unit vectors around random class centers, and their classes; every class has a sample."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=generator)])
    return around_centers(labels, dim, generator), labels


def around_centers(labels: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Return unit vectors around random class centers, given their classes."""
    vectors = torch.randn(int(labels.max()) + 1, dim, generator=generator)[labels]
    vectors += torch.randn(len(labels), dim, generator=generator).mul_(1.5)
    return torch.nn.functional.normalize(vectors, dim=1)


def one_set(n: int, dim: int, classes: int) -> Callable[[int], Data]:
    return lambda seed: Data(*make_data(n, dim, classes, seed))


def two_sets(queries: int, gallery: int, dim: int, classes: int) -> Callable[[int], Data]:
    def make(seed: int) -> Data:
        x, labels = make_data(queries + gallery, dim, classes, seed)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        first, second = order[:queries], order[queries:]
        return Data(x[first], labels[first], x[second], labels[second])

    return make


def long_tail(seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.zeros(20_000, dtype=torch.int64), torch.arange(1, 10_001).repeat_interleave(2)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return Data(around_centers(labels, 128, generator), labels)


@dataclass(frozen=True)
class Sample:
    """A sample and the contestants that run on it, each within minutes."""

    title: str
    make: Callable[[int], Data]
    contestants: tuple[str, ...]


SETS = {
    "sop": Sample("SOP's size: 60,502 × 128, 11,316 classes", one_set(60_502, 128, 11_316), tuple(CONTESTANTS)),
    "sop-512": Sample(
        "SOP's size, 512-D: 60,502 × 512, 11,316 classes", one_set(60_502, 512, 11_316), ("ours", "matmul", "faiss")
    ),
    "inshop": Sample(
        "In-Shop's size: 14,218 queries, a gallery of 12,612, 128-D, 3,985 classes",
        two_sets(14_218, 12_612, 128, 3_985),
        tuple(CONTESTANTS),
    ),
    "tail": Sample("A long tail: a class of 20,000 among 10,000 of 2, 128-D", long_tail, ("ours", "matmul")),
    "million": Sample("1,000,000 × 128, 187,000 classes", one_set(1_000_000, 128, 187_000), ("ours",)),
}
DEFAULT = ("sop", "sop-512", "inshop", "tail")


def measure(contestant: str, sample: str, seed: int) -> None:
    """Run one contestant in this process, and print time and memory as JSON."""
    run = CONTESTANTS[contestant].run
    run(one_set(300, 16, 50)(seed))  # imports and thread pools are not measured
    data = SETS[sample].make(seed)
    before, start = peak_mib(), time.perf_counter()
    map_at_r = run(data)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak_mib(), "map_at_r": map_at_r}))


def run_contestant(
    contestant: str, sample: str, seed: int, peers: Path, installed: dict[str, str]
) -> dict[str, float] | str:
    """Run one contestant in a separate process; return time and memory, or why it did not run."""
    package = CONTESTANTS[contestant].package
    if package is not None and package not in installed:
        return "not installed (make bench installs it)"
    python = sys.executable if package is None else peers
    options = (f"--contestant={contestant}", f"--sets={sample}", f"--seed={seed}")
    found = run_row(MODULE, *options, python=python)
    return f"failed: {found}" if isinstance(found, str) else found


def print_set(name: str, seed: int, peers: Path, installed: dict[str, str]) -> None:
    """Measure all contestants on a sample, and print their table."""
    sample, rows, first = SETS[name], {}, math.nan
    for contestant in sample.contestants:
        found = run_contestant(contestant, name, seed, peers, installed)
        if isinstance(found, str):
            rows[CONTESTANTS[contestant].title] = found
            continue
        first = found["seconds"] if contestant == "ours" else first
        rows[CONTESTANTS[contestant].title] = [
            f"{found['seconds']:.2f}",
            f"{found['seconds'] / first:.2f}",
            f"{found['peak']:,.0f}",
            f"{found['peak'] - found['before']:,.0f}",
            "" if math.isnan(found["map_at_r"]) else f"{found['map_at_r']:.8f}",
        ]
    print(f"### {sample.title}\n")
    print_table(["seconds", "× ours", "peak MiB", "above the data", "MAP@R"], rows)
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=DEFAULT, help="samples to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=Path, default=PEERS, help="Python of the environment of the other libraries")
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--versions", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    packages = sorted({each.package for each in CONTESTANTS.values() if each.package is not None})
    if arguments.versions:
        print(json.dumps(versions(*packages)))
    elif arguments.contestant:
        measure(arguments.contestant, arguments.sets[0], arguments.seed)
    else:
        # not resolved: the Python of an environment is a link that finds its packages by its own path
        found = run_row(MODULE, "--versions", python=arguments.peers.absolute()) if arguments.peers.is_file() else {}
        installed = {} if isinstance(found, str) else found
        peers = ", ".join(f"{name} {version}" for name, version in installed.items()) or "no peers"
        print(f"{machine()}, float32, seed {arguments.seed}; {peers}\n")
        print(f"`python -m {MODULE} --sets {' '.join(arguments.sets)} --seed {arguments.seed}`\n")
        for name in arguments.sets:
            print_set(name, arguments.seed, arguments.peers.absolute(), installed)


if __name__ == "__main__":
    main()

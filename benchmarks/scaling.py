"""Time and memory against the number of proxies, batch size, samples and ranks.

Run ``python -m benchmarks.scaling``. Each row runs in its own process. Ranks share the cores of one machine, so
their rows show memory and shared work rather than speed.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from benchmarks.measure import machine, peak_mib, print_table, run_row

DIM = 128
PROXIES, BATCHES, SAMPLES = (10_000, 100_000, 1_000_000), (32, 128, 512), (15_000, 30_000, 60_000)
SHARDED, RANKS = 400_000, (1, 2, 4)


def loss_step(classes: int, batch: int, group: object = None) -> Callable[[], object]:
    """Return a step of the proxies: forward, backward, Adam."""
    from ccpml import CCPLoss, TripletMarginLoss

    criterion = CCPLoss(TripletMarginLoss(0.0451), classes, DIM, 1, group=group)
    optimizer = torch.optim.Adam(criterion.parameters(), lr=1e-5, weight_decay=1e-4, fused=True)
    x, labels = torch.randn(batch, DIM, requires_grad=True), torch.arange(batch) // 4

    def step() -> None:
        optimizer.zero_grad()
        criterion(x, labels).backward()
        optimizer.step()

    return step


def evaluation(samples: int) -> Callable[[], object]:
    from ccpml import evaluate

    embeddings = torch.nn.functional.normalize(torch.randn(samples, DIM), dim=1)
    labels = torch.arange(samples) // 5
    return lambda: evaluate(embeddings, labels)


def timed(step: Callable[[], object], count: int) -> dict[str, float]:
    """Return the median time of a step and the peak memory of the process."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"ms": 1e3 * statistics.median(seconds[1:] or seconds), "mib": peak_mib()}


def measure(kind: str, size: int, batch: int) -> None:
    """Measure one row in this process and print it as JSON."""
    torch.manual_seed(0)
    import ccpml  # noqa: F401  # its memory does not count

    before = peak_mib()
    if kind == "ranks":
        found = on_ranks(batch)
    else:
        step = loss_step(size, batch) if kind == "proxies" else evaluation(size)
        found = timed(step, 6 if kind == "proxies" else 1)
        found["mib"] -= before
    print(json.dumps(found))


def on_ranks(ranks: int) -> dict[str, float]:
    """Run the step with sharded proxies on some ranks; return the time and memory of the worst rank."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (ranks, folder), ranks)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    return {key: max(each[key] for each in found) for key in found[0]}


def _rank(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    loss_step(8, 32, distributed.group.WORLD)()  # libraries and connections
    before = peak_mib()
    found = timed(loss_step(SHARDED, 32, distributed.group.WORLD), 6)
    found["mib"] -= before
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def rows(kind: str, cases: dict[str, tuple[int, int]]) -> dict[str, list[str] | str]:
    """Measure the rows of a table."""
    table: dict[str, list[str] | str] = {}
    for title, (size, batch) in cases.items():
        found = run_row("benchmarks.scaling", "--kind", kind, "--size", str(size), "--batch", str(batch))
        table[title] = f"failed: {found}" if isinstance(found, str) else [f"{found['ms']:,.0f}", f"{found['mib']:,.0f}"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["proxies", "samples", "ranks"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        measure(arguments.kind, arguments.size, arguments.batch)
        return
    print(f"{machine()}, {DIM} dimensions, float32, seed 0\n")
    print("### A step of the triplet loss and its proxies\n")
    cases = {f"{size:,} proxies, batch 32": (size, 32) for size in PROXIES}
    cases |= {f"{PROXIES[1]:,} proxies, batch {batch}": (PROXIES[1], batch) for batch in BATCHES[1:]}
    print_table(["ms", "MiB"], rows("proxies", cases))
    print("\n### evaluate, five samples per class\n")
    print_table(["ms", "MiB"], rows("samples", {f"{size:,} samples": (size, 0) for size in SAMPLES}))
    print(f"\n### A step with {SHARDED:,} proxies sharded over ranks of one thread each, batch 32\n")
    cases = {f"{ranks} rank{'s' * (ranks > 1)}": (0, ranks) for ranks in RANKS}
    print_table(["ms, slowest rank", "MiB per rank"], rows("ranks", cases))


if __name__ == "__main__":
    main()

"""Time and memory of the method's parts at the size of SOP: losses against proxies, k-centre, the pull.

Run ``python -m benchmarks.method``. Each row runs in a process of its own, so that its peak of memory is its own;
times are the median of several repetitions after a warm-up.
"""

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import machine, peak_mib, run_row

CLASSES, PER_CLASS, DIM, BATCH = 11_318, 4, 128, 32


def gathered_triplet(x: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor, margin: float = 0.0451) -> Tensor:
    """Triplet loss as one would write it: gather each anchor's positives, compare them with all references."""
    x, refs = (v / v.norm(dim=1, keepdim=True).clamp(min=1) for v in (x, refs))
    distances = torch.cdist(x, refs)
    same = labels[:, None] == ref_labels
    positives = distances[same].view(len(x), PER_CLASS, 1)
    terms = (positives - distances[:, None] + margin).relu() * ~same[:, None]
    return terms.sum() / terms.count_nonzero().clamp(min=1)


def loss_step(module: str, name: str, *arguments: float) -> Callable[[], Callable[[], object]]:
    """Set up forward and backward of a loss of a batch against all proxies."""

    def set_up() -> Callable[[], object]:
        x = torch.randn(BATCH, DIM, requires_grad=True)
        labels = torch.randperm(CLASSES)[: BATCH // 4].repeat_interleave(4)
        refs = torch.randn(CLASSES * PER_CLASS, DIM, requires_grad=True)
        ref_labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
        if module == "plain":
            return lambda: gathered_triplet(x, labels, refs, ref_labels).backward()
        loss = getattr(importlib.import_module(module), name)(*arguments)
        return lambda: loss(x, labels, ref_emb=refs, ref_labels=ref_labels).backward()

    return set_up


def k_center(classes: int, pool: int, k: int) -> Callable[[], Callable[[], object]]:
    def set_up() -> Callable[[], object]:
        from ccpml import greedy_k_center

        points, centers = torch.randn(classes, pool, DIM), torch.randn(classes, k, DIM)
        return partial(greedy_k_center, points, centers, k)

    return set_up


def pull() -> Callable[[], None]:
    """Set up the pull over as many weights as a ResNet-50 has, in as many pieces."""
    from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss

    pieces = [torch.nn.Parameter(torch.randn(25_557_032 // 161)) for _ in range(161)]
    model = torch.nn.ParameterList(pieces)
    criterion = CCPLoss(ContrastiveLoss(), num_classes=2, embedding_dim=2, proxies_per_class=1)
    projections = AlternatingProjections(model, criterion)
    projections.start(lambda: torch.randn(2, 1, 2))
    projections.observe(0.5)
    projections.project(lambda: torch.randn(2, 1, 2))
    for piece in pieces:
        piece.grad = torch.zeros_like(piece)
    return projections.pull


OURS, PEER = "ccpml", "pytorch_metric_learning.losses"
ROWS: dict[str, Callable[[], Callable[[], object]]] = {
    "triplet: ccpml": loss_step(OURS, "TripletMarginLoss", 0.0451),
    "triplet: plain, gathered": loss_step("plain", ""),
    "contrastive: ccpml": loss_step(OURS, "ContrastiveLoss", 0.2858, 0.5130),
    "contrastive: pytorch-metric-learning": loss_step(PEER, "ContrastiveLoss", 0.2858, 0.5130),
    "cosine contrastive: ccpml": loss_step(OURS, "CosineContrastiveLoss", 0.5),
    "multi-similarity: ccpml": loss_step(OURS, "MultiSimilarityLoss", 2, 40, 0.5),
    "multi-similarity: pytorch-metric-learning": loss_step(PEER, "MultiSimilarityLoss", 2, 40, 0.5),
    "k-centre, 11,318 × 7, K = 4": k_center(11_318, 7, 4),
    "k-centre, 100 × 12, K = 8": k_center(100, 12, 8),
    "pull, 25.6 M weights": pull,
}


def measure(name: str, seed: int) -> None:
    """Measure one row here, and print it as JSON."""
    torch.manual_seed(seed)
    step, seconds = ROWS[name](), []
    before = peak_mib()
    for _ in range(12):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"ms": 1e3 * statistics.median(seconds[2:]), "mib": peak_mib() - before}))


def main() -> None:
    """Measure all rows, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        measure(arguments.row, arguments.seed)
        return
    print(
        f"Forward and backward: batch {BATCH} against {CLASSES:,} × {PER_CLASS} proxies of {DIM} dimensions, float32."
    )
    print(f"{machine()}, seed {arguments.seed}\n")
    print("| | ms | MiB above the data |\n|---|---|---|")
    for name in ROWS:
        found = run_row("benchmarks.method", "--row", name, "--seed", str(arguments.seed))
        if isinstance(found, str):
            print(f"| {name} | failed: {found} | |")
            continue
        print(f"| {name} | {found['ms']:.1f} | {found['mib']:.0f} |")


if __name__ == "__main__":
    main()

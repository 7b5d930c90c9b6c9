"""Time and memory of the method's parts at the size of SOP: losses against proxies, k-center, the pull.

Run ``python -m benchmarks.method``. Each row runs in its own process, so that its peak memory is its own. Times are the
median of several repetitions after a warm-up. The rows of losses are whole steps of the proxies: forward, backward and
Adam.
"""

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import machine, peak_mib, print_table, run_row

CLASSES, PER_CLASS, DIM, BATCH = 11_318, 4, 128, 32
Step = Callable[[], object]


def gathered_triplet(x: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor, margin: float = 0.0451) -> Tensor:
    """Triplet loss as usually written: gather the positives of each anchor, compare them with all references."""
    x, refs = (v / v.norm(dim=1, keepdim=True).clamp(min=1) for v in (x, ref_emb))
    distances = torch.cdist(x, refs)
    same = labels[:, None] == ref_labels
    positives = distances[same].view(len(x), PER_CLASS, 1)
    terms = (positives - distances[:, None] + margin).relu() * ~same[:, None]
    return terms.sum() / terms.count_nonzero().clamp(min=1)


def batch(classes: int) -> tuple[Tensor, Tensor]:
    """Return embeddings (B, d), four samples per class, and their classes."""
    return torch.randn(BATCH, DIM, requires_grad=True), torch.randperm(classes)[: BATCH // 4].repeat_interleave(4)


def ours(name: str, *parameters: float, by_definition: bool = False, **options: Any) -> Callable[[], Step]:
    """Set up a step of `CCPLoss` with both of its terms; by definition: derivatives by autograd, not in closed form."""

    def set_up() -> Step:
        from ccpml import CCPLoss

        size = {"num_classes": CLASSES, "embedding_dim": DIM, "proxies_per_class": PER_CLASS, **options}
        loss = getattr(importlib.import_module("ccpml"), name)(*parameters)
        if by_definition:
            loss.fast = None
        criterion = CCPLoss(loss, **size)
        optimizer = torch.optim.Adam(criterion.parameters(), lr=1e-5, weight_decay=1e-4, fused=True)
        x, labels = batch(size["num_classes"])

        def step() -> None:
            criterion(x, labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return set_up


def others(loss: Callable[[], Callable[..., Tensor]]) -> Callable[[], Step]:
    """Set up the same step of another loss, with Adam at torch's defaults."""

    def set_up() -> Step:
        x, labels = batch(CLASSES)
        refs = torch.nn.Parameter(torch.randn(CLASSES * PER_CLASS, DIM) / DIM**0.5)
        ref_labels, compute = torch.arange(CLASSES).repeat_interleave(PER_CLASS), loss()
        optimizer = torch.optim.Adam([refs], lr=1e-5, weight_decay=1e-4)

        def step() -> None:
            compute(x, labels, ref_emb=refs, ref_labels=ref_labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return set_up


def plain_triplet() -> Callable[..., Tensor]:
    return gathered_triplet


def pml(name: str, *parameters: float) -> Callable[[], Callable[..., Tensor]]:
    def load() -> Callable[..., Tensor]:
        loss: Callable[..., Tensor] = getattr(importlib.import_module("pytorch_metric_learning.losses"), name)(
            *parameters
        )
        return loss

    return load


def k_center(classes: int, pool: int, k: int) -> Callable[[], Step]:
    def set_up() -> Step:
        from ccpml import greedy_k_center

        return partial(greedy_k_center, torch.randn(classes, pool, DIM), torch.randn(classes, k, DIM), k)

    return set_up


def batched_k_center(classes: int, pool: int, k: int) -> Callable[[], Step]:
    """Set up k-center as usually written, all distances within a class by matrix products."""

    def set_up() -> Step:
        points, centers, rows = torch.randn(classes, pool, DIM), torch.randn(classes, k, DIM), torch.arange(classes)

        def step() -> Tensor:
            lengths = points.square().sum(2)
            within = lengths[:, :, None] + lengths[:, None] - 2 * points @ points.mT
            nearest = (lengths[:, :, None] + centers.square().sum(2)[:, None] - 2 * points @ centers.mT).amin(2)
            chosen = []
            for _ in range(k):
                chosen.append(nearest.argmax(1))
                nearest = torch.minimum(nearest, within[rows, chosen[-1]])
            return torch.stack(chosen, 1)

        return step

    return set_up


def pull() -> Step:
    """Set up the pull over as many weights and tensors as a ResNet-50 has."""
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


MILLION = {"num_classes": 1_000_000, "proxies_per_class": 1}
ROWS: dict[str, dict[str, Callable[[], Step]]] = {
    f"A step against {CLASSES:,} × {PER_CLASS} proxies, batch {BATCH}": {
        "triplet: ccpml": ours("TripletMarginLoss", 0.0451),
        "triplet: ccpml, by definition": ours("TripletMarginLoss", 0.0451, by_definition=True),
        "triplet: plain, gathered": others(plain_triplet),
        "contrastive: ccpml": ours("ContrastiveLoss", 0.2858, 0.5130),
        "contrastive: ccpml, by definition": ours("ContrastiveLoss", 0.2858, 0.5130, by_definition=True),
        "contrastive: pytorch-metric-learning": others(pml("ContrastiveLoss", 0.2858, 0.5130)),
        "cosine contrastive: ccpml": ours("CosineContrastiveLoss", 0.5),
        "cosine contrastive: ccpml, by definition": ours("CosineContrastiveLoss", 0.5, by_definition=True),
        "multi-similarity: ccpml": ours("MultiSimilarityLoss", 2, 40, 0.5),
        "multi-similarity: ccpml, by definition": ours("MultiSimilarityLoss", 2, 40, 0.5, by_definition=True),
        "multi-similarity: pytorch-metric-learning": others(pml("MultiSimilarityLoss", 2, 40, 0.5)),
    },
    f"A step against 1,000,000 × 1 proxies, batch {BATCH}": {
        "contrastive: ccpml, all classes": ours("ContrastiveLoss", 0.2858, 0.5130, **MILLION),
        "contrastive: ccpml, class_rate 0.1": ours("ContrastiveLoss", 0.2858, 0.5130, **MILLION, class_rate=0.1),
        "triplet: ccpml, all classes": ours("TripletMarginLoss", 0.0451, **MILLION),
    },
    "The other parts": {
        "k-center, 11,318 × 7, K = 4: ccpml": k_center(11_318, 7, 4),
        "k-center, 11,318 × 7, K = 4: plain, batched": batched_k_center(11_318, 7, 4),
        "k-center, 100 × 12, K = 8: ccpml": k_center(100, 12, 8),
        "k-center, 100 × 12, K = 8: plain, batched": batched_k_center(100, 12, 8),
        "pull, 25.6 M weights": pull,
    },
}


def measure(name: str, seed: int) -> None:
    """Measure one row in this process, and print it as JSON."""
    torch.manual_seed(seed)
    step, seconds = next(rows[name] for rows in ROWS.values() if name in rows)(), []
    before = peak_mib()
    for _ in range(17):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    times = sorted(1e3 * each for each in seconds[2:])
    print(json.dumps({"ms": statistics.median(times), "minimum": times[0], "mib": peak_mib() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", choices=[name for rows in ROWS.values() for name in rows], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        measure(arguments.row, arguments.seed)
        return
    print(f"{machine()}, {DIM} dimensions, float32, seed {arguments.seed}")
    for title, rows in ROWS.items():
        print(f"\n### {title}\n")
        table: dict[str, list[str] | str] = {}
        for name in rows:
            found = run_row("benchmarks.method", "--row", name, "--seed", str(arguments.seed))
            if isinstance(found, str):
                table[name] = f"failed: {found}"
            else:
                table[name] = [f"{found['ms']:.1f}", f"{found['minimum']:.1f}", f"{found['mib']:,.0f}"]
        print_table(["ms, median of 15", "minimum", "MiB above the data"], table)


if __name__ == "__main__":
    main()

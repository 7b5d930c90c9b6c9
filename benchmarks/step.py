"""What CCP adds to a training step of ResNet-50, and what the speed options save.

Run ``python -m benchmarks.step``. A step is forward, backward, pull, clipping and Adam on images of 227 × 227 in
memory. Each row runs in its own process.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import machine, print_table, run_row

SIZE, DIM = 227, 128
ROWS: dict[str, dict[str, Any]] = {
    "the loss within the batch alone": {"classes": 0},
    "CCP, 100 × 8 proxies (CUB)": {"classes": 100, "per_class": 8},
    "CCP, 11,318 × 4 proxies (SOP)": {"classes": 11_318, "per_class": 4},
    "CCP (CUB), contiguous channels": {"classes": 100, "per_class": 8, "channels_last": False},
    "CCP (CUB), bfloat16": {"classes": 100, "per_class": 8, "bfloat16": True},
    "CCP (CUB), compiled": {"classes": 100, "per_class": 8, "compiled": True},
}


def set_up(
    batch: int,
    classes: int,
    per_class: int = 1,
    channels_last: bool = True,
    bfloat16: bool = False,
    compiled: bool = False,
) -> dict[str, Callable[[], object]]:
    """Return a step, and the parts of the method apart: its loss with the pull, and the best copies."""
    from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss
    from ccpml.models import create_model

    model = create_model("resnet50", embedding_dim=DIM, freeze_batchnorm=True)
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if compiled:
        model.compile()
    criterion = CCPLoss(ContrastiveLoss(), max(classes, batch // 4), DIM, per_class, proxy_weight=float(classes > 0))
    projections = AlternatingProjections(model, criterion, strength=2e-4 if classes else 0)
    projections.start(lambda: torch.randn(criterion.proxies.shape))
    projections.observe(0.5)
    projections.project(lambda: torch.randn(criterion.proxies.shape))
    parameters = [*model.parameters(), *(criterion.parameters() if classes else ())]
    weights = [weight for weight in parameters if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-5, weight_decay=1e-4, fused=True)
    images, labels = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8), torch.arange(batch) // 4
    embeddings, scores = torch.randn(batch, DIM, requires_grad=True), itertools.count()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = criterion(model(images), labels)
        loss.backward()
        projections.pull()
        torch.nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()

    def own() -> None:
        criterion(embeddings, labels).backward()
        projections.pull()

    return {"step": step, "own": own, "copies": lambda: projections.observe(float(next(scores)))}


def measure(name: str, batch: int, repeats: int, seed: int) -> None:
    """Measure one row here, and print it as JSON."""
    torch.manual_seed(seed)
    found = {}
    for part, function in set_up(batch, **ROWS[name]).items():
        seconds = []
        for _ in range(repeats + 1 if part == "step" else 12):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        found[part] = statistics.median(seconds[1 if part == "step" else 2 :])
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        measure(arguments.row, arguments.batch, arguments.repeats, arguments.seed)
        return
    print(f"{machine()}, seed {arguments.seed}; ResNet-50, batch {arguments.batch} × {SIZE}²\n")
    table: dict[str, list[str] | str] = {}
    for name in ROWS:
        options = [f"--{key}={getattr(arguments, key)}" for key in ("batch", "repeats", "seed")]
        found = run_row("benchmarks.step", "--row", name, *options)
        table[name] = (
            f"failed: {found}"
            if isinstance(found, str)
            else [
                f"{found['step']:.2f}",
                f"{1e3 * found['own']:.1f}",
                f"{100 * found['own'] / found['step']:.2f} %",
                f"{1e3 * found['copies']:.1f}",
            ]
        )
    print_table(["s per step", "loss and pull, ms", "fraction of the step", "best copies, ms per validation"], table)


if __name__ == "__main__":
    main()

"""Time and memory of exact retrieval metrics: ours, pytorch-metric-learning's, and the bare matrix product.

Run ``python -m benchmarks.retrieval [--n 60502 --dim 128 --classes 11316]``. Each contestant runs in a process of
its own, so that its peak of memory is its own; what libraries and making the data took before is shown apart.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24


def make_data(n: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Unit vectors around random class centres, and their classes; every class has a sample."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=generator)])
    centres = torch.randn(classes, dim, generator=generator)
    noise = torch.randn(n, dim, generator=generator)
    return torch.nn.functional.normalize(centres[labels] + 1.5 * noise, dim=1), labels


def run_ours(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    from ccpml.retrieval import evaluate

    return dict(evaluate(embeddings, labels).as_dict())


def run_pml(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rows = max(1, CHUNK_ELEMENTS // len(embeddings))
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False), batch_size=rows),
    )
    scores = calculator.get_accuracy(embeddings, labels)
    return {**scores, "map_at_r": scores["mean_average_precision_at_r"]}


def run_matmul(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """The whole product in float32, in tiles that stay in the cache: what none can do without who computes it all."""
    buffer = torch.empty(1024, 2048)
    for rows in embeddings.split(1024):
        for columns in embeddings.split(2048):
            torch.mm(rows, columns.T, out=buffer[: len(rows), : len(columns)])
    return {}


CONTESTANTS = {
    "matmul": ("bare tiled product", run_matmul),
    "ours": ("ccpml evaluate", run_ours),
    "pml": ("pytorch-metric-learning", run_pml),
}


def peak_mib() -> float:
    """The process's peak of resident memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(name: str, args: argparse.Namespace) -> None:
    """Run one contestant here, and print what it took as JSON."""
    run = CONTESTANTS[name][1]
    run(*make_data(300, args.dim, 50, args.seed))  # imports and thread pools are not what is measured
    data = make_data(args.n, args.dim, args.classes, args.seed)
    before, start = peak_mib(), time.perf_counter()
    scores = run(*data)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak_mib(), "map_at_r": scores.get("map_at_r")}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of exact retrieval metrics, side by side.")
    parser.add_argument("--n", type=int, default=60502, help="samples")
    parser.add_argument("--dim", type=int, default=128, help="dimensions")
    parser.add_argument("--classes", type=int, default=11316)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        measure(args.contestant, args)
        return

    print(f"n {args.n}, dim {args.dim}, classes {args.classes}, seed {args.seed}, float32")
    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}\n"
    )
    print(f"{'':24}{'seconds':>9}{'x product':>10}{'peak MiB':>10}{'at start':>10}{'MAP@R':>14}")
    options = [f"--{name}={getattr(args, name)}" for name in ("n", "dim", "classes", "seed")]
    floor = None
    for name, (title, _) in CONTESTANTS.items():
        if name == "pml" and importlib.util.find_spec("pytorch_metric_learning") is None:
            print(f"{title:24}  not installed")
            continue
        command = [sys.executable, "-m", "benchmarks.retrieval", f"--contestant={name}", *options]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            print(f"{title:24}  failed: {(result.stderr.strip().splitlines() or [f'exit {result.returncode}'])[-1]}")
            continue
        found = json.loads(result.stdout.splitlines()[-1])
        floor = floor or found["seconds"]
        score = "" if found["map_at_r"] is None else f"{found['map_at_r']:.10f}"
        print(
            f"{title:24}{found['seconds']:9.2f}{found['seconds'] / floor:10.2f}{found['peak']:10.0f}"
            f"{found['before']:10.0f}{score:>14}"
        )


if __name__ == "__main__":
    main()

"""The loader with worker processes: images per second, CPU time, and memory over epochs.

Run ``python -m benchmarks.loader``. The demand of a GPU is computed from the CPU time.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.images import BATCH, DECAYS, HEIGHT, SIZE, WIDTH, header, table, write_photos

STEPS, EPOCHS = 20, 5
GPU_RATE, GPU_WORKERS = 1500, 8


def resident_mib(processes: Sequence[int]) -> float:
    """Return the proportional set size of processes in MiB."""
    kib = 0
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def measure(folder: Path, packed: bool, workers: int) -> None:
    """Measure the loader in this process, and print the results as JSON."""
    from ccpml.data import ClassBalancedBatches, ImageDataset, TrainTransform, train_loader

    torch.set_num_threads(1)
    images = table(folder, packed)
    steps = ClassBalancedBatches(images.labels, 1, BATCH, seed=0).steps(0, STEPS)
    loader = train_loader(ImageDataset(images, TrainTransform(SIZE), 3), steps, workers, persistent=True)
    count, rates, main, mib = STEPS * BATCH, [], [], []
    for _ in range(EPOCHS):
        wall, own = time.perf_counter(), time.process_time()
        for _batch in loader:
            pass
        rates.append(count / (time.perf_counter() - wall))
        main.append(1e3 * (time.process_time() - own) / count)
        mib.append(resident_mib([os.getpid(), *(child.pid or 0 for child in multiprocessing.active_children())]))
    del loader  # ends its workers, so that their CPU time is known
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    worker = 1e3 * (children.ru_utime + children.ru_stime) / (EPOCHS * count)
    left = len(multiprocessing.active_children())
    print(json.dumps({"rate": max(rates), "worker": worker, "main": statistics.median(main), "mib": mib, "left": left}))


def show(folder: Path, packed: bool) -> None:
    """Measure with 1 and 2 workers, and extrapolate to 8."""
    name = "packed cache" if packed else "JPEG"
    for workers in (1, 2):
        command = [sys.executable, "-m", "benchmarks.loader", "--folder", str(folder), "--workers", str(workers)]
        command += ["--packed"] if packed else []
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        memory = ", ".join(f"{mib:.0f}" for mib in found["mib"])
        print(
            f"| {name}, {workers} | {found['rate']:.0f} | {found['worker']:.2f} | {found['main']:.3f} | {memory} "
            f"| {found['left']} |"
        )
    print(f"| {name}, {GPU_WORKERS}: computed | {GPU_WORKERS * 1e3 / found['worker']:.0f} | | | | |")
    print(
        f"| {name}: a GPU of {GPU_RATE:,} images/s | | {GPU_RATE * found['worker'] / 1e3:.1f} of {GPU_WORKERS} workers "
        f"| {100 * GPU_RATE * found['main'] / 1e3:.0f} % of a core | | |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=96, help="images")
    parser.add_argument("--seed", type=int, default=0)
    for hidden, options in {
        "folder": {"type": Path},
        "workers": {"type": int},
        "packed": {"action": "store_true"},
    }.items():
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS, **options)  # type: ignore[arg-type]
    args = parser.parse_args()
    if args.folder:
        measure(args.folder, args.packed, args.workers)
        return
    from ccpml.data import build_cache

    print(header(args.seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_photos(folder, args.count, DECAYS[0], args.seed)
        build_cache(f"folder:{folder}", progress=False)
        size = statistics.mean(path.stat().st_size for path in paths)
        print(f"Batches of {BATCH}, JPEGs of {WIDTH} × {HEIGHT} and {size / 1e3:.0f} kB; {EPOCHS} epochs.\n")
        columns = ("workers", "images/s", "worker: ms per image", "main: ms per image", "MiB after each epoch", "left")
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for packed in (False, True):
            show(folder, packed)


if __name__ == "__main__":
    main()

"""Fine-tuning steps and inference of backbones with frozen BatchNorm: ccpml's modules beside timm's.

Run ``python -m benchmarks.backbones``; timm runs in the environment of the peers, which ``make bench`` creates in
.venv-peers. A step is forward, backward and fused Adam on all weights but those of BatchNorm. Both modules have the
same weights, random ones; their features and gradients are compared in float64. Each contestant has a process of its
own with one thread; they take turns, and CPU time is measured. Ratios are those within a turn.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import ROOT, machine, print_table

MODULE = "benchmarks.backbones"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
SIZE = 160
NETWORKS = {"efficientnet_lite0": "tf_efficientnet_lite0", "resnet50": "resnet50"}  # names here and at timm
CONTESTANTS = {"ours": "ccpml", "timm": "timm", "timm-last": "timm, channels_last"}


def import_timm() -> Any:
    """Import timm; declare the operators that a torchvision built for another torch lacks."""
    try:
        import timm
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] in {"timm", "torchvision"}]:
            del sys.modules[name]
        import timm

        timm.torchvision_operators = library  # they live as long as the library
    return timm


def build(network: str, contestant: str) -> nn.Module:
    """Build a network with frozen BatchNorm."""
    if contestant == "ours":
        from ccpml.models import create_model

        model: nn.Module = create_model(network).backbone
    else:
        model = import_timm().create_model(NETWORKS[network], pretrained=False, num_classes=0, global_pool="")
        if contestant == "timm-last":
            model.to(memory_format=torch.channels_last)
    model.train()
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval().requires_grad_(False)
    return model


def work(network: str, contestant: str, part: str, batch: int, seed: int, folder: Path) -> None:
    """Measure one contestant here: for each line on standard input, print CPU seconds."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    images = torch.randn(batch, 3, SIZE, SIZE)
    model = build(network, contestant)
    if contestant == "ours":
        torch.save(model.state_dict(), folder / "weights.pt")
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.Adam(weights.values(), lr=0.0, fused=True)  # rate 0: the weights stay comparable

    def step() -> None:
        optimizer.zero_grad()
        model(images).mean((2, 3)).square().mean().backward()
        optimizer.step()

    def infer() -> Tensor:
        with torch.no_grad():
            return model(images)

    exact = copy.deepcopy(model).double()
    features = exact(images[:2].double())
    features.mean((2, 3)).square().mean().backward()
    gradients = {name: weight.grad for name, weight in exact.named_parameters() if weight.requires_grad}
    torch.save({"features": features.detach(), **gradients}, folder / f"{contestant}.pt")
    if part == "infer":
        model.eval()
    run: Callable[[], object] = infer if part == "infer" else step
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(time.process_time() - start, flush=True)


def start(network: str, contestant: str, part: str, options: list[str], peers: Path) -> subprocess.Popen[str] | None:
    """Start the process of a contestant; return None if it fails."""
    python = sys.executable if contestant == "ours" else str(peers)
    own = ["--network", network, "--contestant", contestant, "--part", part]
    process = subprocess.Popen(
        [python, "-m", MODULE, *own, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    return process if any(line == "ready\n" for line in process.stdout) else None  # an import may print, too


def difference(folder: Path, contestant: str) -> float:
    """Return the largest difference from ours of features and gradients, relative to the largest value of each."""
    ours, theirs = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("ours", contestant))
    assert set(ours) == set(theirs)
    return max(float((theirs[name] - ours[name]).abs().max() / ours[name].abs().max()) for name in ours)


def compare(network: str, part: str, batch: int, repeats: int, seed: int, peers: Path) -> dict[str, list[str]]:
    """Let the contestants take turns; return the cells of each that runs."""
    with tempfile.TemporaryDirectory() as name:
        options = ["--batch", str(batch), "--seed", str(seed), "--folder", name]
        running = {}
        for contestant in CONTESTANTS:  # ours first: it writes the weights
            if process := start(network, contestant, part, options, peers):
                running[contestant] = process
        seconds: dict[str, list[float]] = {contestant: [] for contestant in running}
        for _ in range(repeats):
            for contestant, process in running.items():
                print(file=process.stdin, flush=True)
                seconds[contestant].append(float(process.stdout.readline()))
        for process in running.values():
            process.communicate()
        rows = {}
        for contestant, values in seconds.items():
            ratio = statistics.median(one / ours for one, ours in zip(values, seconds["ours"], strict=True))
            rows[contestant] = [f"{statistics.median(values):.2f}", f"{min(values):.2f}", f"{ratio:.2f}"]
            if part == "infer":
                rows[contestant].append("" if contestant == "ours" else f"{difference(Path(name), contestant):.0e}")
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--peers", type=Path, default=PEERS, help="Python of the environment of the other libraries")
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=["step", "infer"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    batch, seed = arguments.batch, arguments.seed
    if arguments.contestant:
        work(arguments.network[0], arguments.contestant, arguments.part, batch, seed, arguments.folder)
        return
    print(f"{machine()}, seed {seed}; batch {batch} × {SIZE}²\n")
    columns = ["CPU s, median", "minimum", "× ours"]
    header = [f"step: {columns[0]}", *columns[1:], f"inference: {columns[0]}", *columns[1:], "differs by, in float64"]
    for network in arguments.network:
        parts = [
            compare(network, part, batch, arguments.repeats, seed, arguments.peers.absolute())
            for part in ("step", "infer")
        ]
        print(f"### {network}\n")
        failed = "failed (make bench installs timm)"
        cells = {key: [cell for part in parts for cell in part.get(key, [failed, "", ""])] for key in CONTESTANTS}
        print_table(header, {CONTESTANTS[key]: row for key, row in cells.items()})
        print(flush=True)


if __name__ == "__main__":
    main()

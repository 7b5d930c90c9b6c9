"""From JPEG files to normalized batches: torchvision, ccpml, and ccpml with the packed cache.

Run ``python -m benchmarks.images``; torchvision runs in the environment of the peers, which ``make bench`` creates in
.venv-peers. Images are noise with the spectrum of photographs. Each row runs in a process of its own, rows
alternate, and the CPU time of one thread is measured: from opening files to float32 (32, 3, 227, 227).
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import ROOT

SIZE, BATCH, HEIGHT, WIDTH = 227, 32, 375, 500
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DECAYS = 1.47, 1.15  # of photographs of about 55 and 95 kB

PYTHON = str(ROOT / ".venv-peers" / "bin" / "python")

Step = Callable[[int, Sequence[Path]], Tensor]


def photo(rng: np.random.Generator, decay: float) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return noise whose amplitude decays as a power of the frequency: ``decay`` for brightness, faster for color."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)).clip(1 / WIDTH)

    def field(power: float) -> Any:
        waves = rng.normal(size=(2, *frequency.shape))
        values = np.fft.irfft2((waves[0] + 1j * waves[1]) / frequency**power, (HEIGHT, WIDTH))
        return (values - values.mean()) / values.std()

    light, warm, green = field(decay), field(1.6), field(1.6)
    rgb = 127 + 50 * light + np.stack([25 * warm, 12 * (green - warm), -25 * green])
    return np.clip(rgb, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def write_photos(folder: Path, count: int, decay: float, seed: int) -> list[Path]:
    """Write JPEGs of quality 90 with colors at half the resolution; return their paths."""
    rng, paths = np.random.default_rng(seed), []
    for number in range(count):
        paths.append(folder / "photos" / f"{number:03}.jpg")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(photo(rng, decay)).save(paths[-1], quality=90)
    return paths


def header(seed: int) -> str:
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"Pillow {PIL.__version__}, Python {platform.python_version()}, seed {seed}"
    )


def declare_torchvision() -> None:
    """Declare the operators of torchvision, whose CUDA build cannot load them beside a CPU build of torch."""
    if torch.version.cuda is not None:
        return
    names = ["nms", "qnms", "deform_conv2d", "_deform_conv2d_backward", "qroi_align"]
    for name in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool"):
        names += [name, f"_{name}_backward"]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in names:
        library.define(f"{name}() -> Tensor")
    declare_torchvision.library = library  # type: ignore[attr-defined]  # the operators live as long as the library


def torchvision_pil(folder: Path) -> Step:
    """Return the usual torchvision pipeline."""
    declare_torchvision()
    from torch.utils.data import default_collate
    from torchvision import transforms as tv

    steps = [tv.RandomResizedCrop(SIZE, (0.16, 1), (3 / 4, 4 / 3)), tv.RandomHorizontalFlip(), tv.ToTensor()]
    transform = tv.Compose([*steps, tv.Normalize(MEAN, STD)])

    def batch(_: int, paths: Sequence[Path]) -> Tensor:
        images: Tensor = default_collate([transform(Image.open(path).convert("RGB")) for path in paths])
        return images

    return batch


def torchvision_v2(folder: Path) -> Step:
    """Return the same pipeline on uint8 tensors; Pillow decodes if torchvision's decoder does not load."""
    declare_torchvision()
    from torch.utils.data import default_collate
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(SIZE, (0.16, 1), (3 / 4, 4 / 3)), v2.RandomHorizontalFlip()]
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def own(path: Path) -> Tensor:
        pixels: Tensor = decode_jpeg(read_file(str(path)), ImageReadMode.RGB)
        return pixels

    def pillow(path: Path) -> Tensor:
        pixels: Tensor = v2.functional.pil_to_tensor(Image.open(path).convert("RGB"))
        return pixels

    try:
        own(next((folder / "photos").iterdir()))
        decode = own
    except RuntimeError:
        decode = pillow

    def batch(_: int, paths: Sequence[Path]) -> Tensor:
        images: Tensor = default_collate([transform(decode(path)) for path in paths])
        return images

    return batch


def ours(folder: Path, packed: bool) -> Step:
    """Return the images of a dataset, collated, and normalized as in the model."""
    from torch.utils.data import default_collate

    from ccpml.data import Draw, ImageDataset, TrainTransform
    from ccpml.models import Backbone, EmbeddingModel, InputConvention

    class Nothing(Backbone):
        convention = InputConvention(3, SIZE, mean=MEAN, std=STD)
        out_channels = 3

    dataset = ImageDataset(table(folder, packed), TrainTransform(SIZE), 3)
    rows = {path.name: row for row, path in enumerate(sorted((folder / "photos").iterdir()))}
    model = EmbeddingModel(Nothing())

    def batch(epoch: int, paths: Sequence[Path]) -> Tensor:
        images, _ = default_collate([dataset[Draw(epoch, rows[path.name], 0)] for path in paths])
        return model._normalize(images)

    return batch


def table(folder: Path, packed: bool) -> Any:
    from ccpml.data import load_source

    return load_source(f"folder:{folder}", side=256 if packed else None).table


def decoding(folder: Path) -> Step:
    """Return the decoding of whole images alone; most of it is entropy decoding, which a crop does not save."""
    import simplejpeg

    def batch(_: int, paths: Sequence[Path]) -> Tensor:
        for path in paths:
            simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        return torch.empty(0)

    return batch


PEERS: dict[str, Callable[[Path], Step]] = {
    "torchvision: Pillow": torchvision_pil,
    "torchvision v2: tensors": torchvision_v2,
}
ROWS: dict[str, Callable[[Path], Step]] = {
    **PEERS,
    "decoding only: simplejpeg": decoding,
    "ccpml": lambda folder: ours(folder, packed=False),
    "ccpml: packed cache": lambda folder: ours(folder, packed=True),
}


def measure(name: str, folder: Path) -> None:
    """Measure one row in this process, and print the milliseconds per image as JSON."""
    torch.set_num_threads(1)
    step, passes = ROWS[name](folder), []
    paths = sorted((folder / "photos").iterdir())
    for epoch in range(5):
        start = time.process_time()
        for place in range(0, len(paths), BATCH):
            step(epoch, paths[place : place + BATCH])
        passes.append(1e3 * (time.process_time() - start) / len(paths))
    print(json.dumps(statistics.median(passes[1:])))


def write_crops(name: str, folder: Path) -> None:
    """Write the crops of ``boxes.json`` (left, top, width and height) as uint8 (N, 227, 227, 3)."""
    if name == "ccpml":
        from ccpml.data.images.read import read_image
        from ccpml.data.transforms import View

        def crop(path: Path, box: list[int]) -> Any:
            left, top, width, height = box
            return View(SIZE, (left, top, left + width, top + height), cut=True).of(read_image(path, 3))

    else:
        declare_torchvision()
        from torchvision.transforms import functional

        def crop(path: Path, box: list[int]) -> Any:
            left, top, width, height = box
            image = Image.open(path).convert("RGB")
            return np.asarray(functional.resized_crop(image, top, left, height, width, [SIZE, SIZE]))

    boxes = json.loads((folder / "boxes.json").read_text())
    paths = sorted((folder / "photos").iterdir())
    np.save(folder / f"{name[:5]}.npy", np.stack([crop(*pair) for pair in zip(paths, boxes, strict=True)]))


def compare(folder: Path, run: Callable[..., str]) -> str:
    """Report the difference between our crops and those of torchvision."""
    from ccpml.data import TrainTransform

    rng, count = np.random.default_rng(0), len(list((folder / "photos").iterdir()))
    boxes = [TrainTransform(SIZE).crop(WIDTH, HEIGHT, rng) for _ in range(count)]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    for name in ("torchvision: Pillow", "ccpml"):
        run(name, "--crops")
    theirs, mine = (np.load(folder / f"{name}.npy").astype(int) for name in ("torch", "ccpml"))
    difference = np.abs(theirs - mine)
    return (
        f"The same {count} boxes: torchvision's pixels and ours differ by {difference.mean():.3f} of 255 on average, "
        f"by {difference.max()} at most, and in {100 * (difference > 0).mean():.1f} % of the values."
    )


def show_rows(run: Callable[..., str], rounds: int) -> None:
    """Measure the rows alternately, and print the table."""
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for name in [name for name in ROWS if name not in failed]:
            try:
                found[name].append(json.loads(run(name)))
            except OSError:
                failed[name] = "not installed (make bench installs it)"
            except subprocess.CalledProcessError as error:
                failed[name] = (error.stderr.strip().splitlines() or [f"exit {error.returncode}"])[-1]
    peer = statistics.median(found["torchvision: Pillow"] or [math.nan])
    print("| | ms per image | images/s per core | × torchvision |\n|---|---|---|---|")
    for name, times in found.items():
        if name in failed:
            print(f"| {name} | failed: {failed[name]} | | |")
            continue
        middle = statistics.median(times)
        print(f"| {name} | {middle:.2f} | {1e3 / middle:.0f} | {peer / middle:.2f} |")


def show(folder: Path, decay: float, args: argparse.Namespace) -> None:
    """Measure all rows on one kind of photographs."""
    from ccpml.data import build_cache

    paths = write_photos(folder, args.count, decay, args.seed)
    build_cache(f"folder:{folder}", progress=False)
    size = statistics.mean(path.stat().st_size for path in paths)
    print(f"\n{args.count} JPEGs of {WIDTH} × {HEIGHT}, quality 90, 4:2:0, {size / 1e3:.0f} kB on average:\n")

    def run(name: str, *options: str) -> str:
        python = args.peers if name in PEERS else sys.executable
        command = [python, "-m", "benchmarks.images", "--folder", str(folder), "--row", name, *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    show_rows(run, args.rounds)
    try:
        print(f"\n{compare(folder, run)}")
    except (OSError, subprocess.CalledProcessError):
        print("\nOutputs not compared: torchvision is not available.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=PYTHON, help="Python of the peers' environment")
    parser.add_argument("--count", type=int, default=96, help="images")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--crops", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        (write_crops if args.crops else measure)(args.row, args.folder)
        return
    print("Decode, crop, flip, normalize: CPU time of one thread, per image.")
    print(header(args.seed))
    for decay in DECAYS:
        with tempfile.TemporaryDirectory() as folder:
            show(Path(folder), decay, args)


if __name__ == "__main__":
    main()

"""Images: tables of them, splits, samplers, transforms and loaders, from files to batches of tensors.

Names are imported when they are first used: reading of images needs no torch.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ccpml.data.dataset import ImageDataset, eval_loader, train_loader
    from ccpml.data.images.packed import PackedImage
    from ccpml.data.images.read import BadImage, BadImageError, BadImagesError, read_image
    from ccpml.data.loading import build_cache, load_source
    from ccpml.data.sampler import BatchRange, ClassBalancedBatches, Draw, in_chunks, pool_draws, pool_rows
    from ccpml.data.sources.benchmarks import load_benchmark
    from ccpml.data.sources.csv_file import load_csv
    from ccpml.data.sources.folder import load_folder
    from ccpml.data.sources.source import Source, SplitName
    from ccpml.data.splits import Splits, make_splits
    from ccpml.data.table import ImageTable
    from ccpml.data.transforms import EvalTransform, TrainTransform, Transform
    from ccpml.data.upkeep.check import all_gray, check_images

__all__ = [
    "BadImage",
    "BadImageError",
    "BadImagesError",
    "BatchRange",
    "ClassBalancedBatches",
    "Draw",
    "EvalTransform",
    "ImageDataset",
    "ImageTable",
    "PackedImage",
    "Source",
    "SplitName",
    "Splits",
    "TrainTransform",
    "Transform",
    "all_gray",
    "build_cache",
    "check_images",
    "eval_loader",
    "in_chunks",
    "load_benchmark",
    "load_csv",
    "load_folder",
    "load_source",
    "make_splits",
    "pool_draws",
    "pool_rows",
    "read_image",
    "train_loader",
]

_MODULES = {
    **dict.fromkeys(["ImageDataset", "eval_loader", "train_loader"], "dataset"),
    **dict.fromkeys(["PackedImage"], "images.packed"),
    **dict.fromkeys(["BadImage", "BadImageError", "BadImagesError", "read_image"], "images.read"),
    **dict.fromkeys(["build_cache", "load_source"], "loading"),
    **dict.fromkeys(["BatchRange", "ClassBalancedBatches", "Draw", "in_chunks", "pool_draws", "pool_rows"], "sampler"),
    **dict.fromkeys(["load_benchmark"], "sources.benchmarks"),
    **dict.fromkeys(["load_csv"], "sources.csv_file"),
    **dict.fromkeys(["load_folder"], "sources.folder"),
    **dict.fromkeys(["Source", "SplitName"], "sources.source"),
    **dict.fromkeys(["Splits", "make_splits"], "splits"),
    **dict.fromkeys(["ImageTable"], "table"),
    **dict.fromkeys(["EvalTransform", "TrainTransform", "Transform"], "transforms"),
    **dict.fromkeys(["all_gray", "check_images"], "upkeep.check"),
}


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module 'ccpml.data' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"ccpml.data.{_MODULES[name]}"), name)
    globals()[name] = value
    return value

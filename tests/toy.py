"""A toy data set: images whose class is a pattern that a small network learns in a few steps."""

from pathlib import Path

import numpy as np
from PIL import Image

from ccpml.runs.settings import Settings


def toy_images(classes: int, per_class: int, side: int = 32) -> np.ndarray:
    """Blurry class patterns with noise: uint8 (classes, per_class, side, side)."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0, 255, (classes, 1, 8, 8)).repeat(side // 8, 2).repeat(side // 8, 3)
    noise = rng.normal(0, 40, (classes, per_class, side, side))
    return (0.6 * patterns + 40 + noise).clip(0, 255).astype(np.uint8)


def toy_folder(root: Path, classes: int = 12, per_class: int = 5, suffix: str = ".png") -> Path:
    """Write them as a folder of class folders."""
    for label, images in enumerate(toy_images(classes, per_class)):
        folder = root / f"group{label // 4}" / f"class{label:02d}"
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number}{suffix}")
    return root


QUICK = {
    "classes_per_batch": 3,
    "samples_per_class": 2,
    "proxies_per_class": 2,
    "pool_size": 3,
    "backbone": "small_conv",
    "embedding_dim": 8,
    "image_size": 28,
    "max_steps": 6,
    "validate_every": 2,
    "projections.patience": 1,
    "projections.warm_start": "never",  # the first proxies are placed before the first step
    "folds": 2,
    "workers": 0,
    "threads": 1,
    "device": "cpu",
}
"""Settings of a run of seconds, by their flat names."""


def quick_settings(**changes: object) -> Settings:
    """Settings of a run of seconds, with changes."""
    return Settings().changed({**QUICK, **changes})

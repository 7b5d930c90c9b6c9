"""Finished run directories, written without training."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from ccpml.files import write_arrays, write_text
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import Settings

NAMES = (
    "<script>alert('x')</script>",
    '漢字/\u0627\u0644 & "quoted"',
    r"a$b_{c}$ \frac",
    "long " * 40,
    "line\nbreak \x07 \udcff",
    "plain",
    "single",
)
"""Unusual class names; the last class has one image."""

PROXIES, PER_CLASS, DIM = 3, 6, 8
SCORES = {
    "map_at_r": 0.412345,
    "precision_at_1": 0.523456,
    "r_precision": 0.487654,
    "recall_at_1": 0.523456,
    "recall_at_2": 0.61,
    "recall_at_4": 0.72,
    "recall_at_8": 0.83,
    "num_queries": 1234,
    "num_skipped": 1,
}


def make_run(
    folder: Path,
    method: str = "ccp",
    *,
    roles: bool = False,
    instances: int = 2,
    data: str = "folder:<b>photos</b>",
    validations: int = 6,
) -> RunDirectory:
    """Write a finished run; the best validation is the last but one."""
    run = RunDirectory.create(folder, Settings(data=data, method=method, embedding_dim=DIM, seed=3).resolved())
    rng = np.random.default_rng(0)
    _write_metrics(run, rng, validations, instances if method == "ccp" else None)
    for split in ("train", "validation", "test"):
        _write_split(run, rng, split, roles and split == "test")
    if method == "ccp":
        run.weights_file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"criterion.proxies": torch.randn(len(NAMES), PROXIES, DIM)}, run.weights_file)
        for number in range(instances + 1):
            _write_instance(run, rng, number)
    splits = {name: {"classes": 7, "images": 37} for name in ("train", "validation", "test")}
    scores = {
        "test": SCORES,
        "validation": {"map_at_r": 0.3339, "step": 10 * (validations - 1)},
        "steps": 10 * validations,
        "instances": instances if method == "ccp" else 0,
        "splits": splits,
        "images_left_out": ["<i>broken</i>.png: the file is empty"],
        "seed": 3,
        "versions": {"ccpml": "0.1.0", "torch": "2.13"},
        "commit": None,
        "hardware": {"cpu": "A & B", "cores": 2, "threads": 1, "device": "cpu"},
    }
    write_text(run.scores_file, json.dumps(scores))
    return run


def _write_metrics(run: RunDirectory, rng: np.random.Generator, count: int, instances: int | None) -> None:
    names = ["map_at_r", "loss", "train_covering_radius", "train_interclass_distance"]
    names += ["val_covering_radius", "val_interclass_distance", "proxy_covering_radius", "proxy_spread"]
    with run.metrics_file.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["step", *names, "instance"])
        writer.writeheader()
        for i in range(count):
            known = names if instances is not None else names[:-2]
            row = {"step": 10 * (i + 1), **{name: rng.random() for name in known}}
            if instances is not None:
                row["instance"] = min(instances, (i + 1) * instances // count)
            writer.writerow(row)


def _write_split(run: RunDirectory, rng: np.random.Generator, split: str, roles: bool) -> None:
    labels = np.repeat(np.arange(len(NAMES)), [PER_CLASS] * (len(NAMES) - 1) + [1])
    images = run.path / "images" / split
    images.mkdir(parents=True)
    paths = [images / f"{row}.png" for row in range(len(labels))]
    for row, path in enumerate(paths[:-10]):  # the last ten are gone
        Image.new("RGB", (8 + row, 12), (5 * row, 90, 200)).save(path)
    paths[0].write_bytes(b"not an image")
    centers = rng.normal(size=(len(NAMES), DIM))
    write_arrays(
        run.embeddings / f"{split}.npz",
        embeddings=_unit(centers[labels] + rng.normal(size=(len(labels), DIM))),
        labels=labels,
        class_names=np.array(NAMES),
        paths=np.array([str(path) for path in paths]),
        roles=np.where(np.arange(len(labels)) % 2, "query", "gallery") if roles else np.array([""] * len(labels)),
    )


def _write_instance(run: RunDirectory, rng: np.random.Generator, number: int) -> None:
    classes = np.arange(6)
    labels = np.repeat(classes, PER_CLASS)
    arrays = {
        "step": np.array(10 * number),
        "classes": classes,
        "class_names": np.array(NAMES[:6]),
        "samples": _unit(rng.normal(size=(len(labels), DIM))),
        "labels": labels,
        "next": _unit(rng.normal(size=(6, PROXIES, DIM))),
    }
    if number:
        arrays["converged"] = _unit(rng.normal(size=(6, PROXIES, DIM)))
    write_arrays(run.instances / f"{number:03d}.npz", **arrays)


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

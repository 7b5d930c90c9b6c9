"""Finished runs with chosen embeddings, written without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ccpml.data.class_records import ClassRecord
from ccpml.files import write_arrays
from ccpml.runs.directory import RunDirectory
from ccpml.runs.record import RunRecord
from ccpml.runs.settings import Settings

PER_CLASS, DIM = 4, 6


def make_run(
    path: Path,
    tests: Sequence[str],
    trained: Sequence[str] = ("seen",),
    *,
    noise: float = 0.5,
    seed: int = 0,
    missing: Sequence[str] = (),
    digests: Mapping[str, str] | None = None,
    folder: str = "photos",
    roles: bool = False,
    **settings: object,
) -> Path:
    """Write a run whose test classes are clusters: the same images of a class have the same noise in each run.

    Args:
        path: The run directory.
        tests: Its test classes, in the order of its data.
        trained: Its training classes.
        noise: Of the embeddings.
        seed: The run's seed; it moves the embeddings a little.
        missing: Names of images that the run could not read.
        digests: Of the images of a class, where they differ from those of other runs.
        folder: Where the run found the images.
        roles: Whether every second image is a query.
        **settings: Further settings.
    """
    run = RunDirectory.create(
        path, Settings(data=f"folder:{folder}", seed=seed, embedding_dim=DIM, **settings).resolved()
    )
    entries = {name: ClassRecord("test", PER_CLASS, (digests or {}).get(name, name)) for name in tests}
    entries |= {name: ClassRecord("train", PER_CLASS, name) for name in trained}
    record = RunRecord(json.loads(json.dumps(run.settings().flat())), entries)
    record.write(run.record_file)
    run.images_file.write_text("0" * 64 + "\n")
    vectors, labels, paths = [], [], []
    for label, name in enumerate(tests):
        rng = np.random.default_rng([ord(letter) for letter in name])
        center = rng.normal(size=DIM)
        images = center + noise * rng.normal(size=(PER_CLASS, DIM))
        images += 0.05 * np.random.default_rng([seed, label]).normal(size=images.shape)
        for number, vector in enumerate(images):
            if f"{name}/{number}.png" not in missing:
                vectors.append(vector / np.linalg.norm(vector))
                labels.append(label)
                paths.append(f"{folder}/{name}/{number}.png")
    own = np.where(np.arange(len(labels)) % 2, "gallery", "query") if roles else np.array([""] * len(labels))
    write_arrays(
        run.embeddings / "test.npz",
        embeddings=np.array(vectors, np.float32),
        labels=np.array(labels),
        class_names=np.array(tests),
        paths=np.array(paths),
        roles=own,
    )
    scores = {"test": {"map_at_r": 0.5}, "validation": {"map_at_r": 0.5, "step": 1}, "steps": 1, "splits": {}}
    run.scores_file.write_text(json.dumps({**scores, "versions": {"ccpml": "0.1.0"}, "commit": None, "hardware": {}}))
    return path

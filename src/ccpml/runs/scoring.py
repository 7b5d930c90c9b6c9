"""Score a trained run on its splits, and write what a finished run has."""

import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from ccpml.data import ImageTable, pool_rows
from ccpml.data.dataset import ended_workers
from ccpml.distributed import all_ranks, gather_rows
from ccpml.files import read_arrays
from ccpml.method import MIN_SEPARATION, AlternatingProjections
from ccpml.numbers import counted
from ccpml.retrieval import RetrievalScores, score_intervals
from ccpml.runs.callbacks import Recorder
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import is_query, query_labels
from ccpml.runs.inference import write_embeddings
from ccpml.runs.parts import Parts
from ccpml.runs.trainer import rank_batches
from ccpml.training import Warmup, embed, evaluate_with_roles

__all__ = ["score_run", "score_test"]

_FEATURES_WIN = (
    "The untouched features score better than this run, which learned from {images:,} images of {classes} classes: "
    "more classes help; until then, the features are the better embedding (head_start identity)."
)

_NO_LOSS = (
    "Nothing was learned: the loss was 0 in each of {steps}, as nothing was outside of its margins; check their size "
    "and sign."
)


def score_test(parts: Parts, trainer: L.Trainer) -> tuple[Tensor, RetrievalScores]:
    """Embed and score the test classes, and each query, by the current weights."""
    table = parts.images.splits.test
    embeddings, labels = _embed(parts, table, trainer)
    return embeddings, evaluate_with_roles(embeddings, labels, is_query(table), group=all_ranks(), per_query=True)


def score_run(
    run: RunDirectory,
    parts: Parts,
    recorder: Recorder,
    trainer: L.Trainer,
    last: RetrievalScores | None,
    log: Callable[[Mapping[str, Any]], None],
) -> None:
    """Embed the splits by the current weights, which are the best, test, and write embeddings and scores.

    ``last`` are the test scores of the last weights, if they are reported too. The scores are passed to ``log`` before
    they are written, which finishes the run.
    """
    splits = parts.images.splits
    some = pool_rows(splits.train.labels, 12, 0, 0)[:2000]
    tables = {"train": splits.train.select(np.unique(some)), "validation": splits.validation}
    embedded = {name: _embed(parts, table, trainer)[0] for name, table in tables.items()}
    embedded["test"], scores = score_test(parts, trainer)
    if not trainer.is_global_zero:
        return
    recorder.write_rows(trainer)  # a run at its end does not train again, but its file may have been lost
    for name, table in {**tables, "test": splits.test}.items():
        write_embeddings(run.embeddings / f"{name}.npz", embedded[name], table)
    whole = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    steps = int(recorder.rows[-1]["step"])
    notes = list(_not_begun(parts, recorder, steps)) if steps else []  # the start alone is not the result of a method
    if steps and not recorder.step_losses.any():
        notes.append(_NO_LOSS.format(steps=counted(len(recorder.step_losses), "step")))
    features = parts.head_start.scores if parts.head_start else None
    if features and features["map_at_r"] > scores.map_at_r and features["precision_at_1"] > scores.precision_at_1:
        notes.append(_FEATURES_WIN.format(classes=splits.train.num_classes, images=len(splits.train)))
    sizes = {name: {"classes": table.num_classes, "images": len(table)} for name, table in whole.items()}
    content = {
        "test": scores.as_dict(),
        "intervals": score_intervals(scores, query_labels(splits.test)),
        **({} if last is None else {"test_last": last.as_dict()}),
        **({"features": features} if features else {}),
        "validation": {"map_at_r": recorder.best_score, "step": recorder.best_step},
        "steps": steps,
        "instances": max(0, parts.ccp.projections.instance) if parts.ccp else 0,
        **({"notes": notes} if notes else {}),
        "splits": sizes,
        "partial": parts.settings.allow_partial,
        "images_left_out": [f"{image.name}: {image.reason}" for image in parts.images.bad],
        "seed": parts.settings.seed,
        **_provenance(trainer.strategy.root_device),
    }
    log(content)
    run.write_scores(content)


def _not_begun(parts: Parts, recorder: Recorder, steps: int) -> Iterator[str]:
    """Return sentences about a run whose method, or the training of its backbone, began after its best weights."""
    settings, best = parts.settings, recorder.best_step
    if not best:
        yield "The best weights are those of the start, before the first step of the training."
        return
    of_plain_loss = f"The best weights, of step {best:,}, are of the plain loss"
    if parts.ccp and parts.ccp.projections.waiting:
        yield _never_placed(parts.ccp.projections)
    elif parts.ccp and best <= (placed := _step_of_first_proxies(recorder)):
        yield f"{of_plain_loss}: the first proxies were placed at step {placed:,}."
    start = max(1, settings.memory_start)  # a first step has nothing in memory
    if settings.method == "xbm" and steps <= start:
        ended = f"it ended at step {steps:,}, and memory_start is {settings.memory_start:,}"
        yield f"The memory was never compared with, and the run trained the plain loss: {ended}."
    elif settings.method == "xbm" and best <= start:
        yield f"{of_plain_loss}: the memory was compared with after step {start:,} (memory_start)."
    frozen = max((each.steps for each in parts.schedules if isinstance(each, Warmup)), default=0)
    of_warmup = f"the {frozen:,} of warmup_epochs {settings.warmup_epochs}"
    if settings.trained_stages == 0 or best > frozen:
        return
    if steps <= frozen:
        ended = f"it ended at step {steps:,} of {of_warmup}"
        yield f"The backbone was never trained, but the embedding layer alone: {ended}."
    else:
        yield f"The best weights, of step {best:,}, are of {of_warmup}, in which the backbone is not trained."


def _step_of_first_proxies(recorder: Recorder) -> int:
    """Return the step after whose validation the first proxies were placed; 0 if that was before training."""
    with suppress(ValueError):  # of a file that was lost or damaged
        return int(read_arrays(recorder.run.instances / "000.npz", ["step"], "")["step"])
    return 0


def _never_placed(projections: AlternatingProjections) -> str:
    """Return a sentence about a run that ended before it placed its first proxies."""
    text = "The proxies were never placed, and the run trained the plain loss: "
    if projections.separation is None:
        return f"{text}it ended before step {projections.options.warm_start} (projections.warm_start)."
    separation = f"separation {projections.separation:.3f}, less than {MIN_SEPARATION}"
    return f"{text}the embedding did not tell the training classes apart ({separation})."


def _embed(parts: Parts, table: ImageTable, trainer: L.Trainer) -> tuple[Tensor, Tensor]:
    """Embed a table by the current weights, each rank its share: embeddings (N, d) and labels (N,)."""
    device = trainer.strategy.root_device
    batches = rank_batches(parts, table, trainer)
    with ended_workers(batches):
        found = embed(parts.module.to(device), batches, device)
    embeddings, labels = (gather_rows(rows) for rows in found)
    return embeddings, labels


def _provenance(device: torch.device) -> dict[str, Any]:
    """Return versions, commit and hardware; equal for two runs of the same code on the same machine."""
    packages = {name: version(name) for name in ("torch", "lightning", "numpy", "pillow")}
    return {
        "versions": {"ccpml": version("ccpml"), "python": platform.python_version(), **packages},
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
    }


def _commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` if modified; None for an installed package."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""Embedding layers trained on frozen features: plain losses, XBM, CCP and baselines, each with the same search.

Usage: ``python -m benchmarks.heads features.npz [more.npz ...]``, with files of features from these commands:

    ccpml train <set> --head-start identity --embedding-dim 1280 --max-steps 0 --run runs/features
    ccpml embed runs/features <set> -o features.npz

The protocol is that of Musgrave et al. (ECCV 2020): the second half of the classes, or those of ``--test-classes``, are
for testing; the others are cut into four folds, each of which validates one of four models. Every layer starts by
whitening. The learning rate of each row is chosen on the validation classes of two folds, with a seed of its own, and
is never at the end of those tried. A repeat is one seed of all four models: the mean of their scores, and the score of
their concatenated embeddings.

Shapes: N images, D features, d dimensions, C classes, F folds.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from torch import Tensor, nn

from ccpml import AlternatingProjections, CCPLoss, start_head
from ccpml.baselines import CrossBatchMemory
from ccpml.benchmark.spread import Gain, Spread
from ccpml.data import ClassBalancedBatches
from ccpml.data.sampler import pool_rows
from ccpml.losses import LOSSES, METHODS
from ccpml.method.metric_loss import NORMALIZED_LENGTH
from ccpml.models.head_start import closed_form_head
from ccpml.training import evaluate_with_roles

DIM = 128
STEPS, VALIDATE_EVERY = 300, 20
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
SEARCH_SEED = 100
K, B = 8, 12
ROWS = [
    (loss, method) for loss, entry in LOSSES.items() for method in ("plain", "xbm", "ccp") if method in entry.methods
]


@dataclass(frozen=True)
class Part:
    """Features (N, D) and classes 0..C-1 (N,)."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class FeatureSet:
    """A file of features, split for the protocol."""

    name: str
    x: Tensor  # (N, D)
    y: Tensor  # (N,)
    is_test: Tensor  # of each class, bool (C,)

    @classmethod
    def read(cls, path: Path, patterns: str) -> "FeatureSet":
        """Read a file of ``ccpml embed``."""
        with np.load(path) as file:
            x, y, names = file["embeddings"], file["labels"], [str(name) for name in file["class_names"]]
        test = [any(fnmatchcase(name, pattern) for pattern in patterns.split(",")) for name in names]
        if not any(test):
            test = [i >= len(names) // 2 for i in range(len(names))]
        return cls(path.stem, torch.from_numpy(x).float(), torch.from_numpy(y).long(), torch.tensor(test))

    @cached_property
    def test(self) -> Part:
        """The test classes."""
        return self._of(self.is_test.nonzero()[:, 0])

    def fold(self, number: int, folds: int = 4) -> tuple[Part, Part]:
        """Return the training and the validation classes of a fold."""
        classes = (~self.is_test).nonzero()[:, 0]
        mine = torch.tensor_split(classes, folds)[number]
        return self._of(classes[~torch.isin(classes, mine)]), self._of(mine)

    def _of(self, classes: Tensor) -> Part:
        rows = torch.isin(self.y, classes)
        return Part(self.x[rows], torch.searchsorted(classes, self.y[rows]))


def train_head(data: FeatureSet, loss: str, method: str, rate: float, fold: int, seed: int) -> tuple[float, Tensor]:
    """Train a layer; return its best validation MAP@R and the embeddings of the test images by its weights then."""
    torch.manual_seed(seed)
    train, validation = data.fold(fold)
    layer, classes = nn.Linear(data.x.shape[1], DIM), int(train.y.max()) + 1
    criterion, per_class, proxy_factor = _criterion(loss, method, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer images than dimensions, stated by the library
        start_head(layer, train.x, train.y, "whitening", NORMALIZED_LENGTH)  # the same start for all rows
    proxies, weights = list(criterion.parameters()), [*layer.parameters(), *criterion.parameters()]
    groups = [{"params": list(layer.parameters()), "lr": rate}, {"params": proxies, "lr": rate * proxy_factor}]
    optimizer = torch.optim.Adam(groups if proxies else groups[:1], weight_decay=1e-4, fused=True)
    in_batch = min(32 // per_class, classes)
    batches = ClassBalancedBatches(train.y.numpy(), in_batch, per_class, seed)
    projections = AlternatingProjections(layer, criterion) if isinstance(criterion, CCPLoss) else None
    pool = partial(_pool, layer, train, seed)
    if projections is not None:
        projections.start(lambda: pool(0))
    best, kept = _score(layer(validation.x), validation.y)[0], _copy(layer)
    for step in range(STEPS):
        rows = torch.tensor([draw.row for draw in batches.batch(step)])
        optimizer.zero_grad()
        criterion(layer(train.x[rows]), train.y[rows]).backward()
        if projections is not None:
            projections.pull()
        nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        if (step + 1) % VALIDATE_EVERY:
            continue
        score = _score(layer(validation.x), validation.y)[0]
        if score > best:
            best, kept = score, _copy(layer)
        if projections is not None and projections.observe(score):
            draw = projections.instance + 1
            projections.project(partial(pool, draw), [optimizer])
    layer.load_state_dict(kept)
    return best, layer(data.test.x).detach()


def _criterion(loss: str, method: str, classes: int) -> tuple[nn.Module, int, float]:
    """Return the criterion, the images per class in a batch of 32, and the rate of its proxies beside the layer's."""
    entry = LOSSES[loss]
    if entry.has_proxies:
        of_classes = {"num_classes": classes, "embedding_dim": DIM}
        return resolve_name(entry.path)(**of_classes, **entry.defaults), 1, 100.0
    pair_loss = resolve_name(entry.path)(**entry.defaults)
    if method == "xbm":
        return CrossBatchMemory(pair_loss, DIM, memory_batches=25, batch_size=32, start=50), 4, 1.0
    if method == "ccp":
        return CCPLoss(pair_loss, classes, DIM, K, pair_weight=1.0), 4, 10.0
    return pair_loss, 4, 1.0


@torch.no_grad()
def _pool(layer: nn.Module, train: Part, seed: int, draw: int) -> Tensor:
    """Embed b images of each class, (C, b, d)."""
    embeddings: Tensor = layer(train.x[torch.from_numpy(pool_rows(train.y.numpy(), B, seed, draw))])
    return embeddings


def _copy(layer: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in layer.state_dict().items()}


def _score(embeddings: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return MAP@R and P@1 in percent."""
    scores = evaluate_with_roles(embeddings.detach(), labels)
    return 100 * scores.map_at_r, 100 * scores.precision_at_1


@dataclass(frozen=True)
class Repeat:
    """Scores in percent of the four models of one seed."""

    validation: float  # MAP@R, mean of the models
    map_at_r: float  # the same on test classes
    precision_at_1: float
    joint_map_at_r: float  # of the embeddings of the four models, concatenated
    joint_precision_at_1: float

    @classmethod
    def of(cls, models: Sequence[tuple[float, Tensor]], labels: Tensor) -> "Repeat":
        """Score the validation scores and the test embeddings (N, d) of each fold's model."""
        validation = float(np.mean([score for score, _ in models]))
        alone = np.mean([_score(embeddings, labels) for _, embeddings in models], axis=0)
        joint = torch.cat([nn.functional.normalize(embeddings, dim=1) for _, embeddings in models], dim=1)
        alone_map, alone_p1 = alone.tolist()
        return cls(validation, alone_map, alone_p1, *_score(nn.functional.normalize(joint, dim=1), labels))


def starts(data: FeatureSet) -> Iterator[tuple[str, Repeat]]:
    """Score the features as they are, and the layers before the first step."""
    features, heads = [], []
    for fold in range(4):
        train, validation = data.fold(fold)
        features.append((_score(nn.functional.normalize(validation.x, dim=1), validation.y)[0], data.test.x))
        head = closed_form_head(train.x, train.y, DIM, "whitening", NORMALIZED_LENGTH, "auto")
        held_out, test = ((part.x.double() @ head.weight.T + head.bias).float() for part in (validation, data.test))
        heads.append((_score(held_out, validation.y)[0], test))
    normalized = [(score, nn.functional.normalize(x, dim=1)) for score, x in features]
    yield f"features, {data.x.shape[1]:,}-D", Repeat.of(normalized, data.test.y)
    yield "closed form", Repeat.of(heads, data.test.y)


def repeat(data: FeatureSet, loss: str, method: str, rate: float, seed: int) -> Repeat:
    """Train the four models of a seed, and score them."""
    return Repeat.of([train_head(data, loss, method, rate, fold, seed) for fold in range(4)], data.test.y)


def search(data: FeatureSet, loss: str, method: str) -> float:
    """Return the learning rate with the best validation MAP@R in two folds; a best one at the end is not the end."""

    def score(rate: float) -> float:
        return float(np.mean([train_head(data, loss, method, rate, fold, SEARCH_SEED)[0] for fold in (0, 2)]))

    found = {rate: score(rate) for rate in RATES}
    while (best := max(found, key=lambda rate: found[rate])) in (min(found), max(found)):
        rate = float(f"{best * (0.3 if best == min(found) else 3.33):.0e}")
        found[rate] = score(rate)
    return best


def title(loss: str, method: str) -> str:
    """Return the name of a row."""
    return "-".join(filter(None, (LOSSES[loss].title, METHODS[method].title)))


def measure(data: FeatureSet, seeds: int, out: Path) -> None:
    """Train what is not yet in ``out``, a file of JSON lines, and append it row by row."""
    done = {line["row"] for line in map(json.loads, out.read_text().splitlines())} if out.exists() else set()
    for loss, method in ROWS:
        name, started = title(loss, method), time.perf_counter()
        if name in done:
            continue
        rate = search(data, loss, method)
        repeats = [vars(repeat(data, loss, method, rate, seed)) for seed in range(seeds)]
        with out.open("a") as file:
            print(json.dumps({"row": name, "rate": rate, "repeats": repeats}), file=file)
        print(f"{data.name}: {name}, rate {rate:g}, {time.perf_counter() - started:.0f} s", flush=True)


def table(data: FeatureSet, out: Path) -> Iterator[str]:
    """Return the lines of the table: mean and standard deviation over seeds, and the paired test against plain."""
    yield "| row | rate | validation | 128-D MAP@R | 128-D P@1 | 512-D MAP@R | gain over plain, 128-D | won | p |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, scores in starts(data):
        values = (scores.validation, scores.map_at_r, scores.precision_at_1, scores.joint_map_at_r)
        yield f"| {name} | | {' | '.join(f'{value:.2f}' for value in values)} | | | |"
    rows = {line["row"]: line for line in map(json.loads, out.read_text().splitlines())}
    for name, row in rows.items():
        columns = {key: [repeat[key] for repeat in row["repeats"]] for key in row["repeats"][0]}
        shown = ("validation", "map_at_r", "precision_at_1", "joint_map_at_r")
        cells = [_cell(Spread.of(columns[key])) for key in shown]
        plain, gain = name.partition("-")[0], " | | "
        if plain != name and plain in rows:
            found = Gain.of(plain, columns["map_at_r"], [r["map_at_r"] for r in rows[plain]["repeats"]])
            gain = f"{found.mean:+.2f} | {found.won} of {found.count} | {'' if found.p is None else f'{found.p:.4f}'}"
        yield f"| {name} | {row['rate']:g} | {' | '.join(cells)} | {gain} |"


def _cell(spread: Spread) -> str:
    return f"{spread.mean:.2f}" + (f" ± {spread.std:.2f}" if spread.std is not None else "")


def main() -> None:
    """Train all rows of each file, and print its table; a second call goes on with what is missing."""
    parser = argparse.ArgumentParser(description="Train embedding layers on frozen features.")
    parser.add_argument("features", nargs="+", type=Path, help="files that ccpml embed wrote")
    parser.add_argument("--test-classes", default="", help="shell patterns, separated by commas; by default half")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for path in arguments.features:
        data, out = FeatureSet.read(path, arguments.test_classes), path.with_suffix(".heads.jsonl")
        print(f"{data.name}: {len(data.x):,} images, {int(data.is_test.sum())} test classes of {len(data.is_test)}")
        measure(data, arguments.seeds, out)
        print("\n".join(table(data, out)), flush=True)


if __name__ == "__main__":
    main()

"""One experiment: everything that makes a run what it is. Imports no torch, so that the command line starts at once."""

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ccpml.runs.presets import load_preset

__all__ = ["LOSS_PARAMETERS", "PAIR_LOSSES", "Experiment"]

LOSS_PARAMETERS: dict[str, tuple[str, ...]] = {
    "contrastive": ("pos_margin", "neg_margin"),
    "cosine_contrastive": ("margin",),
    "triplet": ("margin",),
    "multi_similarity": ("alpha", "beta", "base"),
    "proxy_anchor": ("margin", "alpha"),
    "proxy_nca": ("temperature",),
    "soft_triple": ("scale", "gamma", "tau", "margin", "centers_per_class"),
    "arcface": ("margin", "scale"),
    "subcenter_arcface": ("margin", "scale", "centers_per_class"),
}
PAIR_LOSSES = ("contrastive", "cosine_contrastive", "triplet", "multi_similarity")
"""Those that CCP and XBM wrap; the others have proxies of their own."""


@dataclass(frozen=True)
class Experiment:
    """Train an embedding on some classes and score it on others.

    A value of null (None) stands for what suits the data, the backbone or the loss; a run's ``experiment.yaml`` holds
    the values that were taken. For cub, cars196, sop and inshop those are the paper's.

    Args:
        data: glyphs (comes with the package), cub, cars196, sop, inshop (below data_root), folder:<path> (a class is a
            leaf folder), or csv:<file> (columns path,label[,split[,role]]).
        data_root: Where cub, cars196, sop and inshop lie as they were unpacked; null is $CCPML_DATA.
        allow_partial: Whether a benchmark may have other numbers of images and classes than the published ones.
        method: ccp; xbm (cross-batch memory); or plain: the loss alone, within the batch.
        loss: contrastive (C2), cosine_contrastive (C1), triplet, multi_similarity; or, with method plain, a rival with
            proxies of its own: proxy_anchor, proxy_nca (ProxyNCA++), soft_triple, arcface, subcenter_arcface.
        pos_margin: m⁺ of contrastive, a distance.
        neg_margin: m⁻ of contrastive, a distance.
        margin: Of cosine_contrastive (an inner product), triplet (a distance), proxy_anchor and soft_triple (δ),
            arcface and subcenter_arcface (an angle in radians).
        alpha: α of multi_similarity and proxy_anchor.
        beta: β of multi_similarity.
        base: λ of multi_similarity.
        temperature: Of proxy_nca.
        scale: λ of soft_triple, s of arcface and subcenter_arcface.
        gamma: γ of soft_triple.
        tau: τ of soft_triple.
        centers_per_class: Proxies per class of soft_triple and subcenter_arcface.
        proxies_per_class: K of CCP.
        class_rate: Of CCP's classes, the share with whose proxies a step compares (at least as many as there are images
            in the batch); below 1 for very many classes.
        pool_size: b, the images of a class among which CCP chooses proxies.
        memory_batches: Batches that the memory of xbm holds.
        memory_start: Steps until xbm compares with its memory.
        proxy_lr_factor: The learning rate of a loss's own proxies is that of the network times this.
        warmup_epochs: Passes through the training images in which the embedding layer and the proxies alone learn.
        pair_weight: Weight of the loss within the batch.
        proxy_weight: Weight of the loss against the proxies.
        strength: λ, of the pull towards the last instance's solution.
        decay: The strength in instance k is λ · decay^k.
        instance_patience: Validations without improvement until an instance has converged.
        min_delta: By how much a score must exceed the instance's best.
        pool_transform: Whether the pool is seen through the transform of training or of evaluation.
        center_space: Whether k-centre works on raw embeddings or after the Lipschitz normalisation.
        rewind: Whether an instance starts from the best weights of the one before.
        reset_proxy_state: Whether the optimiser's state of the proxies is dropped at each projection.
        test_classes: Shell patterns of the test classes, separated by commas, such as 'Korean/*,Greek/*'; null is
            the data's own split, or else the second half of the classes.
        folds: Contiguous parts into which the other classes are cut, one of which validates.
        fold: That part, from 0; null is the data's own validation classes, or else part 0.
        skip_bad_images: Whether images that cannot be read are left out, rather than an error.
        backbone: small_conv, bn_inception, resnet50, or timm:<name>.
        embedding_dim: d.
        pooling: avg, max, or avg+max.
        weights: What the backbone starts from: imagenet (from the hub cache, or downloaded), a file (.safetensors,
            .pth: a published checkpoint, or checkpoints/best.safetensors of a run), or none.
        freeze_batchnorm: Whether BatchNorm keeps its statistics, scales and shifts.
        channels: 1 for grey, 3 for colour; null is grey where all images are and the backbone can.
        image_size: Side of the images that the network sees.
        augment: paper (crops of 16-100 % and flips), mild (crops of 70-100 %), or none.
        classes_per_batch: P.
        samples_per_class: Images of each of them.
        lr: Learning rate.
        lr_schedule: constant, or plateau: a tenth after ten validations without improvement.
        weight_decay: Weight decay.
        clip_norm: Largest norm of all gradients together.
        max_steps: Optimiser steps, rounded up to a whole number of validations.
        validate_every: Steps between validations.
        patience: Validations without improvement of the run's best until it stops.
        score_last: Whether the test scores of the last weights are reported too, beside those of the best.
        seed: Of everything random.
        device: auto, cpu, cuda, cuda:1, mps ...
        ranks: Processes that train together, each on a device of its own (CPU processes, without one) and with its
            share of the classes of a batch. Where torchrun starts them, its number holds.
        precision: 32-true, 64-true, bf16-mixed or 16-mixed.
        channels_last: Whether images lie in memory pixel by pixel, which most convolutions are faster with.
        compile: Whether the network is compiled by torch.compile, for which a CPU needs a C++ compiler.
        threads: CPU threads; null leaves the choice to torch. Results are equal bit for bit for equal threads.
        workers: Processes that read images; null is 0 for images in memory, else 2.
    """

    data: str = "glyphs"
    data_root: str | None = None
    allow_partial: bool = False
    method: Literal["ccp", "xbm", "plain"] = "ccp"
    loss: Literal[
        "contrastive",
        "cosine_contrastive",
        "triplet",
        "multi_similarity",
        "proxy_anchor",
        "proxy_nca",
        "soft_triple",
        "arcface",
        "subcenter_arcface",
    ] = "contrastive"
    pos_margin: float | None = None
    neg_margin: float | None = None
    margin: float | None = None
    alpha: float | None = None
    beta: float | None = None
    base: float | None = None
    temperature: float | None = None
    scale: float | None = None
    gamma: float | None = None
    tau: float | None = None
    centers_per_class: int | None = None
    proxies_per_class: int | None = None
    class_rate: float = 1.0
    pool_size: int | None = None
    memory_batches: int | None = None
    memory_start: int = 1000
    proxy_lr_factor: float | None = None
    warmup_epochs: int | None = None
    pair_weight: float = 0.1
    proxy_weight: float = 1.0
    strength: float = 2e-4
    decay: float = 1.0
    instance_patience: int = 3
    min_delta: float = 1e-5
    pool_transform: Literal["train", "eval"] = "train"
    center_space: Literal["raw", "lipschitz"] = "raw"
    rewind: bool = False
    reset_proxy_state: bool = False
    test_classes: str | list[str] | None = None
    folds: int = 4
    fold: int | None = None
    skip_bad_images: bool = False
    backbone: str | None = None
    embedding_dim: int = 128
    pooling: Literal["avg", "max", "avg+max"] = "avg"
    weights: str | None = None
    freeze_batchnorm: bool | None = None
    channels: Literal[1, 3] | None = None
    image_size: int | None = None
    augment: Literal["paper", "mild", "none"] | None = None
    classes_per_batch: int | None = None
    samples_per_class: int | None = None
    lr: float | None = None
    lr_schedule: Literal["constant", "plateau"] = "constant"
    weight_decay: float = 1e-4
    clip_norm: float = 10.0
    max_steps: int | None = None
    validate_every: int | None = None
    patience: int = 60
    score_last: bool = False
    seed: int = 0
    device: str = "auto"
    ranks: int = 1
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        self._check_loss_parameters()
        self._check_names()
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        for name in ("lr", "clip_norm", "decay", "proxy_lr_factor"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        for name in _AT_LEAST_ZERO:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        if not 0 < self.class_rate <= 1:
            raise ValueError(f"class_rate: expected a share above 0 and up to 1, got {self.class_rate}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed: expected 0..2147483647, got {self.seed}")
        if self.method == "ccp" and (self.proxies_per_class or 0) > (self.pool_size or math.inf):
            raise ValueError(
                f"proxies_per_class: expected at most pool_size = {self.pool_size}, got {self.proxies_per_class}"
            )

    def _check_names(self) -> None:
        if self.folds < 2 or not 0 <= (self.fold or 0) < self.folds:
            raise ValueError(
                f"folds, fold: expected two folds or more, and one of them, got {self.folds} and {self.fold}"
            )
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError(f"device: expected auto, cpu, cuda, cuda:<number> or mps, got {self.device!r}")
        if self.ranks > 1 and ":" in self.device:
            raise ValueError(f"device: {self.device} is one device, and each of ranks = {self.ranks} needs its own")
        if self.backbone is not None and not re.fullmatch(r"small_conv|bn_inception|resnet50|timm:.+", self.backbone):
            raise ValueError(
                f"backbone: expected small_conv, bn_inception, resnet50 or timm:<name>, got {self.backbone!r}"
            )
        if self.test_patterns() == []:
            raise ValueError("test_classes: expected patterns such as 'Korean/*', got none")

    def _check_loss_parameters(self) -> None:
        if self.method != "plain" and self.loss not in PAIR_LOSSES:
            raise ValueError(f"method: {self.loss} has proxies of its own; train it with method plain")
        takes = LOSS_PARAMETERS[self.loss]
        for loss, parameters in LOSS_PARAMETERS.items():
            for name in parameters:
                value = getattr(self, name)
                if value is not None and name not in takes:
                    raise ValueError(f"{name}: is of the loss {loss}; {self.loss} takes {', '.join(takes)}")
                if value is not None and not math.isfinite(value):
                    raise ValueError(f"{name}: expected a finite number, got {value}")
                if value is not None and name in _ABOVE_ZERO and value <= 0:
                    raise ValueError(f"{name}: expected a number above 0, got {value}")

    def resolved(self) -> "Experiment":
        """Fill in what suits the data, the backbone and the loss where a value is None.

        Raises:
            ValueError: If a value that was given does not go with one that was filled in.
        """
        preset = load_preset(self.data)
        suits: dict[str, Any] = {**_RIVAL_BATCHES} if self.loss not in PAIR_LOSSES else {**_PAIR_BATCHES}
        suits |= preset["settings"]
        backbone = self.backbone or suits["backbone"]
        if backbone != suits["backbone"] and backbone == "small_conv":
            suits["weights"] = "none"  # there are none for it
        suits |= _SMALL_CONV if backbone == "small_conv" else _PRETRAINED
        if backbone.startswith("timm:"):
            suits["image_size"] = 224
        suits |= {**_OTHER_LOSSES, **preset["losses"]}[self.loss]
        return replace(self, **{name: value for name, value in suits.items() if getattr(self, name) is None})

    def loss_parameters(self) -> dict[str, float]:
        """Give the loss's own parameters by name."""
        resolved = self.resolved()
        return {name: getattr(resolved, name) for name in LOSS_PARAMETERS[self.loss]}

    def test_patterns(self) -> list[str] | None:
        """Give the patterns of the test classes one by one."""
        if isinstance(self.test_classes, str):
            return [pattern.strip() for pattern in self.test_classes.split(",") if pattern.strip()]
        return self.test_classes

    def as_dict(self) -> dict[str, Any]:
        """Give all fields by name, for YAML."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


_AT_LEAST_ONE = (
    *("proxies_per_class", "pool_size", "instance_patience", "embedding_dim", "image_size", "classes_per_batch"),
    *("ranks", "samples_per_class", "max_steps", "validate_every", "patience", "threads", "memory_batches"),
    "centers_per_class",
)
_AT_LEAST_ZERO = (
    *("weight_decay", "strength", "min_delta", "pair_weight", "proxy_weight", "workers", "memory_start"),
    "warmup_epochs",
)
_ABOVE_ZERO = {"alpha", "beta", "temperature", "scale", "gamma"}

# A small network from scratch, and the paper's settings for a pretrained one.
_SMALL_CONV = {"lr": 1e-3, "image_size": 32, "augment": "mild", "freeze_batchnorm": False, "max_steps": 1500}
_PRETRAINED = {"lr": 1e-5, "image_size": 227, "augment": "paper", "freeze_batchnorm": True, "max_steps": 150_000}

# Pair losses need positives in the batch; losses with proxies of their own do not, and learn those proxies faster.
_PAIR_BATCHES = {"classes_per_batch": 8, "samples_per_class": 4, "proxy_lr_factor": 1.0, "warmup_epochs": 0}
_RIVAL_BATCHES = {"classes_per_batch": 32, "samples_per_class": 1, "proxy_lr_factor": 100.0, "warmup_epochs": 1}

# Losses of which the paper gives no parameters: those of their own papers.
_OTHER_LOSSES: dict[str, dict[str, float]] = {
    "arcface": {"margin": 0.5, "scale": 64.0},
    "subcenter_arcface": {"margin": 0.5, "scale": 64.0, "centers_per_class": 3},
}

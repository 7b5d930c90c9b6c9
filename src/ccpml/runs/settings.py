"""The settings of a run. Imports no torch, so that the command line starts at once."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, Self, get_type_hints

from ccpml.backbones import find_backbone
from ccpml.losses import LOSSES, METHODS, find_loss, parameter_names
from ccpml.numbers import is_one_of, plain_number
from ccpml.options import ProjectionOptions
from ccpml.runs.defaults import FOLDS, Choice, DataFacts, choose
from ccpml.runs.loggers.names import logger_names
from ccpml.runs.ranges import check_ranges, check_types, without_removed

__all__ = ["ResolvedSettings", "Settings", "setting_types"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run: train an embedding on some classes, score it on others.

    A value of null (None) stands for the value that suits the images, the machine, the backbone or the loss; `resolved`
    fills it in by the rules in `ccpml.runs.defaults`. For cub, cars196, sop and inshop that is the paper's.

    Args:
        data: Images, such as groceries (built in), cub (below data_root), folder:<path> (each folder below it that
            holds images is a class), or csv:<file> (columns path,label[,split[,role]]).
        data_root: Folder of cub, cars196, sop and inshop as they were unpacked; null is $CCPML_DATA.
        allow_partial: Whether to accept an incomplete copy of a benchmark.
        method: ccp; xbm (cross-batch memory); or plain: the loss alone, within the batch.
        loss: Loss, such as triplet or proxy_anchor; losses that have proxies of their own take method plain.
        loss_parameters: Parameters of the loss by name; those not given have the values of the table of losses.
        projections: Options of the alternating projections of CCP.
        proxies_per_class: Proxies per class of CCP (K).
        nearest_positives: Proxies of its class, the nearest, that a sample is pulled to (n); all: each of the K.
        class_rate: Fraction of the classes whose proxies a step of CCP compares with (never fewer classes than images
            in the batch); below 1 for very many classes.
        shard_proxies: Whether to shard the proxies over ranks by class.
        pool_size: b, the images of a class among which CCP chooses proxies.
        memory_batches: Batches in the memory of xbm.
        memory_start: Steps before xbm compares with its memory; the paper's 1,000, or memory_batches in fine-tuning,
            and at most two thirds of the budget.
        proxy_lr_factor: Learning rate of the proxies, as a multiple of the network's.
        warmup_epochs: Passes through the training images in which only the embedding layer and the proxies learn; 1 for
            losses that have proxies of their own, unless that is more than half of the training.
        pair_weight: Weight of the loss within the batch; 0.1 on the paper's benchmarks, 1 elsewhere.
        proxy_weight: Weight of the loss against the proxies.
        pool_transform: Whether the pool uses the transform of training or of evaluation.
        test_classes: Shell patterns of the test classes, separated by commas, such as 'Korean/*,Greek/*'; null is
            the data's own split, or else the second half of the classes.
        folds: Contiguous parts into which the other classes are cut, one of which validates; 4, fewer if there are
            fewer than 8 such classes.
        fold: Validation fold, from 0; auto: the data's own validation classes, or fold 0.
        skip_bad_images: Whether to skip unreadable images instead of raising an error.
        backbone: Backbone, such as efficientnet_lite0 (photographs), small_conv (small gray pictures) or timm:<name>.
        embedding_dim: Embedding dimension (d).
        head_start: Start of the embedding layer: whitening (PCA, then whitening of the within-class scatter) or pca, in
            closed form from features of the training images; identity: the features as they are, of which embedding_dim
            must be the number; random.
        pooling: avg, max, or avg+max.
        weights: Initial weights of the backbone: imagenet (from an installed package, the hub cache, or downloaded), a
            file (.safetensors, .pth: a published checkpoint, or checkpoints/best.safetensors of a run), or none.
        freeze_batchnorm: Whether BatchNorm keeps its statistics, scales and shifts.
        trained_stages: Number of stages of the backbone that are trained, from the last; all; 0 trains the embedding
            layer alone.
        channels: 1 for gray, 3 for color; auto is gray if all images are and the backbone supports it.
        image_size: Side of the images that the network sees.
        augment: paper (crops of 16-100 % and flips), mild (crops of 70-100 %), or none.
        classes_per_batch: Classes per batch (P).
        samples_per_class: Images per class in a batch.
        lr: Learning rate.
        lr_schedule: constant; or plateau: a tenth after ten validations without improvement.
        head_lr_factor: Learning rate of the embedding layer, as a multiple of the backbone's.
        weight_decay: Weight decay.
        clip_norm: Maximum global gradient norm.
        epochs: Passes through the training images, instead of max_steps.
        max_steps: Optimizer steps, rounded up to a whole number of validations; 0 scores the start.
        validate_every: Steps between validations.
        patience: Validations without improvement of the run's best score after which it stops.
        score_last: Whether to also report test scores of the final weights.
        logger: Where the course of training is logged, besides metrics.csv: some of tensorboard, csv, wandb and mlflow,
            separated by commas; or none.
        seed: Random seed.
        device: auto, cpu, cuda, cuda:1, mps ...
        ranks: Processes that train together, each on its own device (CPU processes if there is none) with its share
            of the classes of a batch. Under torchrun, its own number of processes is used.
        precision: 32-true, 64-true, bf16-mixed or 16-mixed.
        channels_last: Whether images are stored channels last, which is faster for most convolutions.
        compile: Whether torch.compile compiles the network; on a CPU it needs a C++ compiler.
        threads: CPU threads; auto: torch's choice. Results are bitwise reproducible for a fixed number of threads.
        workers: Processes that read images; auto is 0 for images in memory, else 2.

    Raises:
        ValueError: If a value is of another type or out of range, or values contradict each other.

    Example:
        >>> Settings(loss="triplet").resolved().loss_parameters
        {'margin': 0.0961}
    """

    data: str = "glyphs"
    data_root: str | None = None
    allow_partial: bool = False
    method: Literal["ccp", "xbm", "plain"] = "ccp"
    loss: str = "multi_similarity"
    loss_parameters: dict[str, float] = field(default_factory=dict)
    projections: ProjectionOptions = field(default_factory=ProjectionOptions)
    proxies_per_class: int | None = None
    nearest_positives: int | Literal["all"] | None = None
    class_rate: float = 1.0
    shard_proxies: bool = False
    pool_size: int | None = None
    memory_batches: int | None = None
    memory_start: int | None = None
    proxy_lr_factor: float | None = None
    warmup_epochs: int | None = None
    pair_weight: float | None = None
    proxy_weight: float = 1.0
    pool_transform: Literal["train", "eval"] = "train"
    test_classes: str | list[str] | None = None
    folds: int | None = None
    fold: int | Literal["auto"] = "auto"
    skip_bad_images: bool = False
    backbone: str | None = None
    embedding_dim: int = 128
    head_start: Literal["whitening", "pca", "identity", "random"] | None = None
    pooling: Literal["avg", "max", "avg+max"] = "avg"
    weights: str | None = None
    freeze_batchnorm: bool | None = None
    trained_stages: int | Literal["all"] | None = None
    channels: Literal[1, 3, "auto"] = "auto"
    image_size: int | None = None
    augment: Literal["paper", "mild", "none"] | None = None
    classes_per_batch: int | None = None
    samples_per_class: int | None = None
    lr: float | None = None
    lr_schedule: Literal["constant", "plateau"] | None = None
    head_lr_factor: float | None = None
    weight_decay: float = 1e-4
    clip_norm: float = 10.0
    epochs: float | None = None
    max_steps: int | None = None
    validate_every: int | None = None
    patience: int = 60
    score_last: bool = False
    logger: str | list[str] = "tensorboard"
    seed: int = 0
    device: str = "auto"
    ranks: int = 1
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = False
    compile: bool = False
    threads: int | Literal["auto"] = "auto"
    workers: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.projections, ProjectionOptions):
            raise ValueError(f"projections: expected ProjectionOptions, got {self.projections!r}")
        if not isinstance(self.loss_parameters, Mapping):
            raise ValueError(f"loss_parameters: expected numbers by name, got {self.loss_parameters!r}")
        for each in fields(self):
            object.__setattr__(self, each.name, plain_number(getattr(self, each.name)))
        parameters = {name: plain_number(value) for name, value in self.loss_parameters.items()}
        object.__setattr__(self, "loss_parameters", parameters)
        self._check_loss()
        object.__setattr__(self, "logger", ",".join(logger_names(self.logger)) or "none")
        check_ranges(vars(self))
        check_types(vars(self), _types())
        if self.backbone is not None:
            find_backbone(self.backbone)
        if self.epochs is not None and self.max_steps is not None:
            expected = f"expected null with epochs = {self.epochs:g}, got {self.max_steps}"
            raise ValueError(f"max_steps: {expected}; pass one of them")
        folds = self.folds or FOLDS
        if self.fold != "auto" and not 0 <= self.fold < folds:
            expected = f"one of folds = {folds}" if self.folds else f"one of {folds} folds or fewer"
            raise ValueError(f"fold: expected {expected}, 0..{folds - 1}, got {self.fold}")
        if self.ranks > 1 and ":" in self.device:
            raise ValueError(f"device: expected a kind of device, for {self.ranks} ranks, got {self.device}")
        if self.shard_proxies and (self.method != "ccp" or self.ranks == 1):
            raise ValueError(
                f"shard_proxies: expected method ccp and at least 2 ranks, got method {self.method} and "
                f"ranks {self.ranks}; under torchrun, set ranks to the number of its processes"
            )
        if isinstance(self.test_classes, str) and not self.test_patterns():
            raise ValueError("test_classes: expected patterns such as 'Korean/*', got none")
        if self.method == "ccp" and (self.proxies_per_class or 0) > (self.pool_size or math.inf):
            raise ValueError(
                f"proxies_per_class: expected at most pool_size = {self.pool_size}, got {self.proxies_per_class}"
            )

    def _check_loss(self) -> None:
        object.__setattr__(self, "loss", find_loss(self.loss))  # the full name of a short one
        if not is_one_of(self.method, METHODS):
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        entry = LOSSES[self.loss]
        if self.method not in entry.methods:
            expected = f"expected plain for {self.loss}, which has proxies of its own"
            raise ValueError(f"method: {expected}, got {self.method}")
        for name, others in (("samples_per_class", "pairs of a class"), ("classes_per_batch", "pairs of two classes")):
            value = getattr(self, name)
            if isinstance(value, int) and value == 1 and self.method == "plain" and not entry.has_proxies:
                expected = f"expected at least 2, as {self.loss} alone learns from {others} in the batch, got 1"
                raise ValueError(f"{name}: {expected}; method ccp and losses that have proxies take 1")
        for name, value in self.loss_parameters.items():
            if name not in entry.parameters:
                owners = ", ".join(parameter_names().get(name, ()))
                expected = f"expected a parameter of {self.loss} ({', '.join(entry.parameters)})"
                raise ValueError(f"{name}: {expected}, got {f'one of {owners}' if owners else 'an unknown name'}")
            entry.parameters[name].check(name, value)

    def loggers(self) -> tuple[str, ...]:
        """Return the names of the loggers."""
        return logger_names(self.logger)

    def test_patterns(self) -> list[str]:
        """Return the shell patterns of the test classes; empty for the data's own split."""
        if isinstance(self.test_classes, str):
            return [pattern.strip() for pattern in self.test_classes.split(",") if pattern.strip()]
        return [str(pattern) for pattern in self.test_classes or []]  # NumPy's texts are no YAML

    def choices(self, facts: DataFacts | None = None) -> list[Choice]:
        """Return the settings that are chosen because they were left open, with the reasons."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return choose({**own, _WARM_START: self.projections.warm_start}, facts or DataFacts())

    def resolved(self, facts: DataFacts | None = None) -> "ResolvedSettings":
        """Return the settings with nothing left open.

        Args:
            facts: Facts about the images; None are those of many small gray images.

        Raises:
            ValueError: If a given value contradicts one that was filled in.
        """
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        for choice in self.choices(facts):
            own |= choice.settings
        own["projections"] = replace(self.projections, warm_start=own.pop(_WARM_START, self.projections.warm_start))
        own["loss_parameters"] = {**LOSSES[self.loss].defaults_for(self.data), **self.loss_parameters}
        return ResolvedSettings(**{**own, "epochs": None, "test_classes": self.test_patterns()})

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return the settings with some changed, by the names of `setting_types`.

        Example:
            >>> Settings(loss="triplet").changed({"margin": 0.2, "projections.patience": 5}).projections.patience
            5
        """
        own: dict[str, Any] = {}
        parameters, options = dict(self.loss_parameters), dict[str, Any]()
        for name, value in changes.items():
            if name in parameter_names():
                parameters[name] = value
            elif name.startswith("projections."):
                options[name.removeprefix("projections.")] = value
            else:
                own[name] = value
        if "loss" in own and own["loss"] != self.loss:
            parameters = {name: value for name, value in parameters.items() if name in changes}
        if options:
            own["projections"] = _projections(options, self.projections)
        return replace(self, **{"loss_parameters": parameters, **own})

    def as_dict(self) -> dict[str, Any]:
        """Return all settings by name as plain values, as in ``experiment.yaml``: parameters of the loss are flat."""
        values: dict[str, Any] = {}
        for name, value in asdict(self).items():
            values |= value if name == "loss_parameters" else {name: value}
        return values

    def flat(self) -> dict[str, Any]:
        """Return all settings as `as_dict` does, by the names of `setting_types`."""
        values = self.as_dict()
        options = values.pop("projections")
        return {**values, **{f"projections.{name}": value for name, value in options.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings that `as_dict` gave.

        Raises:
            ValueError: If a name or a value is not that of a setting.
        """
        known, values = {each.name for each in fields(cls)}, without_removed(values)
        own = {name: value for name, value in values.items() if name in known}
        parameters = {name: value for name, value in values.items() if name not in known and name in parameter_names()}
        unknown = sorted(str(name) for name in values.keys() - own.keys() - parameters.keys())
        if unknown:
            raise ValueError(f"unknown settings, perhaps of another version of ccpml: {', '.join(unknown)}")
        if "projections" in own:
            own["projections"] = _projections(own["projections"])
        return cls(**{"loss_parameters": {n: v for n, v in parameters.items() if v is not None}, **own})


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(Settings):
    """Settings with nothing left open: no value is None, but ``epochs``, which ``max_steps`` replaces.

    No ``test_classes`` stands for the data's own split.

    Raises:
        ValueError: If a value is None, or as for `Settings`.
    """

    data_root: str
    proxies_per_class: int
    pair_weight: float
    nearest_positives: int | Literal["all"]
    pool_size: int
    memory_batches: int
    memory_start: int
    proxy_lr_factor: float
    warmup_epochs: int
    folds: int
    backbone: str
    head_start: Literal["whitening", "pca", "identity", "random"]
    weights: str
    freeze_batchnorm: bool
    trained_stages: int | Literal["all"]
    image_size: int
    augment: Literal["paper", "mild", "none"]
    classes_per_batch: int
    samples_per_class: int
    lr: float
    lr_schedule: Literal["constant", "plateau"]
    head_lr_factor: float
    epochs: None = None
    max_steps: int
    validate_every: int
    test_classes: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in fields(self):
            if getattr(self, each.name) is None and each.name != "epochs":
                raise ValueError(f"{each.name}: expected a value, got none")

    @property
    def batch_size(self) -> int:
        """Images of a training batch."""
        return self.classes_per_batch * self.samples_per_class

    @property
    def total_steps(self) -> int:
        """Optimizer steps of a whole number of validations."""
        return math.ceil(self.max_steps / self.validate_every) * self.validate_every


@cache
def _types() -> dict[str, Any]:
    """Return the types of the fields of `Settings` that have no check of their own."""
    types = get_type_hints(Settings)
    del types["projections"], types["loss_parameters"]
    return types


def setting_types() -> dict[str, Any]:
    """Return the type of each setting by its flat name: parameters of losses and ``projections.<option>`` included.

    Example:
        >>> types = setting_types()
        >>> types["projections.patience"], types["neg_margin"]
        (<class 'int'>, <class 'float'>)
    """
    types = dict(_types())
    for entry in LOSSES.values():
        types |= {name: int if parameter.whole else float for name, parameter in entry.parameters.items()}
    return types | {f"projections.{name}": hint for name, hint in get_type_hints(ProjectionOptions).items()}


def _projections(values: Any, base: ProjectionOptions | None = None) -> ProjectionOptions:
    """Return options of the projections with some changed; errors name them as settings."""
    if not isinstance(values, Mapping):
        raise ValueError(f"projections: expected options by name, got {values!r}")
    for name in values.keys() - {each.name for each in fields(ProjectionOptions)}:
        raise ValueError(f"unknown settings: projections.{name}")
    try:
        return replace(base or ProjectionOptions(), **values)
    except ValueError as error:
        raise ValueError(f"projections.{error}") from error


_WARM_START = "projections.warm_start"

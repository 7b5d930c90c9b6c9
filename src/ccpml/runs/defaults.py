"""What suits the data: the rules by which settings that are left open are chosen. Imports no torch.

A rule sees the settings chosen so far and the facts of the images, and yields settings with the reason. Settings that
were given are never changed. Rules are applied in the order of `_RULES`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ccpml.backbones import find_backbone
from ccpml.data_name import BENCHMARKS
from ccpml.losses import LOSSES
from ccpml.numbers import counted
from ccpml.presets import load_preset

__all__ = [
    "FOLDS",
    "RUN_SETTINGS",
    "SATURATED",
    "Choice",
    "DataFacts",
    "choose",
    "fitting_folds",
    "is_saturated",
    "notes",
    "passes",
]

PHOTO_BACKBONE: Final = "efficientnet_lite0"
"""Its ImageNet weights need no network, and it is fast on a CPU."""

SMALL_GRAY: Final = 128
"""Largest shorter side, in pixels, of gray pictures such as characters, for which `small_conv` is enough."""

SMALL_SIDE: Final = 64
"""Shorter side, in pixels, below which a pretrained backbone sees an enlarged picture of few details."""

LARGE: Final = 20_000_000
"""Pixels of a picture that is slow to decode."""

MIN_CLASSES: Final = 4
"""Smallest number of classes for training and validation together, and of validation classes to choose by."""

_METHOD: Final = ("proxies_per_class", "nearest_positives", "pool_size", "memory_batches")

RUN_SETTINGS: Final = (
    *("classes_per_batch", "samples_per_class", "proxy_lr_factor", "warmup_epochs", "memory_start", *_METHOD),
)
"""Settings whose default depends on the loss, the method, or another setting that rows and trials may vary."""

SATURATED: Final = "the validation classes are told apart without error, so that they cannot choose the best weights"
"""The note on a run whose validation is saturated."""

FOLDS: Final = 4
"""Folds, unless there are too few classes. Source: Musgrave et al., ECCV 2020."""

_SATURATED: Final = 0.995  # MAP@R
_VALIDATIONS: Final = 25  # in a budget

# Pair losses need positives in the batch; losses that have proxies do not, and learn their proxies faster.
_PAIR_LOSS = {"classes_per_batch": 8, "samples_per_class": 4, "proxy_lr_factor": 1.0}
_PROXY_LOSS = {"classes_per_batch": 32, "samples_per_class": 1, "proxy_lr_factor": 100.0}

_CONSTANT: Final = {"lr_schedule": "constant", "head_lr_factor": 1.0}

# Gürbüz et al., WACV 2024, Section 5.
_PAPER: Final = {
    **{"lr": 1e-5, "max_steps": 150_000, "augment": "paper", "image_size": 227},
    **{"freeze_batchnorm": True, "trained_stages": "all", **_CONSTANT},
}
_FINE_TUNING: Final = {"lr": 1e-4, "augment": "paper"}


# Of 8, 4, 5 and a number that depends on the network.
_CPU_STAGES: Final = {PHOTO_BACKBONE: 4, "bn_inception": 2, "resnet50": 2, "timm": 2}


class _Budget(NamedTuple):
    """Passes through the training images, and the least and the most steps that they come to."""

    passes: float
    least: int
    most: int


# A step of 32 images of 160 pixels takes about a second on two cores when four stages are trained.
_CPU: Final = _Budget(20, 200, 500)
_GPU: Final = _Budget(40, 400, 10_000)
_FROM_NOTHING: Final = _Budget(100, 1_500, 100_000)


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Facts about the images and the machine that settings are chosen from.

    The defaults describe many small gray pictures on a CPU, and stand for data that have not been read.

    Attributes:
        color: Whether any image has color.
        side: Median shorter side, in pixels.
        classes: Number of classes that are not for testing.
        train_classes: Number of training classes.
        train_images: Number of training images.
        smallest_class: Images of the training class that has the fewest.
        validation_classes: Number of validation classes.
        validation_images: Number of validation images.
        own_validation: Whether the data come with validation classes of their own.
        gpu: Whether training runs on an accelerator.
        looked_at: Number of images whose headers were read, of which ``gray`` are gray, ``small`` have a shorter side
            below `SMALL_SIDE`, and ``large`` have more than `LARGE` pixels.
        dark: A note about images of 16 bits that look dark or black; empty if there are none.
        digest: Digest of the names of all classes and images, which chooses nothing; empty if they are not known.
    """

    color: bool = False
    side: int = 32
    classes: int = 400
    train_classes: int = 300
    train_images: int = 4_800
    smallest_class: int = 16
    validation_classes: int = 100
    validation_images: int = 1_600
    own_validation: bool = False
    gpu: bool = False
    looked_at: int = 0
    gray: int = 0
    small: int = 0
    large: int = 0
    dark: str = ""
    digest: str = ""


class Choice(NamedTuple):
    """Settings that were chosen together, and why; no reason stands for the values of the paper or the loss."""

    settings: dict[str, Any]
    why: str = ""

    def __str__(self) -> str:
        values = ", ".join(f"{name} {_text(value)}" for name, value in self.settings.items())
        return f"{values}: {self.why}" if self.why else values


Rule = Callable[[Mapping[str, Any], DataFacts], Iterator[Choice]]


def choose(given: Mapping[str, Any], facts: DataFacts) -> list[Choice]:
    """Choose the settings that are None in ``given``, in the order in which they depend on each other.

    Example:
        >>> photos = DataFacts(color=True, side=400)
        >>> from ccpml.runs.settings import Settings
        >>> choices = choose(vars(Settings(data="folder:photos")), photos)
        >>> print(*(choice for choice in choices if "backbone" in choice.settings))
        backbone efficientnet_lite0: photographs in color
    """
    settings, choices = dict(given), []
    for rule in _RULES:
        for choice in rule(settings, facts):
            values = {name: value for name, value in choice.settings.items() if settings.get(name) is None}
            settings |= values
            if values:
                choices.append(Choice(values, choice.why))
    return choices


def fitting_folds(classes: int) -> int:
    """Return the number of folds of some classes: four, fewer if a fold would have fewer than two classes.

    Example:
        >>> fitting_folds(100), fitting_folds(6), fitting_folds(4)
        (4, 3, 2)
    """
    return max(2, min(FOLDS, classes // 2))


def passes(steps: int, batch_size: int, images: int) -> float:
    """Return the passes through the training images in some steps."""
    return steps * batch_size / images


def notes(settings: Mapping[str, Any], facts: DataFacts) -> list[str]:
    """Return what is unusual about the images or the resolved settings, one sentence each."""
    found, seen = [], f"{counted(facts.looked_at, 'image')} looked at"
    if facts.color and facts.gray:
        found.append(f"gray: {facts.gray:,} of {seen}; read as color")
    if facts.dark:
        found.append(facts.dark)
    if facts.large:
        found.append(f"more than 20 megapixels: {facts.large:,} of {seen}; `ccpml data cache` writes smaller copies")
    if facts.small and settings["image_size"] >= SMALL_SIDE:
        enlarged = f"enlarged to {settings['image_size']}"
        found.append(f"smaller than {SMALL_SIDE} pixels: {facts.small:,} of {seen}; {enlarged}")
    if facts.validation_classes < MIN_CLASSES:
        found.append(
            f"validation has {counted(facts.validation_classes, 'class')}, too few to choose the best weights by; "
            f"at least {MIN_CLASSES} are better"
        )
    if not _is_pretrained(settings):
        if settings["freeze_batchnorm"]:
            found.append("freeze_batchnorm true with weights none: BatchNorm keeps mean 0 and variance 1")
        if settings["trained_stages"] != "all":
            found.append(f"trained_stages {settings['trained_stages']} with weights none: the others stay random")
    elif not settings["freeze_batchnorm"] and settings["data"] in BENCHMARKS:
        found.append("freeze_batchnorm false: the paper freezes every BatchNorm")
    return found


def is_saturated(scores: Mapping[str, Any]) -> bool:
    """Whether the best validation score of a finished run leaves nothing to improve."""
    return bool(scores["validation"]["map_at_r"] > _SATURATED)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _is_pretrained(settings: Mapping[str, Any]) -> bool:
    return bool(settings["weights"] != "none")


def _batch_size(settings: Mapping[str, Any]) -> int:
    size: int = settings["classes_per_batch"] * settings["samples_per_class"]
    return size


def _has_paper(settings: Mapping[str, Any]) -> bool:
    """Whether the paper's settings hold: on its benchmarks, but for a backbone that is meant for other budgets."""
    return settings["data"] in BENCHMARKS and settings["backbone"] != PHOTO_BACKBONE


def _loss(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """A batch that suits the loss, has no more classes than there are, and as many on each rank."""
    suits = dict(_PROXY_LOSS if LOSSES[settings["loss"]].has_proxies else _PAIR_LOSS)
    ranks, most = settings["ranks"], facts.train_classes
    fitting = max(ranks, min(suits["classes_per_batch"], most) // ranks * ranks)
    if fitting != suits["classes_per_batch"] and 2 <= fitting <= most:
        few = suits["classes_per_batch"] > most
        yield Choice(
            {"classes_per_batch": fitting},
            f"there are {most} training classes" if few else f"each of {ranks} ranks has as many",
        )
    yield Choice(suits)


def _folds(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    folds = fitting_folds(facts.classes)
    if folds < FOLDS and not facts.own_validation:
        yield Choice({"folds": folds}, f"two or more of the {facts.classes} classes that are not for testing in each")
    yield Choice({"folds": folds})


def _data(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """Settings of the methods: the paper's for its benchmarks, CUB's elsewhere."""
    preset = load_preset(settings["data"])["settings"]
    if settings["data"] in BENCHMARKS:
        yield Choice({"backbone": preset["backbone"]}, f"the paper's for {settings['data']}, as all its settings")
    yield Choice({name: preset[name] for name in _METHOD})
    paper = {"pair_weight": 0.1, "projections.warm_start": "never"}
    yield Choice(paper if settings["data"] in BENCHMARKS else {"pair_weight": 1.0, "projections.warm_start": "auto"})
    yield Choice({"data_root": ""})


def _backbone(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    pictures = f"gray pictures with a median shorter side of {facts.side:,} pixels"
    if settings["weights"] == "imagenet":
        yield Choice({"backbone": PHOTO_BACKBONE}, "it has ImageNet weights")
    elif facts.color or facts.side > SMALL_GRAY:
        yield Choice({"backbone": PHOTO_BACKBONE}, "photographs in color" if facts.color else pictures)
    else:
        yield Choice({"backbone": "small_conv"}, pictures)


def _weights(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """Published weights wherever there are any."""
    published = bool(find_backbone(settings["backbone"]).imagenet)
    yield Choice({"weights": "imagenet" if published else "none"})


def _epochs(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    if settings["epochs"] is not None:
        steps = max(1, round(settings["epochs"] * facts.train_images / _batch_size(settings)))
        yield Choice({"max_steps": steps}, f"epochs {settings['epochs']:g} of {facts.train_images:,} images")


def _paper(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    if _has_paper(settings):
        yield Choice({"validate_every": load_preset(settings["data"])["settings"]["validate_every"]})
        yield Choice({"head_start": "random"})
        if _is_pretrained(settings):
            yield Choice(dict(find_backbone(settings["backbone"]).settings))
            yield Choice(_PAPER, "the paper's")


def _from_nothing(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """All of a network without pretrained weights is trained, statistics of BatchNorm included."""
    entry = find_backbone(settings["backbone"])
    if not entry.imagenet or not _is_pretrained(settings):
        yield Choice({"head_start": "random"})
    if not entry.imagenet:
        yield Choice(dict(entry.settings), "a small network, all of which is trained")
        yield Choice({"validate_every": max(1, min(25, settings["max_steps"] // 20))})
    elif not _is_pretrained(settings):
        yield from _sizes(settings, facts)
        yield Choice({"freeze_batchnorm": False, "lr": 1e-3}, "random weights have to be trained, statistics included")
        yield from _budget(_FROM_NOTHING, settings, facts)
    if not entry.imagenet or not _is_pretrained(settings):
        yield Choice({"freeze_batchnorm": False, "trained_stages": "all", "augment": "paper"})
        yield Choice(_CONSTANT)


def _fine_tuning(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    entry = find_backbone(settings["backbone"])
    yield from _sizes(settings, facts)
    yield Choice({"freeze_batchnorm": True}, "batches are too small for statistics of their own")
    if facts.gpu:
        yield Choice({"trained_stages": "all"}, "a GPU has time for all of them")
    else:
        stages = _CPU_STAGES.get(settings["backbone"].partition(":")[0], "all")
        yield Choice({"trained_stages": stages}, "the last ones; all would take several times as long on a CPU")
    if entry.variants:
        yield Choice({"lr": 3e-5}, "transformers need a lower one than convolutional networks")
    yield Choice({"head_start": "whitening"}, "pretrained features tell classes apart")
    if settings["head_start"] in ("whitening", "pca"):
        yield Choice({"head_lr_factor": 0.1}, "an embedding layer in closed form is near its optimum")
    yield Choice(_FINE_TUNING, "fine-tuning of pretrained weights")
    yield Choice(_CONSTANT)
    yield from _budget(_GPU if facts.gpu else _CPU, settings, facts)


def _sizes(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """Sizes that the backbone asks for, else a multiple of 32 that neither the files nor the machine exceed by far."""
    yield Choice(dict(find_backbone(settings["backbone"]).settings))
    most, machine = (224, "a GPU") if facts.gpu else (160, "a CPU")
    size = max(SMALL_SIDE, min(most, 2 * facts.side)) // 32 * 32
    reason = "twice the files at most" if size > SMALL_SIDE else "the least that suits a pretrained network"
    reason = f"the most on {machine}" if size == most else reason
    yield Choice({"image_size": size}, f"{reason}; the median shorter side of the files is {facts.side:,} pixels")


def _budget(budget: _Budget, settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    wanted = budget.passes * facts.train_images / _batch_size(settings)
    steps = round(min(max(wanted, budget.least), budget.most))
    count = passes(steps, _batch_size(settings), facts.train_images)
    bound = {budget.least: "; no fewer steps", budget.most: "; no more steps, so that it ends"}.get(steps, "")
    yield Choice({"max_steps": steps}, f"{count:.3g} passes through {facts.train_images:,} training images{bound}")


def _validations(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """About as many validations as curves and instances need, unless they would take longer than the training.

    An image is embedded in about a third of the time of a training step. Each validation also embeds training images.
    """
    steps = settings["max_steps"]
    embedded = facts.validation_images + min(facts.train_images, 256)
    affordable = 3 * steps * _batch_size(settings) / embedded
    every = max(1, round(steps / min(_VALIDATIONS, max(5, affordable))))
    yield Choice({"validate_every": every}, counted(math.ceil(steps / every), "validation") if steps else "")


def _memory(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """XBM compares with its memory after 1,000 steps in the paper, sooner in a smaller budget or with good features."""
    start, reason = 1000, ""
    if _is_pretrained(settings) and not _has_paper(settings):
        start = settings["memory_batches"]
        reason = "the memory is full; pretrained features need no other wait" if settings["method"] == "xbm" else ""
    yield Choice({"memory_start": min(start, settings["max_steps"] * 2 // 3)}, reason)


def _warmup(settings: Mapping[str, Any], facts: DataFacts) -> Iterator[Choice]:
    """The paper's pass in which proxies of the loss learn first, unless that takes most of a small budget."""
    if not LOSSES[settings["loss"]].has_proxies:
        yield Choice({"warmup_epochs": 0})
    elif passes(settings["max_steps"], _batch_size(settings), facts.train_images) < 2:
        yield Choice({"warmup_epochs": 0}, "a pass through the training images is more than half of the budget")
    yield Choice({"warmup_epochs": 1})


_RULES: tuple[Rule, ...] = (
    *(_loss, _folds, _data, _backbone, _weights, _epochs),
    *(_paper, _from_nothing, _fine_tuning, _validations, _memory, _warmup),
)

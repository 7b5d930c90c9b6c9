"""The table of losses: one entry per loss, read by everything that lists losses. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "LOSSES",
    "METHODS",
    "LossEntry",
    "Method",
    "Parameter",
    "find_loss",
    "known_losses",
    "parameter_names",
    "without_effect",
]


@dataclass(frozen=True)
class Parameter:
    """A number that a loss takes."""

    description: str  # its symbol and unit
    above: float = -math.inf  # exclusive lower bound
    least: float = -math.inf  # inclusive lower bound
    below: float = math.inf  # exclusive upper bound
    whole: bool = False  # whether it is an integer

    def check(self, name: str, value: float) -> None:
        """Raise ValueError unless ``value`` is finite and in range."""
        typed = isinstance(value, int) if self.whole else isinstance(value, int | float) and math.isfinite(value)
        if typed and value > self.above and self.least <= value < self.below:
            return
        bounds = [f"> {self.above:g}"] if self.above > -math.inf else []
        bounds += [f">= {self.least:g}"] if self.least > -math.inf else []
        bounds += [f"< {self.below:.6g}"] if self.below < math.inf else []
        expected = " ".join(["an integer" if self.whole else "a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class LossEntry:
    """What the product knows about a loss beside its equation.

    Args:
        title: Name in tables, as in the paper.
        description: Name in reports.
        path: Import path of its class, which takes the parameters by name; a loss that has proxies also takes
            ``num_classes`` and ``embedding_dim``.
        parameters: Its parameters by name.
        defaults: Their values, unless the data set has its own.
        data_defaults: Values per data set, by the names of the benchmarks.
        short_name: A second name on the command line.
        has_proxies: Whether it trains proxies of its own. The others are pair losses, which CCP and XBM wrap.
    """

    title: str
    description: str
    path: str
    parameters: Mapping[str, Parameter]
    defaults: Mapping[str, float]
    data_defaults: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    short_name: str = ""
    has_proxies: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that can train it."""
        return ("plain",) if self.has_proxies else tuple(METHODS)

    def describe_method(self, method: str) -> str:
        """Return how a method trains it, for reports.

        Example:
            >>> LOSSES["triplet"].describe_method("xbm"), LOSSES["arcface"].describe_method("plain")
            ('cross-batch memory (XBM)', 'with proxies of its own')
        """
        return "with proxies of its own" if self.has_proxies else METHODS[method].description

    def defaults_for(self, data: str) -> dict[str, float]:
        """Return the values of all parameters on a data set."""
        return {**self.defaults, **self.data_defaults.get(data, {})}


@dataclass(frozen=True)
class Method:
    """A way to train a pair loss."""

    title: str  # name in tables; empty for the loss alone
    description: str  # name in reports
    settings: str = ""  # what reports say of its settings, a format string with their names
    has_projections: bool = False  # whether it solves a sequence of problem instances with a projection after each
    own_settings: tuple[str, ...] = ()  # settings that have an effect with this method only, besides ``projections``


METHODS: dict[str, Method] = {
    "ccp": Method(
        "CCP",
        "chance-constrained proxies (CCP)",
        "K = {proxies_per_class} proxies per class from b = {pool_size} samples, "
        "nearest positives: {nearest_positives}, λ = {projections.strength:g}",
        has_projections=True,
        own_settings=(
            *("proxies_per_class", "pool_size", "nearest_positives", "class_rate", "pair_weight", "proxy_weight"),
            "pool_transform",
        ),
    ),
    "xbm": Method(
        "XBM",
        "cross-batch memory (XBM)",
        "{memory_batches} batches in the memory, used after step {memory_start:,}",
        own_settings=("memory_batches", "memory_start"),
    ),
    "plain": Method("", "pairs within the batch only"),
}

_CENTERS = Parameter("K, proxies per class", least=1, whole=True)
_ANGLE = Parameter("m, an angle in radians", least=0, below=math.pi)

# Values: Gürbüz et al., WACV 2024, supplement; CUB's serve for all other data. (Sub-center) ArcFace: their own papers.
LOSSES: dict[str, LossEntry] = {
    "contrastive": LossEntry(
        title="C2",
        short_name="c2",
        description="contrastive with positive margin (C2)",
        path="ccpml.method.ContrastiveLoss",
        parameters={"pos_margin": Parameter("m⁺, a distance"), "neg_margin": Parameter("m⁻, a distance")},
        defaults={"pos_margin": 0.0, "neg_margin": 0.3841},
        data_defaults={
            "cars196": {"pos_margin": 0.2652, "neg_margin": 0.5409},
            "inshop": {"pos_margin": 0.2858, "neg_margin": 0.5130},
            "sop": {"pos_margin": 0.2858, "neg_margin": 0.5130},
        },
    ),
    "cosine_contrastive": LossEntry(
        title="C1",
        short_name="c1",
        description="contrastive on cosine (C1)",
        path="ccpml.method.CosineContrastiveLoss",
        parameters={"margin": Parameter("m, an inner product")},
        defaults={"margin": 0.5},
    ),
    "triplet": LossEntry(
        title="Triplet",
        description="triplet",
        path="ccpml.method.TripletMarginLoss",
        parameters={"margin": Parameter("m, a distance")},
        defaults={"margin": 0.0961},
        data_defaults={"cars196": {"margin": 0.1190}, "inshop": {"margin": 0.0451}, "sop": {"margin": 0.0451}},
    ),
    "multi_similarity": LossEntry(
        title="MS",
        short_name="ms",
        description="multi-similarity (MS)",
        path="ccpml.method.MultiSimilarityLoss",
        parameters={
            "alpha": Parameter("α, sharpness on positives", above=0),
            "beta": Parameter("β, sharpness on negatives", above=0),
            "base": Parameter("λ, an inner product"),
        },
        defaults={"alpha": 2.0, "beta": 40.0, "base": 0.5},
        data_defaults={
            "cars196": {"alpha": 14.35, "beta": 75.83, "base": 0.66},
            "inshop": {"alpha": 8.49, "beta": 57.38, "base": 0.41},
        },
    ),
    "proxy_anchor": LossEntry(
        title="ProxyAnchor",
        description="ProxyAnchor",
        path="ccpml.baselines.ProxyAnchorLoss",
        parameters={"margin": Parameter("δ, a cosine"), "alpha": Parameter("α, the scale", above=0)},
        defaults={"margin": 0.1, "alpha": 32.0},
        has_proxies=True,
    ),
    "proxy_nca": LossEntry(
        title="ProxyNCA++",
        description="ProxyNCA++",
        path="ccpml.baselines.ProxyNCALoss",
        parameters={"temperature": Parameter("the temperature of the softmax", above=0)},
        defaults={"temperature": 0.1},
        has_proxies=True,
    ),
    "soft_triple": LossEntry(
        title="SoftTriple",
        description="SoftTriple",
        path="ccpml.baselines.SoftTripleLoss",
        parameters={
            "scale": Parameter("λ, the scale", above=0),
            "gamma": Parameter("γ, the temperature within a class", above=0),
            "tau": Parameter("τ, the weight of the regularizer", least=0),
            "margin": Parameter("δ, a cosine"),
            "centers_per_class": _CENTERS,
        },
        defaults={"scale": 20.0, "gamma": 0.1, "tau": 0.2, "margin": 0.01, "centers_per_class": 10},
        data_defaults={
            "cars196": {"scale": 17.69, "gamma": 19.18, "tau": 0.0669, "margin": 0.3588},
            "inshop": {"centers_per_class": 2},
            "sop": {"scale": 100.0, "gamma": 47.9, "margin": 0.3145, "centers_per_class": 2},
        },
        has_proxies=True,
    ),
    "arcface": LossEntry(
        title="ArcFace",
        description="ArcFace",
        path="ccpml.baselines.ArcFaceLoss",
        parameters={"margin": _ANGLE, "scale": Parameter("s, the scale", above=0)},
        defaults={"margin": 0.5, "scale": 64.0},
        has_proxies=True,
    ),
    "subcenter_arcface": LossEntry(
        title="SubCenter-ArcFace",
        description="SubCenter-ArcFace",
        path="ccpml.baselines.SubCenterArcFaceLoss",
        parameters={"margin": _ANGLE, "scale": Parameter("s, the scale", above=0), "centers_per_class": _CENTERS},
        defaults={"margin": 0.5, "scale": 64.0, "centers_per_class": 3},
        has_proxies=True,
    ),
}


def parameter_names() -> dict[str, list[str]]:
    """Return the losses that take each parameter, by its name.

    Example:
        >>> parameter_names()["alpha"]
        ['multi_similarity', 'proxy_anchor']
    """
    names: dict[str, list[str]] = {}
    for loss, entry in LOSSES.items():
        for name in entry.parameters:
            names.setdefault(name, []).append(loss)
    return names


def without_effect(name: str, method: str, loss: str) -> str:
    """Return with which method or loss a setting is without effect; empty if it has one.

    Example:
        >>> without_effect("memory_start", "ccp", "triplet"), without_effect("memory_start", "xbm", "triplet")
        ('with method ccp, only with xbm', '')
    """
    for owner, facts in METHODS.items():
        own = name in facts.own_settings or (facts.has_projections and name.startswith("projections."))
        if own and method != owner:
            return f"with method {method}, only with {owner}"
    losses = parameter_names().get(name, [])
    if losses and loss not in losses:
        return f"on {loss}, only on {', '.join(losses)}"
    if name == "proxy_lr_factor" and method != "ccp" and not LOSSES[loss].has_proxies:
        return f"on {loss} with method {method}, which has no proxies"
    return ""


def known_losses() -> str:
    """Return the names of all losses, with their short names, for messages.

    Example:
        >>> known_losses()[:48]
        'contrastive (c2), cosine_contrastive (c1), tripl'
    """
    return ", ".join(f"{name} ({loss.short_name})" if loss.short_name else name for name, loss in LOSSES.items())


def find_loss(name: str) -> str:
    """Return the full name of a loss, given that or its short name.

    Raises:
        ValueError: If there is no such loss.

    Example:
        >>> find_loss("c2")
        'contrastive'
    """
    for full, entry in LOSSES.items() if isinstance(name, str) else ():  # not a loss itself
        if name == full or (entry.short_name and name.lower() == entry.short_name):
            return full
    raise ValueError(f"loss: expected one of {known_losses()}, got {name!r}")

"""The embedding model: backbone → pooling → linear → embedding."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from ccpml.numbers import as_int, as_tuple, check_flags, is_finite
from ccpml.pairwise.inputs import describe

__all__ = ["Backbone", "EmbeddingModel", "InputConvention", "Pooling", "StagedBackbone", "freeze_batchnorm"]

Pooling = Literal["avg", "max", "avg+max"]

_OVERSHOOT: Final = 0.5  # of resizing and noise

_REQUIRED: Final = ("convention", "out_channels")
"""Attributes of a backbone."""


@dataclass(frozen=True)
class InputConvention:
    """Format of the images that a backbone is trained on."""

    channels: int  # 1 (gray) or 3
    image_size: int  # side of the images
    scale: float = 1.0  # factor from [0, 1] to the range of the backbone
    mean: tuple[float, ...] = (0.5,)  # subtracted from each channel after scaling
    std: tuple[float, ...] = (0.25,)  # divides each channel after that
    bgr: bool = False  # whether the channels are blue, green, red; mean and std are then in that order

    def __post_init__(self) -> None:
        check_flags(bgr=self.bgr)
        for name in ("mean", "std"):
            values = as_tuple(name, getattr(self, name), "a number for each channel")
            if len(values) not in {1, self.channels} or not all(map(is_finite, values)):
                raise ValueError(f"{name}: expected 1 or {self.channels} finite numbers, got {values}")


class Backbone(nn.Module):
    """Network from normalized images (B, C, H, W) to features (B, F, h, w)."""

    convention: InputConvention
    out_channels: int  # F

    def stages(self) -> list[nn.Module]:
        """Return the parts from input to output, with all parameters between them; the last ones can be trained alone.

        A backbone that does not override this method has one part.
        """
        return [self]

    def convert_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the names of a published file of weights to those of the layers; unknown names are kept."""
        return dict(tensors)


class StagedBackbone(Backbone):
    """Backbone that computes one stage after the other, so that features of frozen stages can be kept."""

    def run_stage(self, index: int, features: Tensor) -> Tensor:
        """Compute the stage of that number in `stages` from the features before it, or from images."""
        raise NotImplementedError  # abstract: each network has its own

    def forward(self, images: Tensor) -> Tensor:
        """Compute features (B, F, h, w) of normalized images (B, C, H, W)."""
        return self.run_stages(images)

    def run_stages(self, features: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Compute the stages from ``first`` until before ``last``, or all that follow; none changes its input."""
        for index in range(first, len(self.stages()) if last is None else last):
            features = self.run_stage(index, features)
        return features


def freeze_batchnorm(module: nn.Module) -> None:
    """Freeze every BatchNorm: its statistics are not updated, its weights and biases not trained.

    A later ``module.train()`` resumes the updates of statistics; `EmbeddingModel` with ``freeze_batchnorm=True`` keeps
    them frozen.

    Example:
        >>> norm = nn.BatchNorm2d(3)
        >>> freeze_batchnorm(norm)
        >>> norm.training, norm.weight.requires_grad
        (False, False)
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: expected a module, got {module!r}")
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval().requires_grad_(False)


class EmbeddingModel(nn.Module):
    """Map images to embeddings, which are not normalized.

    Losses and evaluation normalize; proxies live in the space before normalization. The model takes images as they are
    read and converts them to the input format of its backbone.

    Args:
        backbone: Network from images to features, with the attributes of a `Backbone`.
        embedding_dim: Number of dimensions d of an embedding.
        pooling: Global average, global maximum, or the sum of both.
        freeze_batchnorm: Whether every BatchNorm stays frozen, in training too.
        bias: Whether the linear layer has a bias, as [`start_head`][ccpml.start_head] needs it.
        trained_stages: Number of stages of the backbone that are trained, from the last; 0 trains the linear layer
            alone. The stages before stay in eval mode, and no graph is built for them. To train stage i later, call
            ``model.backbone.stages()[i].requires_grad_()`` and ``model.train()``, and add its weights to the optimizer.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from ccpml.models import SmallConv
        >>> model = EmbeddingModel(SmallConv(channels=1), embedding_dim=16)
        >>> model(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 16])

    Source: Gürbüz et al., WACV 2024, Section 5; Musgrave et al., ECCV 2020.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        embedding_dim: int = 128,
        pooling: Pooling = "avg",
        freeze_batchnorm: bool = False,
        bias: bool = False,
        trained_stages: int | Literal["all"] = "all",
    ) -> None:
        super().__init__()
        check_flags(freeze_batchnorm=freeze_batchnorm, bias=bias)
        if not (isinstance(backbone, nn.Module) and all(hasattr(backbone, name) for name in _REQUIRED)):
            got = type(backbone).__name__
            raise ValueError(f"backbone: expected a Backbone of ccpml, got {got}; see docs/extend.md on other networks")
        if not isinstance(pooling, str) or pooling not in {"avg", "max", "avg+max"}:
            raise ValueError(f"pooling: expected 'avg', 'max' or 'avg+max', got {pooling!r}")
        embedding_dim = as_int("embedding_dim", embedding_dim, 1)
        self.backbone = backbone
        self.pooling = pooling
        self.linear = nn.Linear(backbone.out_channels, embedding_dim, bias=bias)
        self.frozen_batchnorm = freeze_batchnorm
        self.frozen_stages = _num_frozen(backbone, trained_stages)  # the first ones
        self.register_buffer("mean", torch.empty(0), persistent=False)
        self.register_buffer("std", torch.empty(0), persistent=False)
        _set_constants(self)
        self.register_load_state_dict_post_hook(_set_constants)  # type: ignore[no-untyped-call]  # torch's is untyped
        if self.frozen_stages:
            for stage in backbone.stages()[: self.frozen_stages]:
                stage.requires_grad_(False)
        if freeze_batchnorm or self.frozen_stages:
            self.train()

    @classmethod
    def from_pretrained(cls, name: Path | str, revision: str | None = None) -> "EmbeddingModel":
        """Load an exported model, in eval mode on the CPU; see ``docs/export.md``.

        Embeddings are not normalized; [`lipschitz_normalize`][ccpml.lipschitz_normalize] of them are those of the run.

        Args:
            name: A folder or a ``.safetensors`` file that ``ccpml export`` wrote; if neither exists, ``user/name`` of
                a model on the Hugging Face hub, which is downloaded once (needs the extra ``hub``).
            revision: Branch, tag or commit on the hub; None is the default branch. Files have none.

        Raises:
            FileNotFoundError: If nothing of that name exists.
            ImportError: If the model is on the hub, and huggingface_hub is not installed.
            ValueError: If the files are damaged or of another program, cannot be downloaded, or are here and have no
                ``revision``.

        Example:
            ```python
            model = EmbeddingModel.from_pretrained("runs/photos/export/photos")
            embeddings = lipschitz_normalize(model(images))  # images: uint8, (B, 3, 160, 160)
            ```
        """
        from ccpml.models.pretrained import load_pretrained

        return load_pretrained(name, revision)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images (B, C, H, W), RGB or gray, uint8 or floating point in [0, 1]: embeddings (B, d).

        Raises:
            ValueError: On a wrong shape or dtype, of the images or of the features of the backbone.
        """
        embeddings: Tensor = self.linear(self.pooled(images))
        return embeddings

    def pooled(self, images: Tensor) -> Tensor:
        """Return the features that the linear layer receives, (B, F), of images as in `forward`."""
        return self._pool(self.backbone(self._normalize(images)))

    def embed_frozen(self, features: Tensor) -> Tensor:
        """Embed what `frozen_features` returned: embeddings (B, d), equal to those of the images bit for bit."""
        assert isinstance(self.backbone, StagedBackbone)
        embeddings: Tensor = self.linear(self._pool(self.backbone.run_stages(features, first=self.frozen_stages)))
        return embeddings

    def frozen_features(self, images: Tensor) -> Tensor:
        """Return what the frozen stages of a `StagedBackbone` make of images as in `forward`: (B, c, h, w)."""
        assert isinstance(self.backbone, StagedBackbone)
        return self.backbone.run_stages(self._normalize(images), last=self.frozen_stages)

    def _pool(self, features: Tensor) -> Tensor:
        """Pool features (B, F, h, w) over positions: (B, F)."""
        expected = self.backbone.out_channels
        if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[1] != expected:
            raise ValueError(f"backbone: expected features (B, {expected}, h, w), got {describe(features)}")
        if self.pooling == "avg":
            return features.mean((2, 3))
        maximum = features.amax((2, 3))
        return maximum if self.pooling == "max" else features.mean((2, 3)) + maximum

    def train(self, mode: bool = True) -> "EmbeddingModel":
        """Set the training mode; a frozen BatchNorm, and frozen stages without a weight to train, stay in eval mode."""
        super().train(mode)
        if self.frozen_stages:
            for stage in self.backbone.stages()[: self.frozen_stages]:
                if not any(weight.requires_grad for weight in stage.parameters()):
                    stage.eval()
        if self.frozen_batchnorm:
            freeze_batchnorm(self)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EmbeddingModel":
        """Change all tensors, as ``to`` does; the constants are set again, since ``to_empty`` drops their values."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's is untyped
        _set_constants(self)
        return self

    def _normalize(self, images: Tensor) -> Tensor:
        convention = self.backbone.convention
        channels = convention.channels
        fits = isinstance(images, Tensor) and images.ndim == 4
        fits = fits and images.shape[1] in (1, channels)  # not a set: sizes that are traced have no hash
        if not fits or not (images.dtype == torch.uint8 or images.is_floating_point()):
            expected = f"uint8 or floating point (B, {channels}, H, W)"
            raise ValueError(f"images: expected {expected}, got {describe(images)}")
        if images.dtype == torch.uint8:  # one copy, then in place: allocation is the cost
            images = images.to(self.mean.dtype).div_(255)
        else:
            _check_range(images)
            images = images.to(self.mean.dtype, copy=True)
        if convention.scale != 1:
            images = images.mul_(convention.scale)
        if images.shape[1] < channels:
            images = images.repeat(1, channels, 1, 1)
        if convention.bgr:
            images = images.flip(1)
        return images.sub_(self.mean).div_(self.std)


def _check_range(images: Tensor) -> None:
    """Warn of floating-point images far out of [0, 1]; on an accelerator, and in a graph, nothing is checked."""
    in_graph = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    in_graph = in_graph or torch._C._are_functorch_transforms_active()
    if images.device.type != "cpu" or in_graph or not images.numel():
        return
    low, high = (float(value) for value in images.detach().aminmax())
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        way_out = "divide by 255, or pass uint8" if low >= 0 else "leave out Normalize, as the model has its own"
        warnings.warn(f"images: expected values in [0, 1], got {low:.3g} to {high:.3g}; {way_out}", stacklevel=2)


def _num_frozen(backbone: Backbone, trained_stages: int | Literal["all"]) -> int:
    """Return how many stages before the trained ones there are."""
    if isinstance(trained_stages, str) and trained_stages == "all":
        return 0
    count, trained = len(backbone.stages()), as_int("trained_stages", trained_stages, 0)
    if trained > count:
        raise ValueError(
            f"trained_stages: expected 'all' or at most {count}, the stages of {type(backbone).__name__}, got {trained}"
        )
    return count - trained


def _set_constants(model: nn.Module, incompatible_keys: Any = None) -> None:
    """Set mean and std from the convention of the backbone, on the device and in the dtype of its first weight."""
    assert isinstance(model, EmbeddingModel)
    like = next((weight for weight in model.parameters() if weight.is_floating_point()), model.mean)
    for name in ("mean", "std"):
        values = getattr(model.backbone.convention, name)
        setattr(model, name, torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1))

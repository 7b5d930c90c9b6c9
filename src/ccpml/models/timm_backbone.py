"""Backbones of timm, the library of PyTorch image models."""

from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from ccpml.extras import MissingExtraError, install_advice
from ccpml.models.embedding import Backbone, InputConvention
from ccpml.numbers import check_flags

__all__ = ["TimmBackbone"]


class TimmBackbone(Backbone):
    """A timm model without classifier and pooling, with its own input convention.

    Feature maps (B, F, h, w) are returned unchanged; those of channels-last models, such as Swin, are permuted. Of
    tokens (B, N, F), the class token is returned as (B, F, 1, 1) if the model has one; otherwise the patch tokens are
    returned as (B, F, n, 1), so that the global pooling of the embedding model averages over patches.

    Args:
        name: Name in timm, such as ``resnet50`` or ``vit_small_patch16_224.dino``; see ``timm.list_models()``.
        image_size: Side of the images. Models built for one size, such as most transformers, are built for this one,
            with resampled position embeddings; None is the size of their published weights.
        pretrained: Whether to load the weights that timm publishes under that name, from its cache or downloaded.

    Raises:
        MissingExtraError: If timm is not installed.
        RuntimeError: If timm cannot be imported.
        ValueError: If timm has no such model or weights, cannot return features before pooling, or cannot build the
            model for that size; from ``forward``, if images are not of that size.

    Example:
        ```python
        TimmBackbone("resnet50")(torch.zeros(2, 3, 224, 224)).shape  # (2, 2048, 7, 7)
        TimmBackbone("vit_small_patch16_224", image_size=256).convention.image_size  # 256
        ```
    """

    def __init__(self, name: str, image_size: int | None = None, pretrained: bool = False) -> None:
        super().__init__()
        check_flags(pretrained=pretrained)
        try:
            import timm
            import timm.data
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
            hint = f"{install_advice(['timm'], 'timm')}, with a torchvision built for the same torch"
            is_missing = isinstance(error, ModuleNotFoundError) and error.name == "timm"
            kind = MissingExtraError if is_missing else RuntimeError
            raise kind(f"timm: cannot be imported ({error}); {hint}") from error
        self.name = name
        config = _pretrained_config(timm, name)
        size = {"img_size": image_size} if image_size is not None and config and config.fixed_input_size else {}
        self.model = _create(timm, name, size)
        if size:
            self._check_patches(size["img_size"])
        if pretrained:
            self._load_published(timm, size)
        data = timm.data.resolve_model_data_config(self.model)
        channels, native_size, _ = data["input_size"]
        mean, std = tuple(data["mean"]), tuple(data["std"])
        self.convention = InputConvention(channels, image_size or native_size, mean=mean, std=std)
        self.out_channels = int(getattr(self.model, "head_hidden_size", self.model.num_features))

    def stages(self) -> list[nn.Module]:
        """Return the parts between which timm lets learning rates decay: the stem, and each stage or block."""
        from timm.models import group_parameters

        if not hasattr(self.model, "group_matcher"):
            return [self.model]
        groups: list[set[str]] = []
        for names in group_parameters(self.model, self.model.group_matcher(coarse=True)).values():
            if groups and all(self.model.get_parameter(name).ndim < 2 for name in names):
                groups[-1] |= set(names)  # the norm after the last block is not a stage
            else:
                groups.append(set(names))
        return [nn.ModuleList(_parts(self.model, names)) for names in groups]

    def forward(self, images: Tensor) -> Tensor:
        """Compute features: (B, C, H, W) to (B, F, h, w)."""
        try:
            features: Tensor = self.model(images)
        except AssertionError as error:  # what timm's patch embeddings raise
            size = f"{images.shape[2]} × {images.shape[3]}"
            raise ValueError(f"images: timm's {self.name} does not take {size} ({error}); pass image_size") from error
        if features.ndim == 3:  # tokens (B, N, F)
            has_class = getattr(self.model, "has_class_token", getattr(self.model, "cls_token", None) is not None)
            tokens = features[:, :1] if has_class else features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            return tokens.transpose(1, 2).unsqueeze(3)
        return features if features.shape[1] == self.out_channels else features.permute(0, 3, 1, 2)

    def _load_published(self, timm: Any, size: dict[str, int]) -> None:
        """Load the weights from the complete network that timm publishes, which has a head and its own pooling."""
        try:
            published = timm.create_model(self.name, pretrained=True, **size).state_dict()
        except Exception as error:  # the hub's client may raise anything
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"weights: published weights of timm's {self.name} not found, and the download failed ({reason}); "
                "download them on a machine with a network, or pass a file"
            ) from error
        own = self.model.state_dict()
        missing = [key for key in own if key not in published]
        if missing:
            raise ValueError(
                f"weights: timm's {self.name} has no published {', '.join(missing)}: the published network pools "
                "before its last layers; pass a file that has them, or choose another backbone"
            )
        self.model.load_state_dict({key: published[key] for key in own})

    def _check_patches(self, image_size: int) -> None:
        """Check that the size is a whole number of patches: timm would ignore the last pixels."""
        patch = getattr(getattr(self.model, "patch_embed", None), "feat_ratio", lambda: 1)()
        if image_size % patch:
            below = image_size - image_size % patch
            nearest = f"{below} or {below + patch}" if below else f"{patch}"
            raise ValueError(
                f"image_size: expected a multiple of {patch}, the patch size of timm's {self.name}, got {image_size}; "
                f"nearest: {nearest}"
            )


def _parts(module: nn.Module, names: set[str], prefix: str = "") -> list[nn.Module]:
    """Return the largest submodules that have no other parameters than those named, and a list of loose parameters."""
    loose = [parameter for name, parameter in module.named_parameters(prefix, recurse=False) if name in names]
    parts: list[nn.Module] = [nn.ParameterList(loose)] if loose else []
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        inside = {key for key, _ in child.named_parameters(path)}
        if inside and inside <= names:
            parts.append(child)
        elif inside & names:
            parts += _parts(child, names, path)
    return parts


def _pretrained_config(timm: Any, name: str) -> Any:
    """Return timm's configuration of a model, None if it has no published weights."""
    with suppress(RuntimeError):  # a known model, but an unknown variant
        if timm.is_model(name):
            return timm.get_pretrained_cfg(name)
    close = get_close_matches(name, sorted({*timm.list_models(), *timm.list_models(pretrained=True)}))
    raise ValueError(f"backbone: {name!r} not found in timm; {', '.join(close) or 'timm.list_models() has all names'}")


def _create(timm: Any, name: str, size: dict[str, int]) -> Any:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **size)
    except (AssertionError, TypeError, RuntimeError, ValueError) as error:
        at = f" at image_size {size['img_size']}" if size else ""
        raise ValueError(f"backbone: timm's {name!r} does not return features before pooling{at} ({error})") from error

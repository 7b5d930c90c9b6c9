"""Any backbone of timm, the library of PyTorch image models."""

from difflib import get_close_matches
from typing import Any

from torch import Tensor

from ccpml.models.embedding import Backbone, InputConvention

__all__ = ["TimmBackbone"]


class TimmBackbone(Backbone):
    """A timm model without its classifier and pooling, with its own input convention.

    Feature maps (B, F, h, w) stay as they are; those of channels-last models, such as Swin, are turned round.
    Of tokens (B, N, F) the class token becomes a map (B, F, 1, 1), where the model has one; otherwise the patch tokens
    become a map (B, F, n, 1), so that the global pooling of the embedding model pools over patches.

    Args:
        name: timm's name, such as ``resnet50`` or ``vit_small_patch16_224.dino``; ``timm.list_models()`` has them all.
        image_size: Side of the images. Models that are made for one size, as most transformers, are made for this one,
            their position embeddings resampled; None is the size of their published weights.
        pretrained: Whether to start from the weights that timm publishes under that name, from its own cache or
            downloaded, rather than from random ones.

    Raises:
        RuntimeError: If timm cannot be imported.
        ValueError: If timm has no such model or weights, cannot give its features before pooling, or cannot make it for
            that size; from ``forward``, if images are not of that size.

    Example:
        ```python
        TimmBackbone("resnet50")(torch.zeros(2, 3, 224, 224)).shape  # (2, 2048, 7, 7)
        TimmBackbone("vit_small_patch16_224", image_size=256).convention.image_size  # 256
        ```
    """

    def __init__(self, name: str, image_size: int | None = None, pretrained: bool = False) -> None:
        super().__init__()
        timm = _import_timm()
        self.name = name
        config = _config_of(timm, name)
        size = {"img_size": image_size} if image_size is not None and config and config.fixed_input_size else {}
        self.model = _create(timm, name, size)
        if size:
            self._check_patches(size["img_size"])
        if pretrained:
            self._load_published(timm, size)
        seen = timm.data.resolve_model_data_config(self.model)
        channels, native_size, _ = seen["input_size"]
        mean, std = tuple(seen["mean"]), tuple(seen["std"])
        self.convention = InputConvention(channels, image_size or native_size, mean=mean, std=std)
        self.out_channels = int(getattr(self.model, "head_hidden_size", self.model.num_features))

    def forward(self, images: Tensor) -> Tensor:
        """Compute features: (B, C, H, W) to (B, F, h, w)."""
        try:
            features: Tensor = self.model(images)
        except AssertionError as error:  # what timm's patch embeddings raise
            size = f"{images.shape[2]} × {images.shape[3]}"
            raise ValueError(f"images: timm's {self.name} does not take {size} ({error}): give image_size") from error
        if features.ndim == 3:
            return self._chosen(features).transpose(1, 2).unsqueeze(3)
        return features if features.shape[1] == self.out_channels else features.permute(0, 3, 1, 2)

    def _chosen(self, tokens: Tensor) -> Tensor:
        """Pick the class token, or else all patch tokens: (B, N, F) to (B, n, F)."""
        has_class = getattr(self.model, "has_class_token", getattr(self.model, "cls_token", None) is not None)
        return tokens[:, :1] if has_class else tokens[:, getattr(self.model, "num_prefix_tokens", 0) :]

    def _load_published(self, timm: Any, size: dict[str, int]) -> None:
        """Take the weights from the whole network as timm publishes it: with its head, and its own pooling."""
        try:
            published = timm.create_model(self.name, pretrained=True, **size).state_dict()
        except Exception as error:  # whatever the hub's client raises
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"weights: timm has no published weights of {self.name} at hand, and cannot download them ({reason}); "
                "fetch them once where there is a network, or give a file"
            ) from error
        own = self.model.state_dict()
        missing = [key for key in own if key not in published]
        if missing:
            raise ValueError(
                f"weights: timm's {self.name} has no published {', '.join(missing)}: they are of a network that pools "
                "before its last layers; give a file that has them, or take another backbone"
            )
        self.model.load_state_dict({key: published[key] for key in own})

    def _check_patches(self, image_size: int) -> None:
        """Refuse a size that is no whole number of patches: timm would leave out the last pixels."""
        ratio = getattr(getattr(self.model, "patch_embed", None), "feat_ratio", None)
        patch = ratio() if ratio else 1
        if image_size % patch:
            below = image_size - image_size % patch
            nearest = f"{below} or {below + patch}" if below else f"{patch}"
            raise ValueError(
                f"image_size: timm's {self.name} takes multiples of its patches of {patch}, got {image_size}; "
                f"the nearest: {nearest}"
            )


def _config_of(timm: Any, name: str) -> Any:
    """Look up what timm knows about a model: None for one without published weights."""
    try:
        if timm.is_model(name):
            return timm.get_pretrained_cfg(name)
    except RuntimeError:  # a model that it knows, but not this variant of it
        pass
    close = get_close_matches(name, sorted({*timm.list_models(), *timm.list_models(pretrained=True)}))
    raise ValueError(f"backbone: timm has no model {name!r} ({', '.join(close) or 'timm.list_models() has its names'})")


def _create(timm: Any, name: str, size: dict[str, int]) -> Any:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **size)
    except (AssertionError, TypeError, RuntimeError, ValueError) as error:
        at = f" at image_size {size['img_size']}" if size else ""
        raise ValueError(f"backbone: timm's {name!r} does not give features before pooling{at} ({error})") from error


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise RuntimeError(
            f"timm cannot be imported ({error}): pip install 'ccpml[timm]', with a torchvision built for the same torch"
        ) from error
    return timm

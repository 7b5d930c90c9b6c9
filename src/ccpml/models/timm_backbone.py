"""Any backbone of timm, the library of PyTorch image models."""

from difflib import get_close_matches
from typing import Any

from torch import Tensor

from ccpml.models.embedding import Backbone, InputConvention

__all__ = ["TimmBackbone"]


class TimmBackbone(Backbone):
    """A timm model without its classifier and pooling, its weights random; with its own input convention.

    Feature maps (B, F, h, w) stay as they are; those of channels-last models, such as Swin, are turned round.
    Of tokens (B, N, F) the class token becomes a map (B, F, 1, 1), where the model has one; otherwise the patch tokens
    become a map (B, F, n, 1), so that the global pooling of the embedding model pools over patches.

    Args:
        name: timm's name, such as ``resnet50``; ``timm.list_models()`` has them all.

    Raises:
        RuntimeError: If timm cannot be imported.
        ValueError: If timm has no such model, or cannot give its features before pooling.

    Example:
        ```python
        TimmBackbone("resnet50")(torch.zeros(2, 3, 224, 224)).shape  # (2, 2048, 7, 7)
        ```
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        timm = _import_timm()
        if not timm.is_model(name):
            close = ", ".join(get_close_matches(name, timm.list_models())) or "timm.list_models() has its names"
            raise ValueError(f"backbone: timm has no model {name!r} ({close})")
        try:
            self.model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
        except (AssertionError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"backbone: timm's {name!r} does not give features before pooling ({error})") from error
        config = timm.data.resolve_model_data_config(self.model)
        channels, image_size, _ = config["input_size"]
        self.convention = InputConvention(channels, image_size, mean=tuple(config["mean"]), std=tuple(config["std"]))
        self.out_channels = int(getattr(self.model, "head_hidden_size", self.model.num_features))

    def forward(self, images: Tensor) -> Tensor:
        """Compute features: (B, C, H, W) to (B, F, h, w)."""
        features: Tensor = self.model(images)
        if features.ndim == 3:
            return self._chosen(features).transpose(1, 2).unsqueeze(3)
        return features if features.shape[1] == self.out_channels else features.permute(0, 3, 1, 2)

    def _chosen(self, tokens: Tensor) -> Tensor:
        """Pick the class token, or else all patch tokens: (B, N, F) to (B, n, F)."""
        has_class = getattr(self.model, "has_class_token", getattr(self.model, "cls_token", None) is not None)
        return tokens[:, :1] if has_class else tokens[:, getattr(self.model, "num_prefix_tokens", 0) :]


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise RuntimeError(
            f"timm cannot be imported ({error}): pip install 'ccpml[timm]', with a torchvision built for the same torch"
        ) from error
    return timm

"""Embed the same images after each few steps of a training: frozen stages are computed once."""

import hashlib
from typing import Final

import torch
from torch import Tensor, nn

from ccpml.method.host_counts import version_of
from ccpml.models import EmbeddingModel, StagedBackbone

__all__ = ["RepeatedEmbedding"]

_MAX_BYTES: Final = 256 * 2**20


class RepeatedEmbedding:
    """Embed batches that come again, such as those of a validation, and keep what frozen stages make of them.

    The features are kept by the content of the images, and dropped when a weight of the frozen stages changes, so that
    the embeddings are those of the model bit for bit. On a GPU, in mixed precision, for other backbones than a
    `StagedBackbone`, without frozen stages, and where the model or its backbone has a ``forward`` or hooks of its own,
    or the model ``pooled``, the model is called as it is.

    Args:
        model: The model, called in eval mode and without gradients.
        max_bytes: Bound of the memory for features; batches beyond it are not kept.

    Example:
        >>> from ccpml import create_model
        >>> model = create_model("small_conv", embedding_dim=16, channels=1, trained_stages=2).eval()
        >>> images = torch.rand(2, 1, 32, 32)
        >>> again = RepeatedEmbedding(model)
        >>> with torch.no_grad():
        ...     first, second = again(images), again(images)  # (2, 16) each
        >>> torch.equal(first, second)
        True
    """

    def __init__(self, model: EmbeddingModel, max_bytes: int = _MAX_BYTES) -> None:
        self.model, self.max_bytes = model, max_bytes
        self._features: dict[bytes, Tensor] = {}  # by the digest of a batch, (B, c, h, w) each
        self._bytes = 0
        self._weights: list[tuple[int, int, float]] = []

    def __call__(self, images: Tensor) -> Tensor:
        """Embed images (B, C, H, W): embeddings (B, d)."""
        if not self._applies(images):
            embeddings: Tensor = self.model(images)
            return embeddings
        self._drop_if_changed()
        key = _digest(images)
        features = self._features.get(key)
        if features is None:
            features = self.model.frozen_features(images)
            size = features.numel() * features.element_size()
            if self._bytes + size <= self.max_bytes:
                self._features[key], self._bytes = features, self._bytes + size
        return self.model.embed_frozen(features)

    def _applies(self, images: Tensor) -> bool:
        model = self.model
        return (
            model.frozen_stages > 0
            and isinstance(model.backbone, StagedBackbone)
            and _is_called_alone(model, EmbeddingModel, "forward", "pooled")
            and _is_called_alone(model.backbone, StagedBackbone, "forward")
            and not (model.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
            and images.device.type == "cpu"
        )

    def _drop_if_changed(self) -> None:
        """Drop the features if a weight or a statistic of the frozen stages is another tensor or was written to."""
        stages = self.model.backbone.stages()[: self.model.frozen_stages]
        tensors = [tensor for stage in stages for tensor in (*stage.parameters(), *stage.buffers())]
        sums = [float(tensor.sum(dtype=torch.float64)) for tensor in tensors]  # a write by ``.data`` has no version
        weights = [(one.data_ptr(), version_of(one), total) for one, total in zip(tensors, sums, strict=True)]
        if weights != self._weights:
            self._features.clear()
            self._bytes, self._weights = 0, weights


def _is_called_alone(module: nn.Module, kind: type[nn.Module], *methods: str) -> bool:
    """Whether a call of a module runs the methods of its kind, without hooks, so that their parts can run instead."""
    ours = (getattr(getattr(module, name), "__func__", None) is getattr(kind, name) for name in methods)
    return all(ours) and not (module._forward_hooks or module._forward_pre_hooks)


def _digest(images: Tensor) -> bytes:
    facts = f"{images.dtype} {tuple(images.shape)} {images.is_contiguous()}"
    data = images.contiguous().view(torch.uint8).numpy().data
    return hashlib.blake2b(data, digest_size=32, key=hashlib.sha256(facts.encode()).digest()).digest()

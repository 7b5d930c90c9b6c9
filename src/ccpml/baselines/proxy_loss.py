"""What the losses with proxies of their own share: the proxies, the checks and the precision.

Shapes: B samples (the batch), C classes, K proxies per class, M references, d dimensions.
"""

import torch
from torch import Tensor, nn

from ccpml.method.checks import check_embeddings, check_labels, check_references

__all__ = ["ProxyLoss"]


class ProxyLoss(nn.Module):
    """A loss between the batch and trainable proxies, by cosines.

    The proxies are a parameter of this module, so give it to the optimiser beside the model. They are stored
    un-normalised; each loss compares ℓ₂-normalised vectors. Called like a pair loss, and computed in float32
    (float64 for float64 input), under autocast too. A loss over no terms is 0, with zero gradient.

    Args:
        num_classes: C, the training classes, labelled 0..C − 1.
        embedding_dim: d.
        centers_per_class: K.

    Attributes:
        proxies: A parameter of shape (C, K, d), as `CCPLoss` has it; K = 1 where the loss has one proxy per class.

    Raises:
        ValueError: If a size is not a positive integer.
    """

    takes_references = False

    def __init__(self, num_classes: int, embedding_dim: int, centers_per_class: int = 1) -> None:
        super().__init__()
        shape = {"num_classes": num_classes, "centers_per_class": centers_per_class, "embedding_dim": embedding_dim}
        check_sizes(shape)
        self.proxies = nn.Parameter(torch.empty(tuple(shape.values())))  # (C, K, d)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the proxies anew, as the loss's authors do; each loss defines it."""
        raise NotImplementedError  # abstract: each paper has its own

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            embeddings: The batch, shape (B, d), un-normalised, floating point.
            labels: Its classes, shape (B,), integer in 0..C − 1 (any integers where references are given).
            ref_emb: Vectors that take the place of the proxies, shape (M, d), where the loss is defined for that:
                `ProxyAnchorLoss` and `ProxyNCALoss`.
            ref_labels: Their classes, shape (M,).

        Returns:
            The loss, a scalar tensor in float32 (float64 if the embeddings or the proxies are).

        Raises:
            ValueError: On a wrong shape or dtype, on labels outside 0..C − 1 (on an accelerator these end in a device
                assertion, so that no step waits for the device), or on references that the loss cannot take.
        """
        classes, _, dim = self.proxies.shape
        check_embeddings("embeddings", embeddings, dim=dim)
        check_labels("labels", labels, len(embeddings), num_classes=classes if ref_emb is None else None)
        check_references(ref_emb, ref_labels, dim=dim)
        if ref_emb is not None and not self.takes_references:
            raise ValueError(
                f"ref_emb: {type(self).__name__} compares with its own proxies alone; call it without references"
            )
        proxies = self.proxies.flatten(0, 1) if ref_emb is None else ref_emb  # (C · K, d) or (M, d)
        with torch.autocast(embeddings.device.type, enabled=False):
            double = torch.float64 in {embeddings.dtype, proxies.dtype}
            dtype = torch.float64 if double else torch.float32
            return self.compare(embeddings.to(dtype), labels.long(), proxies.to(dtype), ref_labels)

    def compare(self, x: Tensor, labels: Tensor, proxies: Tensor, proxy_labels: Tensor | None) -> Tensor:
        """Compute the loss; each rival defines it.

        Args:
            x: The batch, shape (B, d), un-normalised.
            labels: Its classes, shape (B,).
            proxies: Un-normalised proxies, class by class, shape (C · K, d), or references in their place.
            proxy_labels: The classes of references; None for the loss's own proxies.
        """
        raise NotImplementedError  # abstract: each rival is its own equation

    def same_class(self, labels: Tensor, proxy_labels: Tensor | None) -> Tensor:
        """Say which proxies are of a sample's class: bool, shape (B, C · K) or (B, M)."""
        if proxy_labels is None:
            classes, per_class, _ = self.proxies.shape
            proxy_labels = torch.arange(classes, device=labels.device).repeat_interleave(per_class)
        return labels[:, None] == proxy_labels

    def extra_repr(self) -> str:
        """Show the parameters in ``repr``."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(
            [f"proxies={tuple(self.proxies.shape)}", *(f"{name}={value!r}" for name, value in own.items())]
        )


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of every row of ``x`` with every row of ``y``: (B, d) and (M, d) to (B, M)."""
    return nn.functional.normalize(x, dim=1) @ nn.functional.normalize(y, dim=1).T


def check_sizes(sizes: dict[str, int]) -> None:
    """Raise ValueError unless each is a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {size!r}")

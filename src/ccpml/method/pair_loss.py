"""What the four pair losses share: the calling convention, normalisation, and what each must define."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ccpml.method.checks import check_embeddings, check_labels, check_references
from ccpml.method.normalize import lipschitz_normalize
from ccpml.pairwise.pairs import Pairs, ReferenceSet, pair_loss

__all__ = ["Normalization", "PairLoss"]

Normalization = Literal["lipschitz", "l2"] | None


class PairLoss(nn.Module):
    """What the four losses share: normalisation, and which pairs are positive or negative.

    The calling convention is pytorch-metric-learning's, so either library's losses work in the other's place.
    Computed in float32 (float64 for float64 input), under autocast too. Gradients are of first order alone: with
    ``create_graph`` they raise RuntimeError.

    Args:
        normalize: How embeddings and references are normalised before they are compared: ``"lipschitz"`` (φ,
            the paper's), ``"l2"``, or ``None`` to take them as they are.

    Raises:
        ValueError: If ``normalize`` is none of these.

    Source: Gürbüz et al., WACV 2024, Section 3 and supplement.
    """

    def __init__(self, normalize: Normalization = "lipschitz") -> None:
        super().__init__()
        if normalize not in ("lipschitz", "l2", None):
            raise ValueError(f"normalize: expected 'lipschitz', 'l2' or None, got {normalize!r}")
        self.normalize = normalize

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch against references.

        Args:
            embeddings: The anchors, shape (B, d), un-normalised, floating point.
            labels: Their classes, shape (B,), integer.
            ref_emb: The references, shape (M, d); by default the batch itself, a sample never paired with itself.
            ref_labels: Their classes, shape (M,); given if and only if ``ref_emb`` is.

        Returns:
            The loss, a scalar tensor in float32 (float64 for float64 input).

        Raises:
            ValueError: On a wrong shape or dtype, or if only one of ``ref_emb`` and ``ref_labels`` is given.
        """
        check_embeddings("embeddings", embeddings)
        check_labels("labels", labels, len(embeddings))
        check_references(ref_emb, ref_labels, dim=embeddings.shape[1])
        if ref_emb is None or ref_labels is None or ref_emb is embeddings:
            same = labels if ref_labels is None else ref_labels
            return self.against(embeddings, labels, embeddings, same, within=True)
        return self.against(embeddings, labels, ref_emb, ref_labels)

    def against(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor,
        ref_labels: Tensor,
        *,
        within: bool = False,
        most_positives: int | None = None,
        group: Any = None,
    ) -> Tensor:
        """Compute the loss as ``forward`` does, of input that was checked.

        Args:
            x: The anchors, shape (B, d), un-normalised.
            labels: Their classes, shape (B,).
            y: The references, shape (M, d), un-normalised.
            ref_labels: Their classes, shape (M,).
            within: Whether the references are the batch itself.
            most_positives: P, at least the references of any anchor's class; None to count them, for which an
                accelerator must be waited for.
            group: The process group whose ranks hold a part of the references each, and all the same batch; the loss is
                that against all of them.

        Returns:
            The loss, a scalar tensor in float32 (float64 for float64 input).
        """
        if not self.ranks_positives or len(labels) == 0:
            most_positives = 0
        elif most_positives is None:
            most_positives = len(y) if within else int((labels[:, None] == ref_labels).sum(1).max())
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            references = ReferenceSet(labels, ref_labels, self._normalized, within, most_positives, group)
            return pair_loss(self, self._normalized(x.to(dtype)), y.to(dtype), references)

    distances: ClassVar[bool] = False
    """Whether the loss compares by distances D, or else by inner products S."""

    ranks_positives: ClassVar[bool] = False
    """Whether ``positive_distances`` holds the D of each anchor's positives, rising, (B, P); else it is (B, 0)."""

    def accumulate(self, pairs: Pairs, positive_distances: Tensor) -> Tensor:
        """Take the sums over a block of references from which ``value`` makes ℓ; each loss defines them."""
        raise NotImplementedError  # abstract: each loss is its own equation

    def merge(self, one: Tensor, other: Tensor) -> Tensor:
        """Put together the sums of two blocks."""
        return one + other

    def loss(self, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute ℓ, a scalar, from the sums over all references; each loss defines it."""
        raise NotImplementedError  # abstract: each loss is its own equation

    def gradient(self, pairs: Pairs, sums: Tensor, positive_distances: Tensor) -> Tensor:
        """Compute ∂ℓ/∂D or ∂ℓ/∂S of the pairs of a block, (B, m); each loss defines it."""
        raise NotImplementedError  # abstract: each loss is its own equation

    def _normalized(self, x: Tensor) -> Tensor:
        if self.normalize == "lipschitz":
            return lipschitz_normalize(x)
        return nn.functional.normalize(x, dim=1) if self.normalize == "l2" else x

    def extra_repr(self) -> str:
        """Show the parameters in ``repr``."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in own.items())

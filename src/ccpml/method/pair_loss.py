"""The base class of pair losses: the calling convention, normalization, and the choice of references."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ccpml.method.checks import check_call, check_values
from ccpml.method.metric_loss import NORMALIZED_LENGTH, MetricLoss, working_dtype
from ccpml.method.normalize import l2_normalize, lipschitz_normalize
from ccpml.numbers import is_one_of
from ccpml.pairwise.engine import ReferenceSet, pair_loss
from ccpml.pairwise.equation import FastEquation, PairEquation
from ccpml.pairwise.indices import Indices, check_indices, indexed_pair_loss

__all__ = ["Normalization", "PairLoss"]

Normalization = Literal["lipschitz", "l2"] | None


class PairLoss(MetricLoss, PairEquation):
    """A loss over pairs of samples and references.

    A subclass defines `accumulate` and `loss` in plain PyTorch. References in blocks, bounded memory, gradients,
    proxies in `CCPLoss`, and proxies sharded over ranks follow from these two.

    Only first-order gradients are supported: ``create_graph=True`` raises RuntimeError where others would be wrong.

    Args:
        normalize: Normalization of embeddings and references before they are compared: ``"lipschitz"`` (φ, the
            paper's), ``"l2"``, or ``None`` for none.

    Raises:
        ValueError: If ``normalize`` is none of these. When called without normalization, on a CPU: if a distance may
            exceed 1e18, or an inner product 1e29.

    Example:
        >>> class Hinge(PairLoss):
        ...     def accumulate(self, pairs):  # S of positives below 1, of negatives above 0
        ...         return ((1 - pairs.values) * pairs.positive + pairs.values.relu() * pairs.negative).sum()
        ...     def loss(self, sums):
        ...         return sums
        >>> Hinge()(torch.eye(2), torch.tensor([0, 0]))
        tensor(2.)

    Source: Gürbüz et al., WACV 2024, Section 3 and supplement.
    """

    fast: ClassVar[type[FastEquation] | None] = None
    """The same equation with its derivative in closed form, if any; unused in subclasses that redefine the equation."""

    def __init__(self, normalize: Normalization = "lipschitz") -> None:
        super().__init__()
        if not is_one_of(normalize, ("lipschitz", "l2", None)):
            raise ValueError(f"normalize: expected 'lipschitz', 'l2' or None, got {normalize!r}")
        self.normalize = normalize

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch against references; see `MetricLoss`.

        With ``indices_tuple``, labels are not needed. `ccpml.pairwise.indices.indexed_pair_loss` describes what pairs
        and triplets given by index mean.
        """
        if labels is None:
            if indices_tuple is None:
                raise ValueError("labels: expected integers, or else indices_tuple, got neither")
            labels = torch.zeros(len(embeddings), dtype=torch.int64, device=embeddings.device)  # any will do
            ref_labels = None if ref_emb is None else labels.new_zeros(len(ref_emb))
        check_call(embeddings, labels, ref_emb, ref_labels)
        within = ref_emb is None or ref_emb is embeddings
        y = embeddings if ref_emb is None else ref_emb
        if indices_tuple is not None:
            check_indices(indices_tuple, len(embeddings), len(y))
            with torch.autocast(embeddings.device.type, enabled=False):
                x, y = (v.to(working_dtype(embeddings)) for v in (embeddings, y))
                self._check_values(x, y)
                return indexed_pair_loss(self, self.normalized(x), self.normalized(y), indices_tuple)
        return self.against(embeddings, labels, y, labels if ref_labels is None else ref_labels, within=within)

    def against(
        self,
        x: Tensor,
        labels: Tensor,
        y: Tensor,
        ref_labels: Tensor,
        *,
        within: bool = False,
        max_positives: int | None = None,
        ignored: Tensor | None = None,
        group: Any = None,
    ) -> Tensor:
        """Compute the loss of anchors ``x`` against references ``y`` without checking the input.

        Args:
            x: The anchors, shape (B, d), not normalized.
            labels: Classes of the anchors, shape (B,).
            y: The references, shape (M, d), not normalized.
            ref_labels: Classes of the references, shape (M,).
            within: Whether the references are the batch itself.
            max_positives: P, an upper bound of the references of an anchor's class; by default they are counted, which
                makes the host wait for an accelerator.
            ignored: Rows of references of an anchor's class that it is not compared with, shape (B, I), −1 for none.
            group: Process group whose ranks hold a part of the references each, and the same batch; the loss is that
                against the references of all ranks.
        """
        if not self.uses_positive_distances or len(labels) == 0:
            max_positives = 0
        elif max_positives is None:
            max_positives = len(y) if within else int((labels[:, None] == ref_labels).sum(1).max())
        with torch.autocast(x.device.type, enabled=False):
            dtype = working_dtype(x)
            x, y = x.to(dtype), y.to(dtype)
            self._check_values(x, y)
            references = ReferenceSet(labels, ref_labels, self.normalized, within, ignored, max_positives, group)
            equation, parameters = self._equation(len(x)), tuple(self.parameters())
            return pair_loss(equation, self.normalized(x), y, references, parameters)

    @property
    def starting_length(self) -> float:
        """That of normalized embeddings; 1 without normalization."""
        return NORMALIZED_LENGTH if self.normalize is not None else 1.0

    def _equation(self, anchors: int) -> PairEquation:
        """Return the fast form of the equation, unless a subclass of the class that names it redefines the equation.

        The fast form has no gradients by parameters, such as a trained margin.
        """
        if self.fast is None or next(self.parameters(), None) is not None:
            return self
        owner = next(kind for kind in type(self).__mro__ if "fast" in vars(kind))
        parts = ("accumulate", "merge", "loss", "uses_distances", "uses_positive_distances")
        unchanged = all(getattr(type(self), name) is getattr(owner, name) for name in parts)
        return self.fast(self, anchors) if unchanged and not any(name in vars(self) for name in parts) else self

    def _check_values(self, x: Tensor, y: Tensor) -> None:
        """Raise ValueError if values of vectors that are not normalized may be out of range."""
        if self.normalize is None:
            check_values(x, y, self.uses_distances)

    def normalized(self, x: Tensor) -> Tensor:
        """Return vectors (n, d) as the loss compares them."""
        if self.normalize == "lipschitz":
            return lipschitz_normalize(x)
        return l2_normalize(x) if self.normalize == "l2" else x

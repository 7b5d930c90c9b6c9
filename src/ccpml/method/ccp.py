"""The training loss of the method: a pair loss within the batch and against trainable proxies."""

from typing import Any

import torch
from torch import Tensor, nn

from ccpml.distributed import world_size
from ccpml.method.checks import check_call, check_number, uncompiled
from ccpml.method.class_sampler import ClassSampler
from ccpml.method.external import (
    against_batch,
    against_references,
    check_can_ignore_pairs,
    check_pair_loss,
    joint_batch,
    normalization_of,
    normalized_for,
)
from ccpml.method.metric_loss import MetricLoss, working_dtype
from ccpml.method.nearest import farther_proxies
from ccpml.method.pair_loss import PairLoss
from ccpml.method.proxies import ClassProxies
from ccpml.numbers import as_int, is_finite
from ccpml.pairwise.indices import Indices
from ccpml.pairwise.inputs import check_device

__all__ = ["CCPLoss"]


class CCPLoss(ClassProxies, MetricLoss):
    """w_pair · ℓ(e, e) + w_proxy · ℓ(e, q), with e = φ(f(x)) the batch and q = φ(P) the proxies.

    ℓ is any pair loss: one of ours, or one of pytorch-metric-learning that takes ``ref_emb`` (which is called with
    φ-normalized vectors), or a wrapper of these: ``MultipleLosses``, ``CrossBatchMemory`` (also ours:
    its memory belongs to the pair term) or ``DistributedLossWrapper``.

    The proxies are a parameter of this module; pass it to the optimizer together with the model. They are random until
    `AlternatingProjections.start` sets them to embeddings of real samples. While ``warming``, the loss is ℓ(e, e)
    alone, with weight 1, and the proxies get no gradient.

    Args:
        loss: The pair loss ℓ.
        num_classes: C, the number of training classes, labeled 0..C − 1.
        embedding_dim: d.
        proxies_per_class: K.
        pair_weight: w_pair, the weight of the loss within the batch.
        proxy_weight: w_proxy, the weight of the loss against the proxies.
        nearest_positives: n: in the proxy term, a sample's positives are the n nearest proxies of its class, by
            Euclidean distance of the vectors as the loss compares them (φ-normalized), whether or not the loss itself
            uses distances; the others of its class are left out. The choice is made in each step and has no gradient of
            its own. None, or n ≥ K: all, as in the paper. Negatives are always the proxies of all other classes.
        class_rate: Fraction of the classes whose proxies a training step uses, in (0, 1]: those of the batch, filled up
            with others drawn in each step; never fewer than the batch has samples. With 1 the loss is exact; with less,
            time grows with the classes drawn (An et al., "Partial FC", 2021). Evaluation always uses all.
        seed: Random seed of the classes drawn; the same on ranks that hold all proxies.
        group: Process group over whose ranks the proxies are sharded: each rank holds and trains those of its classes,
            and all are called with the same joined batch (`gather_batch`). By default this rank holds all.

    Attributes:
        warming: Whether the first proxies are yet to be placed; see `AlternatingProjections.start_when_ready`.
        proxies: The proxies P, not normalized, shape (C, K, d); see `ClassProxies` for this and other attributes.

    Raises:
        ValueError: If ``loss`` is no pair loss, a weight is negative or not finite, both weights are 0, a size or
            ``nearest_positives`` is not a positive integer, or the latter is given with NCALoss, which leaves out no
            pair, ``class_rate`` is out of range, or ``group`` is given with a loss of another library.

    Example:
        >>> from ccpml import ContrastiveLoss
        >>> criterion = CCPLoss(ContrastiveLoss(), num_classes=10, embedding_dim=4, proxies_per_class=2)
        >>> criterion.proxies.shape
        torch.Size([10, 2, 4])
        >>> criterion(torch.randn(6, 4), torch.tensor([0, 0, 3, 3, 9, 9])).shape
        torch.Size([])

    Source: Gürbüz et al., WACV 2024, Section 4 and Algorithm 1.
    """

    def __init__(
        self,
        loss: nn.Module,
        num_classes: int,
        embedding_dim: int,
        proxies_per_class: int,
        pair_weight: float = 0.1,
        proxy_weight: float = 1.0,
        *,
        nearest_positives: int | None = None,
        class_rate: float = 1.0,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        super().__init__(num_classes, embedding_dim, proxies_per_class)
        if nearest_positives is not None:
            nearest_positives = as_int("nearest_positives", nearest_positives, 1)
        seed = as_int("seed", seed)
        if not (is_finite(class_rate) and 0 < class_rate <= 1):
            raise ValueError(f"class_rate: expected a fraction in (0, 1], got {class_rate!r}")
        check_pair_loss(loss)
        if nearest_positives is not None:
            check_can_ignore_pairs(loss)
        check_number("pair_weight", pair_weight, least=0)
        check_number("proxy_weight", proxy_weight, least=0)
        if pair_weight == proxy_weight == 0:
            raise ValueError("pair_weight, proxy_weight: expected one other than 0, got 0 and 0, which trains nothing")
        self.loss: nn.Module = uncompiled(loss)
        self.pair_weight = pair_weight
        self.proxy_weight = proxy_weight
        self.warming = False
        self.nearest_positives = nearest_positives
        self.class_sampler = ClassSampler(class_rate, seed) if class_rate < 1 else None
        if group is not None:
            self.shard(group)

    def shard(self, group: Any) -> None:
        """Keep the proxies of this rank's classes; see `ClassProxies.shard`.

        Raises:
            ValueError: If the pair loss is not a `PairLoss`, whose sums ranks can exchange.
        """
        if not isinstance(self.loss, PairLoss):
            raise ValueError(f"group: sharded proxies need a PairLoss of ccpml, got {type(self.loss).__name__}")
        super().shard(group)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch; see `MetricLoss`.

        Pairs or triplets and references concern the pair term alone: CCP compares each sample with every proxy.
        """
        check_call(embeddings, labels, ref_emb, ref_labels, self.proxies.shape[2], self.num_classes)
        check_device("proxies", self.proxies, embeddings)
        labels = labels.long()
        references = None if ref_emb is embeddings else ref_emb
        with torch.autocast(embeddings.device.type, enabled=False):
            batch = normalized_for(self.loss, embeddings.to(working_dtype(embeddings, self.proxies)))  # e
            total = batch.new_zeros(())
            pair_weight, proxy_weight = (1.0, 0.0) if self.warming else (self.pair_weight, self.proxy_weight)
            if pair_weight:
                pair_term = against_batch(self.loss, batch, labels, indices_tuple, references, ref_labels)
                total = total + pair_weight * pair_term
            if proxy_weight:
                total = total + proxy_weight * self._proxy_term(batch, labels)
            elif self.warming and world_size() > 1:  # DDP expects a gradient of each parameter: 0, which `pull` drops
                total = total + self.proxies[:0].sum().to(total.dtype)
            return total

    def _proxy_term(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Compute ℓ(e, q)."""
        batch, labels = joint_batch(self.loss, batch, labels)
        proxies: Tensor = self.proxies
        proxy_labels, positives = self.proxy_labels, proxies.shape[1]
        if self.class_sampler is not None and self.training:
            drawn = self.class_sampler(labels, self.classes)
            proxies = proxies.index_select(0, drawn)
            proxy_labels = (drawn + self.classes.start).repeat_interleave(positives)
        ignored = None
        if self.nearest_positives is not None and self.nearest_positives < positives:
            normalize = normalization_of(self.loss)
            classes, positives = proxy_labels[::positives], self.nearest_positives
            ignored = farther_proxies(batch, labels, proxies, classes, positives, normalize)  # (B, K − n)
        proxies = proxies.flatten(0, 1).to(batch.dtype)  # (C · K, d)
        return against_references(self.loss, batch, labels, proxies, proxy_labels, positives, ignored, self.group)

    def extra_repr(self) -> str:
        """Return sizes and weights for ``repr``."""
        shape = tuple(self.proxies.shape)
        weights = f"pair_weight={self.pair_weight}, proxy_weight={self.proxy_weight}"
        warming = ", warming" if self.warming else ""
        return f"proxies={shape}, {weights}, nearest_positives={self.nearest_positives}{warming}"

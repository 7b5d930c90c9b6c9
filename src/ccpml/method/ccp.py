"""The training loss of the method: a pair loss within the batch and against trainable proxies."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ccpml.method.checks import check_embeddings, check_labels, check_references
from ccpml.method.normalize import lipschitz_normalize
from ccpml.method.pair_loss import PairLoss
from ccpml.method.proxies import ClassProxies

__all__ = ["CCPLoss"]


class CCPLoss(ClassProxies):
    """w_pair · ℓ(e, e) + w_proxy · ℓ(e, q), with e = φ(f(x)) the batch and q = φ(P) the proxies.

    Any pair loss can be ℓ: one of ours, or one of pytorch-metric-learning that takes ``ref_emb`` (it is given
    φ-normalised vectors; if it normalises by itself, that changes nothing). Called like one, too.

    The proxies are a parameter of this module, so give it to the optimiser beside the model. They are random
    until `AlternatingProjections.start` puts them at embeddings of real samples.

    Args:
        loss: The pair loss ℓ.
        num_classes: C, the training classes, labelled 0..C − 1.
        embedding_dim: d.
        proxies_per_class: K.
        pair_weight: w_pair, of the loss within the batch.
        proxy_weight: w_proxy, of the loss against the proxies.
        class_rate: The share of the classes with whose proxies a training step compares, in (0, 1]: those of the batch,
            filled up with others that are drawn anew for each step; never fewer than the batch has samples. With 1 it
            is exact; with less, time grows with the classes drawn (An et al., "Partial FC", 2021). Evaluation compares
            with all.
        seed: Of the classes drawn. Ranks that hold all proxies must have the same.
        group: A process group over whose ranks the proxies are sharded: each holds, and trains, those of its
            share of the classes, and all are called with the same joined batch (`gather_batch`). None: all are here.

    Attributes:
        proxies: The proxies P as they are stored, un-normalised: a parameter of shape (C, K, d), C the classes of this
            rank where they are sharded.
        proxy_labels: Their classes in the order of ``proxies.flatten(0, 1)``, shape (C · K,).
        num_classes: The training classes of all ranks.
        classes: Those whose proxies are here.

    Raises:
        ValueError: If a size is not positive, ``class_rate`` out of its range, or proxies shall be sharded with a
            loss of pytorch-metric-learning, which cannot be taken apart.

    Example:
        >>> from ccpml import ContrastiveLoss
        >>> criterion = CCPLoss(ContrastiveLoss(), num_classes=10, embedding_dim=4, proxies_per_class=2)
        >>> criterion.proxies.shape
        torch.Size([10, 2, 4])
        >>> criterion(torch.randn(6, 4), torch.tensor([0, 0, 3, 3, 9, 9])).shape
        torch.Size([])

    Source: Gürbüz et al., WACV 2024, Section 4 and Algorithm 1.
    """

    draws: Tensor

    def __init__(
        self,
        loss: nn.Module,
        num_classes: int,
        embedding_dim: int,
        proxies_per_class: int,
        pair_weight: float = 0.1,
        proxy_weight: float = 1.0,
        *,
        class_rate: float = 1.0,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        super().__init__(num_classes, embedding_dim, proxies_per_class)
        if not 0 < class_rate <= 1:
            raise ValueError(f"class_rate: expected a fraction in (0, 1], got {class_rate!r}")
        self.loss = loss
        self.class_rate = class_rate
        self.seed = seed
        self.pair_weight = pair_weight
        self.proxy_weight = proxy_weight
        if group is not None:
            self.shard(group)
        if class_rate < 1:
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
            self._draws = 0  # the same on the host, so that no step waits for the device
            self.register_load_state_dict_post_hook(_read_draws)  # type: ignore[no-untyped-call]  # torch's is untyped

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
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch.

        Args:
            embeddings: The batch, shape (B, d), un-normalised.
            labels: Its classes, shape (B,), integer in 0..C − 1.
            ref_emb: References of the pair term, shape (M, d), by default the batch itself.
            ref_labels: Their classes, shape (M,).

        Returns:
            The loss, a scalar tensor in float32 (float64 if the embeddings or the proxies are), under autocast too.

        Raises:
            ValueError: On wrong shapes or dtypes, or labels outside 0..C − 1 (on an accelerator these end in a device
                assertion, so that no step waits for the device).
        """
        check_embeddings("embeddings", embeddings, dim=self.proxies.shape[2])
        check_labels("labels", labels, len(embeddings), num_classes=self.num_classes)
        check_references(ref_emb, ref_labels, dim=self.proxies.shape[2])
        if ref_emb is embeddings:  # the batch itself, in which no sample is paired with itself
            ref_emb = ref_labels = None
        with torch.autocast(embeddings.device.type, enabled=False):
            double = torch.float64 in {embeddings.dtype, self.proxies.dtype}
            dtype = torch.float64 if double else torch.float32
            batch = self._vectors(embeddings.to(dtype))
            total = batch.new_zeros(())
            if self.pair_weight:
                references = None if ref_emb is None else self._vectors(ref_emb.to(dtype))
                pair: Tensor = self.loss(batch, labels, ref_emb=references, ref_labels=ref_labels)
                total = total + self.pair_weight * pair
            if self.proxy_weight:
                total = total + self.proxy_weight * self._proxy_term(batch, labels)
            return total

    def _proxy_term(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Compute ℓ(e, q)."""
        proxies: Tensor = self.proxies
        proxy_labels, per_class = self.proxy_labels, proxies.shape[1]
        if self.class_rate < 1 and self.training:
            drawn = self._draw_classes(labels)
            proxies = proxies.index_select(0, drawn)
            proxy_labels = (drawn + self.classes.start).repeat_interleave(per_class)
        proxies = proxies.flatten(0, 1).to(batch.dtype)  # (C · K, d)
        if isinstance(self.loss, PairLoss):
            return self.loss.against(batch, labels, proxies, proxy_labels, most_positives=per_class, group=self.group)
        term: Tensor = self.loss(batch, labels, ref_emb=lipschitz_normalize(proxies), ref_labels=proxy_labels)
        return term

    def _draw_classes(self, labels: Tensor) -> Tensor:
        """Draw the classes of a step: those of the batch, and others; as rows of ``proxies``, rising."""
        count, labels = len(self.proxies), labels.long() - self.classes.start
        here = (labels >= 0) & (labels < count)
        generator = torch.Generator(labels.device)
        generator.manual_seed(((self.seed * 1_000_003 + self.classes.start) * 1_000_033 + self._draws) % 2**63)
        keys = torch.rand(count, generator=generator, device=labels.device)
        keys.index_add_(0, labels.clamp(0, max(0, count - 1)), here.to(keys.dtype))  # 1 and more: first of all
        self._draws += 1
        self.draws.add_(1)
        wanted = max(math.ceil(self.class_rate * count), min(count, len(labels)))
        return keys.topk(wanted, sorted=False).indices.sort().values

    def _vectors(self, x: Tensor) -> Tensor:
        """Give what ℓ compares: our losses apply φ (or what they were told) themselves."""
        return x if isinstance(self.loss, PairLoss) else lipschitz_normalize(x)

    def extra_repr(self) -> str:
        """Show sizes and weights in ``repr``."""
        shape = tuple(self.proxies.shape)
        return f"proxies={shape}, pair_weight={self.pair_weight}, proxy_weight={self.proxy_weight}"


def _read_draws(module: nn.Module, incompatible_keys: Any) -> None:
    """Take the number of draws over from a loaded checkpoint."""
    assert isinstance(module, CCPLoss)
    module._draws = int(module.draws)

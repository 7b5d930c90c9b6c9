"""The training loss of the method: a pair loss within the batch and against trainable proxies."""

import torch
from torch import Tensor, nn

from ccpml.method.checks import check_embeddings, check_labels, check_references
from ccpml.method.losses import PairLoss
from ccpml.method.normalize import lipschitz_normalize

__all__ = ["CCPLoss"]


class CCPLoss(nn.Module):
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

    Attributes:
        proxies: The proxies P as they are stored, un-normalised: a parameter of shape (C, K, d).
        proxy_labels: Their classes in the order of ``proxies.flatten(0, 1)``, shape (C · K,).

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> from ccpml import ContrastiveLoss
        >>> criterion = CCPLoss(ContrastiveLoss(), num_classes=10, embedding_dim=4, proxies_per_class=2)
        >>> criterion.proxies.shape
        torch.Size([10, 2, 4])
        >>> criterion(torch.randn(6, 4), torch.tensor([0, 0, 3, 3, 9, 9])).shape
        torch.Size([])

    Source: Gürbüz et al., WACV 2024, Section 4 and Algorithm 1.
    """

    proxy_labels: Tensor

    def __init__(
        self,
        loss: nn.Module,
        num_classes: int,
        embedding_dim: int,
        proxies_per_class: int,
        pair_weight: float = 0.1,
        proxy_weight: float = 1.0,
    ) -> None:
        super().__init__()
        shape = {
            "num_classes": num_classes,
            "proxies_per_class": proxies_per_class,
            "embedding_dim": embedding_dim,
        }
        for name, size in shape.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {size!r}")
        self.loss = loss
        self.pair_weight = pair_weight
        self.proxy_weight = proxy_weight
        self.proxies = nn.Parameter(torch.randn(tuple(shape.values())) / embedding_dim**0.5)  # (C, K, d)
        labels = torch.arange(num_classes).repeat_interleave(proxies_per_class)  # (C · K,)
        self.register_buffer("proxy_labels", labels, persistent=False)

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
        check_labels("labels", labels, len(embeddings), num_classes=len(self.proxies))
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
                proxies = self._vectors(self.proxies.flatten(0, 1).to(dtype))  # (C · K, d)
                proxy: Tensor = self.loss(batch, labels, ref_emb=proxies, ref_labels=self.proxy_labels)
                total = total + self.proxy_weight * proxy
            return total

    def _vectors(self, x: Tensor) -> Tensor:
        """Give what ℓ compares: our losses apply φ (or what they were told) themselves."""
        return x if isinstance(self.loss, PairLoss) else lipschitz_normalize(x)

    def extra_repr(self) -> str:
        """Show sizes and weights in ``repr``."""
        shape = tuple(self.proxies.shape)
        return f"proxies={shape}, pair_weight={self.pair_weight}, proxy_weight={self.proxy_weight}"

"""Cross-batch memory (XBM): the batch compared with the batches before it, too."""

from typing import Any

import torch
from torch import Tensor, nn

from ccpml.baselines.proxy_loss import check_sizes
from ccpml.method import PairLoss, lipschitz_normalize
from ccpml.method.checks import check_embeddings, check_labels, check_references

__all__ = ["CrossBatchMemory"]


class CrossBatchMemory(nn.Module):
    """ℓ(e, e) + ℓ(e, memory), the second term once ``start`` training steps have been made.

    The memory holds embeddings (as they came, detached) and labels of the most recent ``memory_batches`` batches before
    this one, and fills from the first step on. A batch is compared first and put in afterwards, in place of
    the oldest, so that no sample is paired with itself. A step is a call in training mode: in evaluation none
    is counted and no batch put in.

    Any pair loss can be ℓ: one of ours, or one of pytorch-metric-learning that takes ``ref_emb`` (it is given
    φ-normalised vectors; if it normalises by itself, that changes nothing). Called like one, too.

    All state is in buffers of fixed shape, so that a checkpoint resumes exactly. The memory is float32 (it goes
    with ``double()``), also where the embeddings are of less precision.

    Args:
        loss: The pair loss ℓ.
        embedding_dim: d.
        memory_batches: M, the batches that the memory holds.
        batch_size: B, the largest batch.
        start: Training steps before the memory is used.

    Attributes:
        memory: Embeddings, shape (M, B, d).
        memory_labels: Their classes, int64 (M, B).
        sizes: How many samples each batch of the memory has, int64 (M,); 0 where none is yet.
        steps: Training steps made; the next batch goes to place ``steps`` mod M.

    Raises:
        ValueError: If a size is not a positive integer, or ``start`` a negative one.

    Example:
        >>> from ccpml import ContrastiveLoss
        >>> criterion = CrossBatchMemory(ContrastiveLoss(), embedding_dim=4, memory_batches=3, batch_size=2, start=0)
        >>> for _ in range(2):
        ...     loss = criterion(torch.randn(2, 4), torch.tensor([0, 7]))
        >>> criterion.sizes
        tensor([2, 2, 0])

    Source: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020, Algorithm 1.
    """

    memory: Tensor
    memory_labels: Tensor
    sizes: Tensor
    steps: Tensor

    def __init__(
        self, loss: nn.Module, embedding_dim: int, memory_batches: int, batch_size: int, start: int = 1000
    ) -> None:
        super().__init__()
        check_sizes({"embedding_dim": embedding_dim, "memory_batches": memory_batches, "batch_size": batch_size})
        if not isinstance(start, int) or start < 0:
            raise ValueError(f"start: expected an integer of at least 0, got {start!r}")
        self.loss = loss
        self.start = start
        self.register_buffer("memory", torch.zeros(memory_batches, batch_size, embedding_dim))
        self.register_buffer("memory_labels", torch.zeros(memory_batches, batch_size, dtype=torch.int64))
        self.register_buffer("sizes", torch.zeros(memory_batches, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # The counts once more, on the host: a step must not wait for the device to know the memory's extent.
        self._steps, self._sizes = 0, [0] * memory_batches
        self.register_load_state_dict_post_hook(_read_counts)  # type: ignore[no-untyped-call]  # torch's is untyped

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch and, in training, remember the batch.

        Args:
            embeddings: The batch, shape (B, d) or fewer rows, un-normalised.
            labels: Its classes, shape (B,), integer.
            ref_emb: References of the first term, shape (N, d), by default the batch itself.
            ref_labels: Their classes, shape (N,).

        Returns:
            The loss, a scalar tensor in float32 (float64 for float64 input), under autocast too.

        Raises:
            ValueError: On wrong shapes or dtypes, or a batch larger than ``batch_size``.
        """
        _, most, dim = self.memory.shape
        check_embeddings("embeddings", embeddings, dim=dim)
        check_labels("labels", labels, len(embeddings))
        check_references(ref_emb, ref_labels, dim=dim)
        if len(embeddings) > most:
            raise ValueError(f"embeddings: expected batch_size = {most} rows at most, got {len(embeddings)}")
        if ref_emb is embeddings:  # the batch itself, in which no sample is paired with itself
            ref_emb = ref_labels = None
        with torch.autocast(embeddings.device.type, enabled=False):
            dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
            batch = self._vectors(embeddings.to(dtype))
            references = None if ref_emb is None else self._vectors(ref_emb.to(dtype))
            total: Tensor = self.loss(batch, labels, ref_emb=references, ref_labels=ref_labels)
            if self._steps >= max(self.start, 1):
                remembered, classes = self._remembered()
                total = total + self.loss(
                    batch, labels, ref_emb=self._vectors(remembered.to(dtype)), ref_labels=classes
                )
        if self.training:
            self._remember(embeddings.detach(), labels)
        return total

    def _vectors(self, x: Tensor) -> Tensor:
        """Give what ℓ compares: our losses apply φ (or what they were told) themselves."""
        return x if isinstance(self.loss, PairLoss) else lipschitz_normalize(x)

    def _remembered(self) -> tuple[Tensor, Tensor]:
        """Copy the batches in the memory, which changes before the gradient is taken: (N, d) and (N,)."""
        filled = min(self._steps, len(self.memory))
        memory, labels = self.memory[:filled], self.memory_labels[:filled]
        if all(size == self.memory.shape[1] for size in self._sizes[:filled]):
            return memory.flatten(0, 1).clone(), labels.flatten().clone()
        there = torch.arange(self.memory.shape[1], device=memory.device) < self.sizes[:filled, None]
        return memory[there], labels[there]

    def _remember(self, embeddings: Tensor, labels: Tensor) -> None:
        """Put a batch in the place of the oldest."""
        place, size = self._steps % len(self.memory), len(embeddings)
        self.memory[place, :size].copy_(embeddings)
        self.memory_labels[place, :size].copy_(labels)
        self.sizes[place].fill_(size)
        self.steps.add_(1)
        self._steps, self._sizes[place] = self._steps + 1, size

    def extra_repr(self) -> str:
        """Show sizes in ``repr``."""
        batches, size, dim = self.memory.shape
        return f"embedding_dim={dim}, memory_batches={batches}, batch_size={size}, start={self.start}"


def _read_counts(module: nn.Module, incompatible_keys: Any) -> None:
    """Take the counts over from the buffers of a loaded checkpoint."""
    assert isinstance(module, CrossBatchMemory)
    module._steps, module._sizes = int(module.steps), module.sizes.tolist()

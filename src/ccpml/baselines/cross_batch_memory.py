"""Cross-batch memory (XBM): the batch is also compared with previous batches."""

import torch
from torch import Tensor, nn

from ccpml.method.checks import check_call, uncompiled
from ccpml.method.external import against_batch, against_references, check_pair_loss, normalized_for
from ccpml.method.host_counts import HostCounts
from ccpml.method.metric_loss import MetricLoss, working_dtype
from ccpml.numbers import as_int
from ccpml.pairwise.indices import Indices
from ccpml.pairwise.inputs import check_device

__all__ = ["CrossBatchMemory"]


class CrossBatchMemory(HostCounts, MetricLoss):
    """ℓ(e, e) + ℓ(e, memory), the second term after ``start`` training steps.

    The memory holds embeddings (detached, not normalized) and labels of the latest ``memory_batches`` batches before
    the current one, and fills from the first step. A batch replaces the oldest one after it was compared, so no sample
    is paired with itself. A step is a call in training mode; in evaluation mode nothing is counted or stored. Samples
    that are not finite, as mixed precision yields now and then, are not compared with later: others in memory stand for
    them, and count twice.

    ℓ is any pair loss: one of ours, or one of pytorch-metric-learning that takes ``ref_emb`` (which is called with
    φ-normalized vectors).

    All state is in buffers of fixed shape, so a checkpoint resumes exactly. Write them by `load_state_dict` or by
    ``copy_``: of ``.data.copy_`` torch keeps no count, and the steps and sizes would not be read again. The memory is
    float32 (float64 after ``double()``), also for embeddings of lower precision.

    Args:
        loss: The pair loss ℓ.
        embedding_dim: d.
        memory_batches: M, the number of batches in memory.
        batch_size: B, the size of the largest batch.
        start: Training steps before the memory is used.

    Attributes:
        memory: Embeddings, shape (M, B, d).
        memory_labels: Classes of the embeddings, int64 (M, B).
        sizes: Number of samples of each batch in memory, int64 (M,); 0 for none.
        steps: Number of training steps made; the next batch is stored at ``steps`` mod M.

    Raises:
        ValueError: If ``loss`` is no pair loss, a size is not a positive integer, or ``start`` is negative.

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
        embedding_dim, batch_size = as_int("embedding_dim", embedding_dim, 1), as_int("batch_size", batch_size, 1)
        memory_batches = as_int("memory_batches", memory_batches, 1)
        check_pair_loss(loss)
        self.loss: nn.Module = uncompiled(loss)
        self.start = as_int("start", start, 0)
        self.register_buffer("memory", torch.zeros(memory_batches, batch_size, embedding_dim))
        self.register_buffer("memory_labels", torch.zeros(memory_batches, batch_size, dtype=torch.int64))
        self.add_count("sizes", torch.zeros(memory_batches, dtype=torch.int64), [0] * memory_batches)
        self.add_count("steps", torch.zeros((), dtype=torch.int64), 0)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of a batch and, in training mode, store the batch; see `MetricLoss`.

        Pairs or triplets and references concern the first term alone: the batch is compared with all of the memory.

        Raises:
            ValueError: Also if the batch is larger than ``batch_size``.
        """
        _, limit, dim = self.memory.shape
        check_call(embeddings, labels, ref_emb, ref_labels, dim)
        check_device("memory", self.memory, embeddings)
        if len(embeddings) > limit:
            raise ValueError(f"embeddings: expected at most batch_size = {limit} rows, got {len(embeddings)}")
        references = None if ref_emb is embeddings else ref_emb
        with torch.autocast(embeddings.device.type, enabled=False):
            batch = normalized_for(self.loss, embeddings.to(working_dtype(embeddings)))
            total = against_batch(self.loss, batch, labels, indices_tuple, references, ref_labels)
            if self.count("steps") >= max(self.start, 1):
                stored, classes, usable = self._stored()
                compared = against_references(self.loss, batch, labels, stored.to(batch.dtype), classes)
                total = total + compared * usable
        if self.training:
            self._store(embeddings.detach(), labels)
        return total

    def _stored(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return copies of what is in memory, which changes before backward, (N, d) and (N,); whether any is finite."""
        filled = min(self.count("steps"), len(self.memory))
        memory, labels = self.memory[:filled].flatten(0, 1), self.memory_labels[:filled].flatten()
        if any(size < self.memory.shape[1] for size in self.count("sizes")[:filled]):
            stored = torch.arange(self.memory.shape[1], device=memory.device) < self.sizes[:filled, None]
            memory, labels = memory[stored.flatten()], labels[stored.flatten()]
        # Other rows stand for those that are not finite: to leave them out, a GPU would wait for their number.
        finite = (memory * 0).sum(1) == 0  # faster than isfinite
        rows = (~finite).to(torch.uint8).argsort(stable=True)  # finite ones first, in order
        rows = rows[torch.arange(len(rows), device=rows.device) % finite.sum().clamp(min=1)]
        usable = finite.any()
        return memory.index_select(0, rows).where(usable, 0), labels.index_select(0, rows), usable

    def _store(self, embeddings: Tensor, labels: Tensor) -> None:
        """Store a batch in place of the oldest."""
        steps, sizes, size = self.count("steps"), self.count("sizes"), len(embeddings)
        slot = steps % len(self.memory)
        self.memory[slot, :size].copy_(embeddings)
        self.memory_labels[slot, :size].copy_(labels)
        self.sizes[slot].fill_(size)
        self.steps.add_(1)
        self.set_count("steps", steps + 1)
        self.set_count("sizes", [*sizes[:slot], size, *sizes[slot + 1 :]])

    def extra_repr(self) -> str:
        """Return sizes for ``repr``."""
        batches, size, dim = self.memory.shape
        return f"embedding_dim={dim}, memory_batches={batches}, batch_size={size}, start={self.start}"

"""What all losses share: the calling convention of pytorch-metric-learning."""

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NORMALIZED_LENGTH", "MetricLoss", "working_dtype"]

NORMALIZED_LENGTH = 3.0
"""A mean length at which hardly an embedding lies in the unit ball, so that φ compares directions alone."""


class MetricLoss(nn.Module):
    """A loss called as those of pytorch-metric-learning are.

    ``loss(embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None)`` returns a scalar tensor, so the
    losses, miners and wrappers of each library work with those of the other. Without references, the batch is compared
    with itself, a sample never with itself. The loss is computed in float32 (float64 for float64 input), also under
    autocast.

    Args of a call:
        embeddings: The batch, shape (B, d), floating point, not normalized.
        labels: Classes of the batch, shape (B,), integer.
        indices_tuple: Pairs (anchor, positive, anchor, negative) or triplets (anchor, positive, negative) to compare,
            as index vectors, such as from a miner; by default all that the labels allow.
        ref_emb: References, shape (M, d).
        ref_labels: Classes of the references, shape (M,); required with ``ref_emb``.

    Raises:
        ValueError: When called with a wrong shape, dtype or index, or with only one of ``ref_emb`` and ``ref_labels``.
            If classes are numbered, labels out of range raise too (on an accelerator but mps, by a device assertion, so
            that no step waits for the device).
    """

    @property
    def starting_length(self) -> float:
        """The mean length of embeddings from which training with this loss starts well; see `ccpml.start_head`.

        It is that of the pair loss for a loss around one, such as `CCPLoss`.
        """
        length: float = getattr(getattr(self, "loss", None), "starting_length", NORMALIZED_LENGTH)
        return length

    @property
    def __class__(self) -> Any:
        """The type; once pytorch-metric-learning is imported, also a subclass of its base class.

        Its ``DistributedLossWrapper`` accepts nothing else, and this package does not import it for that.
        """
        library, own = sys.modules.get("pytorch_metric_learning.losses.base_metric_loss_function"), type(self)
        if library is None or issubclass(own, library.BaseMetricLossFunction):
            return own
        return _joint_class(own, library.BaseMetricLossFunction)  # type: ignore[arg-type]

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        """Change the type, as parametrizations do."""
        vars(object)["__class__"].__set__(self, kind)

    def __reduce__(self) -> Any:
        """Pickle by the type itself, which ``__class__`` may not be."""
        return _new, (type(self),), self.__dict__

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script``, which calls this.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"{type(self).__name__}: expected no torch.jit.script, got one; script the model alone")

    def extra_repr(self) -> str:
        """Return the parameters for ``repr``."""
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype a loss computes in: float64 if any tensor is, otherwise float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


@cache
def _joint_class(own: Any, other: Any) -> Any:
    return type(own.__name__, (own, other), {"__module__": own.__module__, "__qualname__": own.__qualname__})


def _new(kind: type[MetricLoss]) -> MetricLoss:
    return kind.__new__(kind)

"""Any pair loss as ℓ: ours, and those and the wrappers of pytorch-metric-learning."""

import dis
from collections.abc import Callable
from inspect import Parameter, signature, unwrap
from types import CodeType
from typing import Any, Final

import torch
from torch import Tensor, nn

from ccpml.distributed import gather_batch
from ccpml.method.checks import check_loss, uncompiled
from ccpml.method.metric_loss import MetricLoss
from ccpml.method.normalize import lipschitz_normalize
from ccpml.method.pair_loss import PairLoss
from ccpml.method.proxies import ClassProxies
from ccpml.pairwise.indices import Indices
from ccpml.pairwise.inputs import describe

__all__ = [
    "against_batch",
    "against_references",
    "check_can_ignore_pairs",
    "check_pair_loss",
    "joint_batch",
    "normalization_of",
    "normalized_for",
]

_REFUSALS: Final = {"ref_not_supported", "labels_not_supported"}
"""Functions that losses of pytorch-metric-learning call if they take no references, although their ``forward`` does."""


def check_pair_loss(loss: object) -> None:
    """Check that a loss can be computed against references, or is a wrapper of such.

    Raises:
        ValueError: If it is no loss, or has proxies of its own in place of references.
    """
    check_loss(loss)
    for _, part in _weighted_losses(loss):
        if not _takes_references(part):
            raise ValueError(f"loss: expected a pair loss, which takes ref_emb, got {type(part).__name__}")


def check_can_ignore_pairs(loss: object) -> None:
    """Check that a loss leaves out the pairs that `against_references` ignores.

    Raises:
        ValueError: If it compares all pairs, whatever ``indices_tuple`` has.
    """
    if any(_is(part, "NCALoss") for _, part in _weighted_losses(loss)):
        raise ValueError("nearest_positives: expected None with NCALoss, which compares all pairs, whatever is ignored")


def _takes_references(loss: nn.Module) -> bool:
    if isinstance(loss, ClassProxies) or not getattr(loss, "takes_references", True):
        return False
    methods = (getattr(type(loss), name, None) for name in ("compute_loss", "forward"))
    for code in (getattr(unwrap(method), "__code__", None) for method in methods if method is not None):
        if code is not None and (_REFUSALS & {*code.co_names} or _ignores(code, "ref_emb")):
            return False
    parameters = signature(loss.forward).parameters.values()
    return any(each.name == "ref_emb" or each.kind is Parameter.VAR_KEYWORD for each in parameters)


def _ignores(code: CodeType, name: str) -> bool:
    """Whether a function has an argument that it never reads, and is no abstract one."""
    used = (one.argval for one in dis.get_instructions(code))  # from Python 3.13 on, several at a time
    read = any(name == each or (isinstance(each, tuple) and name in each) for each in used)
    others = {"NotImplementedError", "locals"} & {*code.co_names}  # of a class whose ``forward`` does all; all of them
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return name in arguments and not read and not others


def normalization_of(loss: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return how vectors are normalized before a loss compares them."""
    parts = [part for _, part in _weighted_losses(loss) if isinstance(part, PairLoss)]
    return parts[0].normalized if parts else lipschitz_normalize


def normalized_for(loss: nn.Module, x: Tensor) -> Tensor:
    """Return what a loss is called with: φ(x), or x itself for our losses, which normalize themselves."""
    ours = all(isinstance(part, PairLoss) for _, part in _weighted_losses(loss))
    return x if ours else lipschitz_normalize(x)


def against_batch(
    loss: nn.Module,
    batch: Tensor,
    labels: Tensor,
    indices_tuple: Indices | None,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
) -> Tensor:
    """Compute ℓ(e, e), or ℓ(e, references) if references are given; the batch is as `normalized_for` returns it."""
    options: dict[str, Any] = {} if indices_tuple is None else {"indices_tuple": indices_tuple}
    if ref_emb is not None:
        options |= {"ref_emb": normalized_for(loss, ref_emb.to(batch.dtype)), "ref_labels": ref_labels}
    return _scalar(loss, loss(batch, labels, **options))


def joint_batch(loss: nn.Module, batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch of all ranks for a loss that contains a ``DistributedLossWrapper``, otherwise this batch."""
    distributed = any(_is(part, "DistributedLossWrapper") for part in loss.modules())
    return gather_batch(batch, labels) if distributed else (batch, labels)


def against_references(
    loss: nn.Module,
    batch: Tensor,
    labels: Tensor,
    references: Tensor,
    ref_labels: Tensor,
    max_positives: int | None = None,
    ignored: Tensor | None = None,
    group: Any = None,
) -> Tensor:
    """Compute ℓ(e, q) over all pairs with references, not normalized, also of a wrapper that takes none.

    A wrapper stands for the losses within it: ``MultipleLosses`` for their weighted sum, without its miners, which mine
    within a batch; ``CrossBatchMemory``, also ours, and ``DistributedLossWrapper`` for their loss. Other arguments are
    those of `PairLoss.against`. ``max_positives`` and ``group`` concern our losses alone; others get the pairs without
    those ``ignored`` as ``indices_tuple``.
    """
    references, total = normalized_for(loss, references), batch.new_zeros(())
    options: dict[str, Any] = {"max_positives": max_positives, "ignored": ignored, "group": group}
    for weight, part in _weighted_losses(loss):
        if isinstance(part, PairLoss):
            value = part.against(batch, labels, references, ref_labels, **options)
        else:
            indices = {} if ignored is None else {"indices_tuple": _pairs_without(labels, ref_labels, ignored)}
            value = _scalar(part, part(batch, labels, ref_emb=references, ref_labels=ref_labels, **indices))
        total = total + weight * value
    return total


def _scalar(loss: nn.Module, value: object) -> Tensor:
    """Return the value of a loss, which may be of another library.

    Raises:
        ValueError: If it is no scalar, but such as one for each pair.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        name = type(loss).__name__
        raise ValueError(f"loss: expected a scalar from {name}, got {describe(value)}; choose a reduction to one")
    return value.view(())


def _pairs_without(labels: Tensor, ref_labels: Tensor, ignored: Tensor) -> Indices:
    """Return all pairs of anchors and references but those ignored, given by index."""
    same = labels[:, None] == ref_labels  # (B, M)
    anchors, positives = torch.where(same.scatter(1, ignored, value=False))
    others, negatives = torch.where(~same)
    return anchors, positives, others, negatives


def _weighted_losses(loss: Any, weight: float = 1.0) -> list[tuple[float, nn.Module]]:
    """Return the losses within wrappers, ours, torch's and those of pytorch-metric-learning, with their weights."""
    loss = uncompiled(loss)
    if _is(loss, "MultipleLosses"):
        parts = loss.losses.items() if isinstance(loss.losses, nn.ModuleDict) else enumerate(loss.losses)
        return [one for key, part in parts for one in _weighted_losses(part, weight * loss.weights[key])]
    if _is(loss, "CrossBatchMemory", "DistributedLossWrapper"):
        return _weighted_losses(loss.loss, weight)
    inner = getattr(loss, "loss", None)  # the method of a pair loss, or the loss that a wrapper holds
    if isinstance(loss, MetricLoss) and isinstance(inner, nn.Module) and not isinstance(loss, ClassProxies):
        return _weighted_losses(inner, weight)
    return [(weight, loss)]


def _is(loss: nn.Module, *names: str) -> bool:
    """Whether this is such a wrapper of pytorch-metric-learning, which the method does not import."""
    kinds = type(loss).__mro__
    return any(kind.__name__ in names and kind.__module__.startswith("pytorch_metric_learning.") for kind in kinds)

"""Start of the embedding layer in closed form: PCA, or PCA and whitening of the within-class scatter.

Shapes: N images, D features, d dimensions, C classes, r ≤ min(d, D) directions along which the features vary.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ccpml.distributed import all_gather
from ccpml.method.checks import check_embeddings, check_labels, check_number
from ccpml.numbers import as_int, is_one_of
from ccpml.pairwise.inputs import check_finite

__all__ = ["HeadStart", "closed_form_head", "start_head"]

SHRINKAGE = 0.1
"""ρ for classes of enough images."""

_CHUNK_ELEMENTS = 2**23  # of features in float64 at a time

Kind = Literal["whitening", "pca"]


class HeadStart(NamedTuple):
    """A linear layer in closed form, float64."""

    weight: Tensor  # (d, D)
    bias: Tensor  # (d,)
    kind: Kind  # pca instead of whitening if no class varies
    rank: int  # r


def closed_form_head(
    features: Tensor,
    labels: Tensor,
    dim: int,
    kind: Kind = "whitening",
    length: float = 1.0,
    shrinkage: float | Literal["auto"] = SHRINKAGE,
) -> HeadStart:
    """Return the linear layer that whitens features, or projects them onto their principal directions.

    With the mean μ and the first d principal directions P (D, d) of the features, and the within-class scatter
    S = (1/N) Σ_i P⊤(x_i − m_{c(i)})(x_i − m_{c(i)})⊤P, shrunk to S + ρ · (tr S / d) · I, where m_c is the mean of
    class c, and L L⊤ = S⁻¹ (Cholesky):

    - ``whitening`` is f(x) = s · L⊤P⊤(x − μ);
    - ``pca`` is f(x) = s · P⊤(x − μ).

    The scale s makes ``length`` the mean length of the embeddings of the given features. In each direction of P the
    component of largest magnitude is positive.

    Where the data do not determine d dimensions, the layer still has full rank, so all of it can be trained:

    - Features vary along r < d directions (fewer images than dimensions): L and S are those of the first r. Along the
      others the given features have no component, but unseen images have: d − r orthonormal directions, drawn at random
      from a fixed seed, stand for all D − r of them. They enter with the smallest gain of the first r, times
      √((D − r) / (d − r)), so that distances keep their mean (Johnson and Lindenstrauss).
    - d > D: the D-dimensional layer is followed by an isometry to d dimensions, which changes no distance.
    - No class varies, as when each has one image: whitening is not defined, and the result is that of ``pca``.

    Sums are in float64, over parts of the features, on their device (on the CPU if that has no float64).

    Args:
        features: Features of the training images, floating point (N, D).
        labels: Classes, integer (N,).
        dim: d.
        kind: ``whitening`` or ``pca``.
        length: Mean length of the embeddings.
        shrinkage: ρ. ``"auto"`` is 0.1, or the number of dimensions per degree of freedom of S, r / (N − C), if that is
            more: the fewer images a class has, the less its scatter is known.

    Raises:
        ValueError: If an argument has a wrong shape, type or range; if a feature is not finite, or all images have the
            same features.

    Example:
        >>> features, labels = torch.randn(60, 5), torch.arange(60) % 4
        >>> head = closed_form_head(features, labels, dim=3, length=0.5)
        >>> embeddings = features.double() @ head.weight.T + head.bias
        >>> embeddings.norm(dim=1).mean()
        tensor(0.5000, dtype=torch.float64)

    Source: Mikolajczyk and Matas, "Improving Descriptors for Fast Tree Matching by Optimal Linear Projection", ICCV
    2007; Radenović et al., "Fine-Tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019 (learned whitening).
    For d < C it is close to Fisher's linear discriminant (1936).
    """
    check_embeddings("features", features)
    check_labels("labels", labels, len(features))
    dim = as_int("dim", dim, 1)
    check_number("length", length, above=0)
    if shrinkage != "auto":
        check_number("shrinkage", shrinkage, above=0)
    if not is_one_of(kind, ("whitening", "pca")):
        raise ValueError(f"kind: expected 'whitening' or 'pca', got {kind!r}")
    features = features.detach()
    if features.device.type == "mps":  # no float64
        features = features.cpu()
    check_finite("features", features)
    mean, scatter = _mean_and_scatter(features)
    if scatter.trace().sqrt() <= 4 * torch.finfo(features.dtype).eps * mean.norm():  # within the error of rounding
        raise ValueError(f"features: expected images with different features, got the same for all {len(features):,}")
    directions = _principal_directions(scatter, dim, len(features))  # P
    layer, rank = directions.T, directions.shape[1]  # (r, D)
    if kind == "whitening":
        within, freedom = _within_class_scatter(features, mean, labels.to(features.device), directions)  # S
        if within.trace() > torch.finfo(within.dtype).eps * scatter.trace():
            strength = max(SHRINKAGE, rank / freedom) if shrinkage == "auto" else shrinkage
            layer = _whitening(within, strength) @ layer
        else:
            kind = "pca"
    layer = torch.cat([layer, _complement(layer, min(dim, len(scatter)) - rank)])  # (min(d, D), D)
    if dim > len(layer):
        layer = _isometry(dim, len(layer)).to(layer) @ layer
    lengths = torch.cat([(rows @ layer.T).norm(dim=1) for _, rows in _centered(features, mean)])
    layer = layer * (length / lengths.mean())
    return HeadStart(layer, -(layer @ mean), kind, rank)


@torch.no_grad()
def start_head(
    layer: nn.Linear, features: Tensor, labels: Tensor, kind: Kind = "whitening", length: float = 1.0
) -> HeadStart:
    """Start the embedding layer in closed form, in place, from the features of the training images.

    The length of the embeddings should suit the loss: ``criterion.starting_length``. In a process group each rank calls
    this, with the same features, and all ranks get the layer of the first. See `closed_form_head`; the shrinkage is
    ``"auto"``.

    Args:
        layer: Linear layer with a bias, from D features to d dimensions: ``model.linear`` of an
            [`EmbeddingModel`][ccpml.EmbeddingModel] with ``bias=True``, or of a network of your own.
        features: Features that the layer receives, floating point (N, D), such as from
            [`pooled_features`][ccpml.pooled_features].
        labels: Classes, integer (N,).
        kind: ``whitening`` or ``pca``.
        length: Mean length of the embeddings.

    Returns:
        The layer in float64. Its ``kind`` is ``pca``, with a warning, if whitening is not defined.

    Raises:
        ValueError: If the layer is not a linear one with a bias, if its weight is parametrized or of another number of
            features, or as in `closed_form_head`.

    Example:
        >>> from ccpml import ContrastiveLoss, create_model, pooled_features
        >>> model = create_model("small_conv", embedding_dim=16, channels=1, bias=True)
        >>> batches = [(torch.rand(8, 1, 32, 32), torch.arange(8) // 2) for _ in range(4)]
        >>> features, labels = pooled_features(model, batches)
        >>> start = start_head(model.linear, features, labels, length=ContrastiveLoss(neg_margin=0.4).starting_length)
        >>> start.kind, start.weight.shape
        ('whitening', torch.Size([16, 128]))
    """
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"layer: expected nn.Linear, got {type(layer).__name__}; pass the layer itself")
    if not isinstance(layer.weight, nn.Parameter):  # it is computed at each use, so writing to it has no effect
        raise ValueError("layer: expected a weight that is a parameter, got a parametrized one; parametrize it later")
    if layer.bias is None:
        raise ValueError("layer: expected a linear layer with a bias, got none; create the model with bias=True")
    check_embeddings("features", features, layer.in_features)
    start = closed_form_head(features, labels, layer.out_features, kind, length, "auto")
    if start.kind != kind:
        warnings.warn("no class has two different images, so there is nothing to whiten; using pca", stacklevel=2)
    weight, bias = all_gather(start.weight)[0], all_gather(start.bias)[0]
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return start._replace(weight=weight, bias=bias)


def _mean_and_scatter(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return μ, (D,), and (1/N) Σ (x − μ)(x − μ)⊤, (D, D)."""
    count, dim = features.shape
    if count == 0 or dim == 0:
        raise ValueError(f"features: expected at least one row and column, got {tuple(features.shape)}")
    first = features[0].double()  # differences to a row are exactly 0 where features are constant
    total = torch.zeros_like(first)
    for _, rows in _centered(features, first):
        total += rows.sum(dim=0)
    mean, scatter = first + total / count, first.new_zeros(dim, dim)
    for _, rows in _centered(features, mean):
        scatter.addmm_(rows.T, rows)
    return mean, scatter / count


def _centered(features: Tensor, mean: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield parts of x − μ in float64, with the number of their first row."""
    size = max(1, _CHUNK_ELEMENTS // features.shape[1])
    for start in range(0, len(features), size):
        yield start, features[start : start + size].double() - mean


def _principal_directions(scatter: Tensor, count: int, samples: int) -> Tensor:
    """Return the first principal directions, at most ``count``, along which the features vary, (D, r)."""
    values, vectors = torch.linalg.eigh(scatter)  # ascending
    tolerance = values[-1] * max(samples, len(scatter)) * torch.finfo(values.dtype).eps
    rank = min(count, int((values > tolerance).sum()))
    directions: Tensor = vectors.flip(1)[:, :rank]
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return directions * largest.sign()


def _within_class_scatter(features: Tensor, mean: Tensor, labels: Tensor, directions: Tensor) -> tuple[Tensor, int]:
    """Return S of the projections onto some directions, (r, r), and its degrees of freedom, N − C."""
    classes, index, counts = torch.unique(labels.long(), return_inverse=True, return_counts=True)
    sums = directions.new_zeros(len(classes), directions.shape[1])  # (C, r)
    for start, rows in _centered(features, mean):
        sums.index_add_(0, index[start : start + len(rows)], rows @ directions)
    means, scatter = sums / counts[:, None], directions.new_zeros([directions.shape[1]] * 2)
    for start, rows in _centered(features, mean):
        difference = rows @ directions - means[index[start : start + len(rows)]]
        scatter.addmm_(difference.T, difference)
    return scatter / len(features), len(features) - len(classes)


def _whitening(within: Tensor, shrinkage: float) -> Tensor:
    """Return L⊤, (r, r)."""
    rank = len(within)
    shrunk = within + shrinkage * within.trace() / rank * torch.eye(rank, device="cpu").to(within)
    lower: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(shrunk)))  # L
    return lower.T


def _complement(layer: Tensor, count: int) -> Tensor:
    """Return more rows of a layer (r, D), orthogonal to its rows, (count, D): see `closed_form_head`."""
    rank, features = layer.shape
    if count == 0:
        return layer[:0]
    basis = torch.linalg.qr(layer.T).Q  # (D, r)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(features, count, dtype=layer.dtype, generator=generator, device="cpu").to(layer.device)
    for _ in range(2):  # once more, for the error of rounding
        drawn = torch.linalg.qr(drawn - basis @ (basis.T @ drawn)).Q
    smallest: Tensor = torch.linalg.svdvals(layer)[-1]
    return smallest * math.sqrt((features - rank) / count) * drawn.T


def _isometry(rows: int, columns: int) -> Tensor:
    """Return the first columns of the orthonormal cosine transform (DCT-II), (rows, columns)."""
    row, column = (torch.arange(count, dtype=torch.float64, device="cpu") for count in (rows, columns))
    matrix = (math.pi / rows * (row[:, None] + 0.5) * column).cos() * math.sqrt(2 / rows)
    matrix[:, 0] /= math.sqrt(2)
    return matrix

"""φ-normalized vectors in NumPy, and the joint vectors of several models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ccpml.numbers import as_tuple

__all__ = ["as_array", "as_numbers", "as_own", "as_rows", "check_finite", "join", "normalize"]


def normalize(vectors: ArrayLike) -> NDArray[np.float32]:
    """Return φ(v) = v / max(1, ‖v‖) of vectors (N, d), in float32; vectors of length at most 1 are unchanged.

    Raises:
        ValueError: If they have another shape or type, or a value is NaN or infinite.

    Example:
        >>> normalize([[3.0, 4.0], [0.0, 0.5]]).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.5]]

    Source: Gürbüz et al., WACV 2024, Lemma 4.1.
    """
    rows = as_rows("vectors", vectors)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)  # (N, 1)
    return np.where(lengths > 1, rows / np.maximum(lengths, 1), rows).astype(np.float32)


def join(embeddings: Sequence[ArrayLike]) -> NDArray[np.float32]:
    """Return the joint embeddings of an ensemble, φ([φ(e₁) … φ(e_F)]), shape (N, d₁ + … + d_F).

    Args:
        embeddings: Embeddings of the same images by each model, (N, d₁), …, (N, d_F).

    Raises:
        ValueError: If there is none, they have different numbers of rows, or as in `normalize`.

    Example:
        >>> np.round(join([[[1.0, 0.0]], [[0.0, 1.0]]]).astype(float), 4).tolist()
        [[0.7071, 0.0, 0.0, 0.7071]]

    Source: Musgrave et al., ECCV 2020, section 4.1 (concatenation); φ as above.
    """
    parts = [normalize(part) for part in as_tuple("embeddings", embeddings, "those of each model")]
    if not parts or len({len(part) for part in parts}) > 1:
        raise ValueError(f"embeddings: expected the same images of each model, got {[len(part) for part in parts]}")
    return normalize(np.concatenate(parts, axis=1))


def as_rows(name: str, vectors: ArrayLike, dim: int | None = None) -> NDArray[np.float32]:
    """Return vectors as contiguous float32 of finite values, shape (N, d).

    Raises:
        ValueError: If they have another shape or type, or a value is NaN or infinite.
    """
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(as_array(name, vectors, dim), dtype=np.float32)
    check_finite(name, rows)
    return rows


def as_own(own: ArrayLike | None, queries: int, gallery: int) -> NDArray[np.int64] | None:
    """Return the row of each query in the gallery as int64, (Q,); None if the queries are not there.

    Raises:
        ValueError: If there is not a row of the gallery for each query.

    Example:
        >>> as_own([0, 5], 2, 4)
        Traceback (most recent call last):
        ValueError: own: expected rows 0..3 of the gallery, got 0..5
    """
    if own is None:
        return None
    rows = as_numbers("own", own)
    if rows.shape != (queries,) or (queries and rows.dtype.kind not in "iu"):
        raise ValueError(f"own: expected {queries} integers, one for each query, got {rows.dtype} of {rows.shape}")
    if queries and not 0 <= rows.min() <= rows.max() < gallery:
        raise ValueError(f"own: expected rows 0..{gallery - 1} of the gallery, got {rows.min()}..{rows.max()}")
    return rows.astype(np.int64)


def check_finite(name: str, rows: NDArray[Any], first: int = 0) -> None:
    """Raise ValueError if a value of rows (n, d) is NaN or infinite; the number of the first row is for the message."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):  # of finite values the sum may overflow
            return
    bad = (~np.isfinite(rows).all(axis=1)).nonzero()[0]
    if len(bad):
        value = rows[bad[0]][~np.isfinite(rows[bad[0]])][0]
        raise ValueError(
            f"{name}: expected finite values, got {value} in row {first + bad[0]} (the first of {len(bad)})"
        )


def as_array(name: str, vectors: ArrayLike, dim: int | None = None) -> NDArray[Any]:
    """Return vectors as an array (N, d) of any floating-point or integer type.

    Raises:
        ValueError: If they have another shape or type, or some are masked.
    """
    rows = as_numbers(name, vectors)
    if rows.ndim != 2 or rows.shape[1] != (dim or rows.shape[1] or 1):
        expected = "(N, d), d at least 1" if dim is None else f"(N, {dim})"
        raise ValueError(f"{name}: expected floating point of shape {expected}, got {rows.dtype} of {rows.shape}")
    return rows


def as_numbers(name: str, vectors: ArrayLike) -> NDArray[Any]:
    """Return an array of any shape.

    Raises:
        ValueError: If some values are masked, or they are none of an array.
    """
    if np.ma.is_masked(vectors):
        raise ValueError(f"{name}: expected all values, got a masked array; pass those that are not masked")
    try:
        rows = np.asarray(vectors)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of several lengths; tensors that have no array
        raise ValueError(f"{name}: expected an array of numbers, got {type(vectors).__name__} ({error})") from None
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected an array of numbers, got {rows.dtype} of {rows.shape}")
    return rows

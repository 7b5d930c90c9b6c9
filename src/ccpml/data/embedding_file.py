"""Files of embeddings, with the names of images and classes: NumPy's .npz and Apache Parquet. Imports no torch."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ccpml.data.table import ImageTable
from ccpml.files import write_arrays, write_bytes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "check_finite", "write_embeddings"]

FORMATS: Final = (".npz", ".parquet")
"""Suffixes of the files that `write_embeddings` writes."""


def write_embeddings(
    path: Path,
    embeddings: NDArray[np.float32],
    table: ImageTable,
    split_of_class: Mapping[str, str] | None = None,
    fingerprint: str = "",
) -> None:
    """Write embeddings with the names, classes and roles of their images, whole or not at all.

    An .npz file has ``embeddings`` (N, d), ``labels`` (N,), ``class_names`` (C,), ``paths`` (N,), ``roles`` (N,) and,
    if known, ``splits`` (C,). A Parquet file has a row for each image with the columns ``path``, ``label`` (the name of
    its class), ``split``, ``role`` and ``embedding``, a list of d float32 numbers; what is unknown is null. Its
    metadata have JSON under ``ccpml``, with ``fingerprint`` and ``embedding_dim``.

    Args:
        path: The file; a name that ends in .parquet makes it Parquet, which needs pyarrow.
        embeddings: φ-normalized embeddings, float32 (N, d).
        table: The images.
        split_of_class: Split in which a class of a name was when the model was trained; None: it is not written.
        fingerprint: That of the model.

    Raises:
        ValueError: If an embedding is not finite; nothing is written.
        WriteError: If the file cannot be written.
    """
    check_finite(embeddings, table.name_of, f"{path}: not written")
    paths = [table.name_of(row) for row in range(len(table))]
    roles = [""] * len(table) if table.roles is None else table.roles.tolist()
    splits = None if split_of_class is None else [split_of_class.get(name, "") for name in table.class_names]
    if path.suffix == ".parquet":
        _write_parquet(path, _arrow_table(embeddings, table, paths, roles, splits, fingerprint))
        return
    write_arrays(
        path,
        embeddings=embeddings,
        labels=table.labels,
        class_names=np.array(table.class_names),
        paths=np.array(paths),
        roles=np.array(roles),
        **({} if splits is None else {"splits": np.array(splits)}),
    )


def check_finite(embeddings: NDArray[np.float32], name_of: Callable[[int], str], what: str) -> None:
    """Check that embeddings of images, (N, d), are finite.

    Raises:
        ValueError: If they are not; it begins with ``what``, and has the name of an image by its row.
    """
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        found = f"{len(broken):,} of {len(embeddings):,} images, such as {name_of(int(broken[0]))}"
        raise ValueError(
            f"{what}: expected finite embeddings, got NaN or infinity for {found}; the weights have diverged or "
            "are damaged"
        )


def _arrow_table(
    embeddings: NDArray[np.float32],
    table: ImageTable,
    paths: Sequence[str],
    roles: Sequence[str],
    splits: Sequence[str] | None,
    fingerprint: str,
) -> "pa.Table":
    import pyarrow as pa

    dim = embeddings.shape[1]
    columns = {
        "path": paths,
        "label": [table.class_names[label] for label in table.labels],
        "split": [""] * len(table) if splits is None else [splits[label] for label in table.labels],
        "role": roles,
    }
    texts = {name: pa.array(map(_text, values), pa.string()) for name, values in columns.items()}
    numbers = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))  # (N · d,)
    vectors = pa.FixedSizeListArray.from_arrays(numbers, dim)
    facts = json.dumps({"fingerprint": fingerprint, "embedding_dim": dim})
    result = pa.table({**texts, "embedding": vectors})
    return result.replace_schema_metadata({"ccpml": facts})


def _text(value: str) -> str | None:
    """Return a text for Parquet, None for an empty one; bytes of file names that are not UTF-8 are escaped."""
    return value.encode("utf-8", errors="backslashreplace").decode("utf-8") or None


def _write_parquet(path: Path, table: "pa.Table") -> None:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content, use_dictionary=["label", "split", "role"])
    write_bytes(path, content.getbuffer())

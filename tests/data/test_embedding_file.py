"""Files of embeddings: .npz and Parquet say the same."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccpml.data import ImageTable
from ccpml.data.embedding_file import write_embeddings

TABLE = ImageTable(
    (Path("a/1.jpg"), Path("a/2.jpg"), Path("b/größe.jpg"), Path("u.jpg")),
    np.array([0, 0, 1, 2]),
    ("a", "b", ""),
    np.array(["query", "gallery", "", ""]),
)
EMBEDDINGS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) / 4
SPLITS = {"a": "train", "b": "test", "c": "test"}


def test_npz(tmp_path: Path):
    write_embeddings(tmp_path / "x.npz", EMBEDDINGS, TABLE, SPLITS)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        found = {name: file[name].tolist() for name in file.files}
    np.testing.assert_array_equal(found.pop("embeddings"), EMBEDDINGS)
    assert found == {
        "labels": [0, 0, 1, 2],
        "class_names": ["a", "b", ""],
        "paths": ["a/1.jpg", "a/2.jpg", "b/größe.jpg", "u.jpg"],
        "roles": ["query", "gallery", "", ""],
        "splits": ["train", "test", ""],
    }
    write_embeddings(tmp_path / "y.npz", EMBEDDINGS, TABLE)
    with np.load(tmp_path / "y.npz", allow_pickle=False) as file:
        assert "splits" not in file.files


def test_parquet(tmp_path: Path):
    write_embeddings(tmp_path / "x.parquet", EMBEDDINGS, TABLE, SPLITS, fingerprint="f" * 64)
    found = pq.read_table(tmp_path / "x.parquet")
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert json.loads(found.schema.metadata[b"ccpml"]) == {"fingerprint": "f" * 64, "embedding_dim": 3}
    rows = found.to_pydict()
    np.testing.assert_array_equal(np.float32(rows.pop("embedding")), EMBEDDINGS)
    assert rows == {
        "path": ["a/1.jpg", "a/2.jpg", "b/größe.jpg", "u.jpg"],
        "label": ["a", "a", "b", None],
        "split": ["train", "train", "test", None],
        "role": ["query", "gallery", None, None],
    }
    frame = pd.read_parquet(tmp_path / "x.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), EMBEDDINGS)
    assert frame["label"].isna().tolist() == [False, False, False, True]


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path):
    table = ImageTable((Path("caf\udce9.jpg"),), np.array([0]), ("a",))
    write_embeddings(tmp_path / "x.parquet", EMBEDDINGS[:1], table)
    assert pq.read_table(tmp_path / "x.parquet")["path"].to_pylist() == ["caf\\udce9.jpg"]


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_nothing_is_written_of_embeddings_that_are_not_finite(name: str, tmp_path: Path):
    broken = EMBEDDINGS.copy()
    broken[1, 2] = np.inf
    with pytest.raises(ValueError, match=rf"{name}: not written: expected finite .* 1 of 4 images, such as a/2\.jpg;"):
        write_embeddings(tmp_path / name, broken, TABLE)
    assert list(tmp_path.iterdir()) == []

import json

import numpy as np
import pytest

from ccpml.files import write_arrays, write_json, write_text, write_whole


def test_writes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"é": 1.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1.5}
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_arrays_load_without_pickle(tmp_path):
    write_arrays(tmp_path / "x.npz", x=np.arange(3), names=np.array(["a", "bc"]))
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert file["x"].tolist() == [0, 1, 2]
        assert file["names"].tolist() == ["a", "bc"]


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.npz: x holds objects"):
        write_arrays(tmp_path / "x.npz", x=np.array([{}]))
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail(to):
        to.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]

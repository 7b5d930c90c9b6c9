import numpy as np
import pytest

from ccpml.data import ImageTable, Source


def test_every_class_needs_a_split() -> None:
    table = ImageTable(np.zeros((2, 2, 2), np.uint8), np.array([0, 1]), ("a", "b"))
    Source(table, {"a": "train", "b": "test", "dropped": "test"})
    with pytest.raises(ValueError, match="class 'b': expected a split"):
        Source(table, {"a": "train"})

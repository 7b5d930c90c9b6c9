import importlib

import faiss
import numpy as np
import pytest

from ccpml.reranking.quantization import search_with


@pytest.mark.parametrize("library", ["faiss", "faiss.contrib.torch_utils"])
def test_a_search_with_parameters_works_beside_the_torch_utilities_of_faiss(library):
    """Pytorch-metric-learning imports them, and they replace `search` by a method without parameters."""
    importlib.import_module(library)
    rows = np.eye(6, dtype=np.float32)
    index = faiss.IndexFlatL2(6)
    index.add(rows)
    selector = faiss.IDSelectorBitmap(np.packbits([0, 0, 1, 1, 0, 0, 0, 0], bitorder="little"))
    found = search_with(index, rows[3:4], 2, faiss.SearchParameters(sel=selector))
    assert found.tolist() == [[3, 2]]

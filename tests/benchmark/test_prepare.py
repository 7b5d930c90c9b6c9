from dataclasses import replace

import pytest

from ccpml.benchmark.prepare import prepare_benchmark
from ccpml.benchmark.protocol import Benchmark
from ccpml.benchmark.rows import table_rows
from tests.toy import quick_settings, toy_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


def test_folds_that_are_left_open_fit_the_classes(folder, tmp_path, capsys):
    """The toy data have 6 classes that are not for testing: the protocol's 4 folds would have a single one."""
    base = quick_settings(data=f"folder:{folder}", folds=None, classes_per_batch=2)
    benchmark = Benchmark(base, table_rows(["c2"], ["plain"]), tmp_path / "out")
    made = prepare_benchmark(benchmark)
    assert (made.base.folds, [cell.fold for cell in made.cells()]) == (3, [0, 1, 2])
    assert "folds 3: two or more of the 6 classes that are not for testing in each" in capsys.readouterr().err
    assert prepare_benchmark(benchmark) == made, "called again"
    given = replace(benchmark, base=replace(base, folds=4), out=tmp_path / "given")
    with pytest.raises(ValueError, match="validation: expected at least two classes"):
        prepare_benchmark(given)

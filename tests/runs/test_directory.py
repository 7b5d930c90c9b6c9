import pytest

from ccpml.options import ProjectionOptions
from ccpml.runs.directory import RunDirectory
from ccpml.runs.settings import Settings


def test_an_experiment_comes_back_as_it_was(tmp_path):
    settings = Settings(
        data="folder:/ä b", lr=0.1, test_classes=["x/*"], projections=ProjectionOptions(rewind=True)
    ).resolved()
    RunDirectory.create(tmp_path / "run", settings)
    run = RunDirectory.open(tmp_path / "run")
    assert run.settings() == settings
    assert not run.finished
    with pytest.raises(FileNotFoundError, match="not finished; go on with ccpml train --resume"):
        run.scores()
    assert run.metrics() == []


def test_nothing_is_overwritten(tmp_path):
    RunDirectory.create(tmp_path / "empty", Settings())  # a new folder
    (tmp_path / "made").mkdir()
    RunDirectory.create(tmp_path / "made", Settings())  # an empty one
    with pytest.raises(FileExistsError, match=r"go on with that run by --resume .*empty, or choose another place"):
        RunDirectory.create(tmp_path / "empty", Settings())
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="there is something already; choose another place with --run"):
        RunDirectory.create(tmp_path / "file", Settings())


@pytest.mark.parametrize("text", ["a: [", "nonsense: 1", "just words", "lr: -1.0"])
def test_a_damaged_experiment_is_named(tmp_path, text):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"settings.yaml: not the settings of a run"):
        RunDirectory.open(tmp_path).settings()


def test_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run is there"):
        RunDirectory.open(tmp_path)

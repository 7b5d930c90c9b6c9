import pytest

from ccpml.options import ProjectionOptions
from ccpml.runs.directory import RunDirectory, RunExistsError
from ccpml.runs.settings import Settings


def test_settings_are_read_back_unchanged(tmp_path):
    settings = Settings(
        data="folder:/ä b", lr=0.1, test_classes=["x/*"], projections=ProjectionOptions(rewind=True)
    ).resolved()
    RunDirectory.create(tmp_path / "run", settings)
    run = RunDirectory.open(tmp_path / "run")
    assert run.settings() == settings
    assert not run.finished
    with pytest.raises(FileNotFoundError, match="the run is not finished"):
        run.scores()
    assert run.metrics() == []


def test_nothing_is_overwritten(tmp_path):
    settings = Settings().resolved()
    RunDirectory.create(tmp_path / "new", settings)
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", settings)
    with pytest.raises(RunExistsError, match="new: a run already exists"):
        RunDirectory.create(tmp_path / "new", settings)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunExistsError, match="file: a file or folder already exists"):
        RunDirectory.create(tmp_path / "file", settings)


@pytest.mark.parametrize("text", ["a: [", "nonsense: 1", "just words", "lr: -1.0"])
def test_damaged_settings_are_named(tmp_path, text):
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"experiment\.yaml: not the settings of a run"):
        RunDirectory.open(tmp_path).settings()


def test_a_folder_without_settings_is_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        RunDirectory.open(tmp_path)

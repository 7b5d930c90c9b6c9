import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import yaml

from ccpml.data.class_records import ClassRecord
from ccpml.files import write_yaml
from ccpml.options import ProjectionOptions
from ccpml.runs.directory import PathTakenError, RunDirectory, RunExistsError
from ccpml.runs.ranges import REMOVED
from ccpml.runs.record import RunRecord
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
    with pytest.raises(PathTakenError, match="file: a file already exists"):
        RunDirectory.create(tmp_path / "file", settings)


def test_of_two_processes_that_create_a_run_the_second_finds_it_taken(tmp_path):
    run, settings = RunDirectory(tmp_path / "run"), Settings().resolved()
    with ThreadPoolExecutor() as pool:
        with run.locked():  # the first is at work
            second = pool.submit(RunDirectory.create, run.path, replace(settings, seed=2), {"chosen": [], "notes": []})
            while not second.running():
                time.sleep(0.01)
            time.sleep(0.1)  # the second waits now
            write_yaml(run.settings_file, settings.as_dict())
        with pytest.raises(RunExistsError, match="run: a run already exists"):
            second.result()
    assert run.settings() == settings
    assert not run.choices_file.exists()


@pytest.mark.parametrize("text", ["a: [", "nonsense: 1", "just words", "lr: -1.0"])
def test_damaged_settings_are_named(tmp_path, text):
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"experiment\.yaml: not the settings of a run"):
        RunDirectory.open(tmp_path).settings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("embedding_dim", "twelve", "embedding_dim: expected int, got 'twelve'"),
        ("lr", "[1]", "lr: expected float or null, got [1]"),
        ("projections.patience", "1.5", "projections.patience: expected int, got 1.5"),
        ("projections", "3", "projections: expected options by name, got 3"),
        ("margin", "wide", "margin: expected float, got 'wide'"),
        ("seed", "1\nseed: 2", "line 2: seed given twice"),
    ],
)
def test_settings_of_another_type_are_named(tmp_path, name, value, message):
    values = Settings(loss="triplet").resolved().as_dict()
    values.pop(name.partition(".")[0])
    text = f"{name.partition('.')[0]}: {value}\n" if "." not in name else f"projections:\n  patience: {value}\n"
    (tmp_path / "experiment.yaml").write_text(text + yaml.safe_dump(values))
    with pytest.raises(ValueError, match=re.escape("experiment.yaml: not the settings of a run: ")) as error:
        RunDirectory.open(tmp_path).settings()
    assert message in str(error.value)


def test_a_folder_without_settings_is_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize(("name", "neutral"), REMOVED.items())
def test_a_setting_that_was_removed_is_read_if_it_has_no_effect(tmp_path, name, neutral, capsys):
    settings = Settings().resolved()
    run = RunDirectory.create(tmp_path / "run", settings)
    assert name not in settings.as_dict()
    file = run.settings_file
    plain = file.read_text()
    file.write_text(f"{name}: {neutral}\n{plain}")
    RunRecord({**settings.flat(), name: neutral}, {"mug": ClassRecord("train", 1, "0")}).write(run.record_file)
    assert run.settings() == run.settings() == settings
    assert capsys.readouterr().err == f"note: {file}: {name}: no longer a setting, and without effect here\n"
    file.write_text(f"{name}: 0.5\n{plain}")
    with pytest.raises(ValueError, match=f"{name}: expected {neutral}, as it is no longer a setting, got 0.5; restore"):
        run.settings()

"""What a search refuses: settings, folders, data and storages that do not fit."""

import errno
import math
import re
import sqlite3
import sys
from dataclasses import replace

import pytest

from ccpml.data.sources.source import SourceNotFoundError
from ccpml.files import WriteError
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import DataMovedError, load_images
from ccpml.runs.record import RunRecord
from ccpml.tuning.search_space import search_space

pytest.importorskip("optuna", reason="Optuna is an extra: ccpml[tune]")

import optuna

from ccpml.tuning.results import damaged_runs
from ccpml.tuning.study import StudyExistsError
from ccpml.tuning.tune import run_search
from tests.damage.states import bound_by_permissions
from tests.toy import toy_folder
from tests.tuning.climbing import climb


def test_other_data_than_those_of_the_trials_are_refused(search, tmp_path):
    folder = toy_folder(tmp_path / "toy", per_class=2)
    search = replace(search, base=replace(search.base, data=f"folder:{folder}", folds=2), trials=1)

    def recorded(settings, path, watcher):
        record = RunRecord(settings.flat(), load_images(settings, progress=False).classes)
        record.write(RunDirectory.create(path, settings).record_file)
        return climb(settings, path, watcher)

    run_search(search, train=recorded)
    run_search(search, train=climb)  # as they were
    settings = search.path(0) / "experiment.yaml"
    settings.rename(tmp_path / "kept")
    lost = damaged_runs(search, run_search(search, train=climb))  # an ended trial stops no other
    assert re.search(r"trial-0000/experiment.yaml: not found; restore it from a copy", lost[0])
    (tmp_path / "kept").rename(settings)
    next(folder.glob("*/class03/0.png")).unlink()
    with pytest.raises(
        StudyExistsError, match=r"trial-0000 was started with, got 1 class \(group0/class03\) with other"
    ):
        run_search(search, train=climb)


def test_a_folder_that_may_not_be_written_is_named_with_the_reason(search, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with bound_by_permissions():
        for out in (closed, closed / "study"):
            with pytest.raises(WriteError, match="Permission denied") as caught:
                run_search(replace(search, out=out), train=climb)
            assert str(caught.value.filename).startswith(str(out))


def test_a_driver_that_is_not_installed_is_the_reason(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    message = (
        "storage postgresql://localhost/x: the driver of its database is not installed; install one, such as psycopg"
    )
    with pytest.raises(ValueError, match=message):
        run_search(replace(search, storage="postgresql://localhost/x"), train=climb)


def test_data_of_a_study_that_are_gone_are_named_with_the_study(search, tmp_path):
    folder = toy_folder(tmp_path / "toy", per_class=2)
    search = replace(search, base=replace(search.base, data=f"folder:{folder}", folds=2), trials=2)
    kept, started = tmp_path / "kept", list[int]()

    def lose(settings, path, watcher):
        started.append(1)
        folder.rename(kept)
        raise SourceNotFoundError(f"{folder}: folder not found", "choose another path")

    sentence = f"{folder}: folder not found; {search.out} was started with it: restore it, or make a link to it"
    for _ in range(2):  # in a trial, and before it goes on
        with pytest.raises(DataMovedError, match=re.escape(sentence)):
            run_search(search, train=lose)
    assert started == [1]
    kept.rename(folder)
    assert [result.state for result in run_search(search, train=climb)] == ["complete"] * 2
    with pytest.raises(SourceNotFoundError, match="choose another path"):
        run_search(replace(search, out=tmp_path / "new", base=replace(search.base, data="folder:none")))


def test_other_settings_and_other_folders_are_refused(search, tmp_path):
    run_search(replace(search, trials=1), train=climb)
    with pytest.raises(StudyExistsError, match=r"lr: was None, is 0\.5"):
        run_search(replace(search, base=replace(search.base, lr=0.5)))
    with pytest.raises(StudyExistsError, match=r"search: was .*_per_class=1\.\.16.*, is .*strength=0\.0\.\."):
        run_search(replace(search, space=search_space(search.base, ["projections.strength=0..1"])))
    run_search(replace(search, trials=1, base=replace(search.base, device="cpu", threads=2)), train=None)
    with pytest.raises(StudyExistsError, match="holds another study"):
        run_search(replace(search, name="t"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(StudyExistsError, match="not the folder of a study"):
        run_search(replace(search, out=tmp_path / "photos"))
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.png"]
    with pytest.raises(StudyExistsError, match="expected a folder, got a file"):
        run_search(replace(search, out=tmp_path / "photos" / "a.png"))
    (search.out / "study.yaml").write_text("nonsense")
    with pytest.raises(StudyExistsError, match=r"study\.yaml: damaged"):
        run_search(search)


def test_a_storage_that_cannot_be_opened_is_named_without_its_password(search):
    with pytest.raises(ValueError, match=r"storage: expected a URL such as .*, got 'nonsense'"):
        replace(search, storage="nonsense")
    with pytest.raises(ValueError, match=r"storage nosuch://me:\*\*\*@host/db: cannot be opened") as error:
        run_search(replace(search, storage="nosuch://me:secret@host/db", out=search.out / "other"))
    assert "secret" not in str(error.value)
    assert not (search.out / "other" / "study.yaml").exists(), "the folder must not be claimed"
    (search.out.parent / "study.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ValueError, match=r"cannot be opened \([^\[]*\); check its address$"):
        run_search(replace(search, storage=f"sqlite:///{search.out.parent}/study.db", out=search.out / "third"))


@pytest.mark.parametrize(
    "settings", [{"trials": 0}, {"timeout": 0.0}, {"timeout": math.nan}, {"warmup_validations": -1}]
)
def test_settings_of_a_search_are_checked(search, settings):
    with pytest.raises(ValueError, match=r"(trials|timeout|warmup_validations|study): expected"):
        replace(search, **settings)


def test_what_the_system_refuses_to_sqlite_is_named(search, monkeypatch):
    def lost(*_):
        raise optuna.exceptions.StorageInternalError from sqlite3.OperationalError("database or disk is full")

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match=r"study\.db: database or disk is full; the same search resumes later$"):
        run_search(search, train=lost)
    monkeypatch.setattr("ccpml.tuning.study.TemporaryFile", full)
    with pytest.raises(WriteError, match=r"study\.db: cannot be written \(No space left on device\); free some space"):
        run_search(search, train=lost)
    monkeypatch.setattr("ccpml.tuning.study._open_storage", lost)
    with pytest.raises(WriteError, match=r"study\.db: cannot be written \(No space left on device\); free some space"):
        run_search(search, train=climb)

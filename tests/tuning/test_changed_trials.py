"""Trials whose records are damaged or replaced, and data that change in the course of a search."""

import shutil
from dataclasses import replace
from unittest import mock

import pytest

from ccpml.data.class_records import ClassRecord, MixedDataError
from ccpml.files import write_yaml
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.images import read_facts

pytest.importorskip("optuna", reason="Optuna is an extra: ccpml[tune]")

from ccpml.tuning import tune
from ccpml.tuning.results import best_of, damaged_runs
from ccpml.tuning.search_space import with_values
from ccpml.tuning.study import open_study
from ccpml.tuning.trials import claim_trial
from ccpml.tuning.tune import run_search
from tests.tuning.climbing import climb


def test_a_damaged_record_of_an_ended_trial_stops_no_other(search):
    results = run_search(replace(search, trials=2), train=climb)
    table = (search.out / "trials.csv").read_text()
    best = best_of(results)
    paths = [search.path(number) for number in (best.number, 1 - best.number)]
    for path in paths:
        path.mkdir()
        (path / "experiment.yaml").write_text("{}")
        (path / "record.json").write_text("{")
    settings = (search.out / "best.yaml").read_bytes()
    again = run_search(search, train=climb)
    assert [one.state in {"complete", "pruned"} for one in again] == [True] * 4
    assert (search.out / "trials.csv").read_text().startswith(table)
    for number, problem in damaged_runs(search, again).items():
        assert problem.startswith(f"{search.path(number) / 'record.json'}: damaged (not JSON")
    assert {*damaged_runs(search, results)} == {0, 1}
    if best_of(again) == best:
        assert (search.out / "best.yaml").read_bytes() == settings


@pytest.mark.parametrize("lost", ["record.json", "experiment.yaml"])
def test_what_the_run_of_a_trial_has_lost_is_named(search, lost):
    results = run_search(replace(search, trials=2), train=climb)
    for number in (0, 1):
        run = RunDirectory(search.path(number))
        run.state_file.parent.mkdir(parents=True)
        run.state_file.touch()
        settings = with_values(search.base, results[number].values).resolved(search.facts)
        write_yaml(run.settings_file, settings.as_dict())
        RunRecord(settings.flat(), {"a": ClassRecord("train", 1, "")}).write(run.record_file)
    assert damaged_runs(search, results) == {}
    for number in (0, 1):
        (search.path(number) / lost).unlink()
    again = run_search(replace(search, trials=2, facts=None), train=climb) if lost == "record.json" else results
    problems = damaged_runs(search, again)
    assert {number: problem.partition(";")[0] for number, problem in problems.items()} == {
        number: f"{search.path(number) / lost}: not found" for number in (0, 1)
    }


def test_data_that_cannot_be_used_leave_no_study(search, tmp_path):
    (tmp_path / "images" / "class").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"images: .*class"):
        run_search(replace(search, base=search.base.changed({"data": f"folder:{tmp_path / 'images'}"})), train=climb)
    assert not search.out.exists()


def test_a_damaged_record_of_a_trial_under_way_is_named_before_anything_is_done(search):
    study = open_study(search)
    with claim_trial(search, study) as claimed:
        path = search.path(claimed.number)
        path.mkdir()
    (path / "record.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{path}/record.json: damaged .*; restore it .* or remove {path} to train"):
        run_search(search, train=climb)
    RunRecord({"projections.strength": 1.0}, {"a": ClassRecord("train", 1, "")}).write(path / "record.json")
    with pytest.raises(ValueError, match=rf"{path}/record.json: of another run, .* with other .* 1\.0.*; restore it"):
        run_search(search, train=climb)
    shutil.rmtree(path)
    assert len(run_search(search, train=climb)) == 4


@pytest.mark.parametrize("gone", [False, True])
def test_data_that_change_or_go_meanwhile_end_the_search_and_spend_no_trial(search, monkeypatch, gone):
    def train(settings, path, watcher):
        assert watcher.data_digest == read_facts(settings).digest
        if watcher.trial.number < 2:
            return climb(settings, path, watcher)
        if gone:
            monkeypatch.setattr(tune, "find_images", mock.Mock(side_effect=ValueError("folder not found")))
        raise ValueError("folder not found") if gone else MixedDataError("the data changed")

    with pytest.raises(ValueError, match="folder not found" if gone else "the data changed"):
        run_search(search, train=train)
    monkeypatch.undo()
    results = run_search(search, train=climb)
    assert [one.number for one in results if one.state == "failed"] == []
    assert len(results) == 4

"""The logic of a search, with a fake training function; `tests/cli/test_tune.py` trains."""

import csv
import errno
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from ccpml.files import WriteError
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import search_space

pytest.importorskip("optuna", reason="Optuna is an extra: ccpml[tune]")

from optuna.trial import TrialState

from ccpml.tuning import trials
from ccpml.tuning.results import best_of, importances
from ccpml.tuning.study import open_study, suggest
from ccpml.tuning.tune import TrialStarted, run_search
from tests.tuning.climbing import STEPS, climb, height


def summary(results):
    return [(one.number, one.state, one.values, one.score) for one in results]


def test_trials_are_scored_and_written(search):
    events = []
    results = run_search(search, events.append, climb)
    assert [one.number for one in results] == [0, 1, 2, 3]
    for one in results:
        assert one.state in {"complete", "pruned"}
        assert 1e-6 <= one.values["projections.strength"] <= 0.1
        assert one.values["proxies_per_class"] in range(1, 17)
        if one.state == "complete":
            assert one.score == height(search.base.changed(one.values))
    best = best_of(results)
    assert best.score == max(one.score for one in results if one.state == "complete")
    with (search.out / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "number",
        "state",
        "projections.strength",
        "proxies_per_class",
        "map_at_r",
        "seconds",
        "host",
        "run",
        "reason",
    ]
    assert [float(row["projections.strength"]) for row in rows] == [
        one.values["projections.strength"] for one in results
    ]
    assert float(rows[best.number]["map_at_r"]) == best.score
    settings = Settings.from_dict(yaml.safe_load((search.out / "best.yaml").read_text()))
    assert (settings.projections.strength, settings.proxies_per_class) == tuple(best.values.values())
    assert settings.pool_size == max(12, best.values["proxies_per_class"])
    assert [isinstance(event, TrialStarted) for event in events] == [True, False] * 4
    assert events[-1].seconds_left is None
    assert events[1].seconds_left > 0


def test_the_same_call_resumes_and_more_trials_extend_a_study(search, tmp_path):
    first = run_search(replace(search, trials=2), train=climb)
    assert run_search(replace(search, trials=2), train=None) == first
    more = run_search(search, train=climb)
    assert more[:2] == first
    elsewhere = replace(search, out=tmp_path / "elsewhere")
    assert summary(run_search(elsewhere, train=climb)) == summary(more)
    other = replace(search, base=replace(search.base, seed=1), out=tmp_path / "other")
    assert summary(run_search(other, train=climb))[0] != summary(more)[0]


class Killed(BaseException):
    """Stands for kill -9: no code catches it."""


def dying_at(number, validation):
    def train(settings, path, watcher):
        report = watcher.report

        def report_or_die(step, *rest):
            if watcher.trial.number == number and step == 2 * validation:
                raise Killed
            return report(step, *rest)

        watcher.report = report_or_die
        path.mkdir(parents=True, exist_ok=True)
        return climb(settings, path, watcher)

    return train


@pytest.mark.parametrize("validation", [1, 3])
def test_a_killed_study_resumes_to_the_same_trials(search, tmp_path, validation):
    search = replace(search, trials=16, startup_trials=12)  # the first ten are drawn at random
    whole = run_search(replace(search, out=tmp_path / "whole"), train=climb)
    assert {"complete", "pruned"} == {one.state for one in whole}
    for number in (2, 11):
        with pytest.raises(Killed):
            run_search(search, train=dying_at(number, validation))
    events = []
    assert summary(run_search(search, events.append, climb)) == summary(whole)
    assert (events[0].number, events[0].resumed, events[0].values) == (number, True, whole[number].values)
    assert not any(event.resumed for event in events[1:] if isinstance(event, TrialStarted))


def test_a_trial_killed_while_sampling_gets_the_same_values(search, tmp_path):
    whole = run_search(replace(search, out=tmp_path / "whole", trials=1), train=climb)
    trial = open_study(search).optuna.ask()
    suggest(trial, search.space[:1])
    assert summary(run_search(replace(search, trials=1), train=climb)) == summary(whole)


def test_a_trial_killed_after_it_was_pruned_stays_pruned(search):
    def lagging(settings, path, watcher):
        watcher.report(2, -1.0)
        assert watcher.report(4, -1.0)
        raise Killed

    run_search(replace(search, trials=3), train=climb)
    with pytest.raises(Killed):
        run_search(search, train=lagging)
    last = run_search(search, train=None)[-1]
    assert (last.state, last.score) == ("pruned", -1.0)


def test_pruning_waits_for_the_warmup_and_can_be_disabled(search, tmp_path):
    def lagging(settings, path, watcher):
        first = watcher.trial.number < 2
        for validation in range(1, STEPS + 1):
            if watcher.report(validation, 0.5 if first else 0.1, validation == STEPS):
                return 0.1
        return 0.5 if first else 0.1

    for settings, steps in (
        ({"warmup_validations": 1}, {2}),
        ({"warmup_validations": 2}, {3}),
        ({"warmup_validations": 3}, {4}),  # it ends here anyway, so it is complete
        ({"pruner": "none"}, {4}),
        ({"startup_trials": 3}, {4}),
    ):
        tried = replace(search, trials=3, out=tmp_path / "-".join(map(str, *settings.items())), **settings)
        last = run_search(tried, train=lagging)[-1]
        frozen = open_study(tried).optuna.trials[-1]
        assert set(list(frozen.intermediate_values)[-1:]) == steps
        assert last.state == ("complete" if steps == {4} else "pruned")


def test_failures_are_recorded_and_do_not_end_the_search(search):
    reasons = {0: MemoryError(), 1: RuntimeError("CUDA\nout of memory"), 2: ValueError("diverged")}

    def failing(settings, path, watcher):
        if watcher.trial.number in reasons:
            raise reasons[watcher.trial.number]
        if watcher.trial.number == 3:
            return math.nan
        return climb(settings, path, watcher)

    results = run_search(replace(search, trials=5), train=failing)
    assert [one.state for one in results] == ["failed"] * 4 + ["complete"]
    assert [one.reason for one in results] == [
        "out of memory",
        "out of memory",
        "diverged",
        "validation MAP@R: expected a finite number, got nan",
        "",
    ]
    assert "out of memory" in (search.out / "trials.csv").read_text()


def test_a_search_ends_if_no_trial_can_start(search):
    def failing(settings, path, watcher):
        raise ValueError("no images")

    with pytest.raises(RuntimeError, match="3 trials failed before training: no images"):
        run_search(replace(search, trials=50), train=failing)
    results = run_search(search, train=climb)
    assert [one.state for one in results] == ["failed"] * 3 + ["complete"]


def test_the_runs_of_a_study_that_moved_are_named_where_they_are(search):
    def train(settings, path, watcher):
        path.mkdir()
        return climb(settings, path, watcher)

    run_search(replace(search, trials=2), train=train)
    search.out.rename(search.out.with_name("moved"))
    moved = replace(search, out=search.out.with_name("moved"), trials=3)
    run_search(moved, train=climb)  # this one trains without a folder
    with (moved.out / "trials.csv").open(newline="") as file:
        runs = [row["run"] for row in csv.DictReader(file)]
    assert runs == [str(moved.path(number)) for number in range(3)]


def test_contradicting_values_are_pruned_with_a_reason(search):
    space = search_space(search.base, ["fold=0..4", "folds=2..5"])
    results = run_search(replace(search, space=space, trials=8), train=lambda settings, path, watcher: 0.5)
    refused = [one for one in results if one.values["fold"] >= one.values["folds"]]
    assert {one.state for one in refused} == {"pruned"}
    assert all("fold: expected one of folds = " in one.reason for one in refused)
    assert {one.state for one in results if one not in refused} == {"complete"}
    assert 0 < len(refused) < 8


def test_there_are_never_more_proxies_than_the_pool_has_samples(search):
    space = search_space(search.base, ["proxies_per_class=1..6", "pool_size=2..6"])
    results = run_search(replace(search, space=space, trials=6), train=lambda settings, path, watcher: 0.5)
    assert {one.state for one in results} == {"complete"}
    assert all(one.values["proxies_per_class"] <= one.values["pool_size"] for one in results)


def test_no_trial_starts_after_the_timeout(search, monkeypatch):
    seconds = 0.0

    def slow(settings, path, watcher):
        nonlocal seconds
        seconds += 0.3
        return 0.5

    monkeypatch.setattr("ccpml.tuning.tune.time", SimpleNamespace(monotonic=lambda: seconds))
    assert len(run_search(replace(search, timeout=0.2), train=slow)) == 1
    assert len(run_search(replace(search, timeout=0.2), train=slow)) == 2


def test_importances_need_enough_trials(search):
    def score(strength):
        return 0.2 * math.log10(strength) + 1

    run_search(replace(search, trials=2), train=lambda settings, path, watcher: score(settings.projections.strength))
    assert importances(search) == {}
    study = open_study(search).optuna
    for _ in range(10):
        trial = study.ask()
        study.tell(trial, score(suggest(trial, search.space)["projections.strength"]))
    shares = importances(search)
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "projections.strength"


def test_a_trial_whose_process_is_killed_repeatedly_fails(search):
    events = []
    for _ in range(3):
        with pytest.raises(Killed):
            run_search(search, train=dying_at(0, 1))
    results = run_search(replace(search, trials=2), events.append, climb)
    assert [one.state for one in results] == ["failed", "complete"]
    assert "killed 3 times after step 0; is the memory too small?" in results[0].reason


def test_a_trial_may_be_stopped_any_number_of_times(search):
    def stopping(settings, path, watcher):
        raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            run_search(search, train=stopping)
    assert [one.state for one in run_search(replace(search, trials=1), train=climb)] == ["complete"]


HOLD_TRIAL = """
import os, sys, time
from pathlib import Path
from ccpml.runs.settings import Settings
from ccpml.tuning.search_space import search_space
from ccpml.tuning.study import Search
from ccpml.tuning.tune import run_search

def wait(settings, path, watcher):
    if os.fork() == 0:  # like a worker of a data loader, which outlives a killed parent for some seconds
        time.sleep(20)
        os._exit(0)
    path.mkdir()
    time.sleep(60)

base = Settings(validate_every=2, max_steps=8)
search = Search(base, search_space(base, [], "lambda-proxies"), Path(sys.argv[1]), "s", trials=4)
run_search(search, train=wait)
"""


@pytest.mark.usefixtures("preloaded")
def test_a_live_process_keeps_its_trial_and_a_dead_one_does_not(search):
    process = subprocess.Popen([sys.executable, "-c", HOLD_TRIAL, str(search.out)])
    try:
        while not search.path(0).exists():
            assert process.poll() is None
            time.sleep(0.05)
        results = run_search(replace(search, trials=2), train=climb)
        assert [one.state for one in results] == ["running", "complete"]
    finally:
        process.kill()
        process.wait()
    events = []
    results = run_search(replace(search, trials=2), events.append, climb)
    assert [one.state for one in results] == ["complete", "complete"]
    assert (events[0].number, events[0].resumed) == (0, True)


def test_machines_that_share_a_study_do_not_claim_each_others_trials_until_one_is_lost(search, tmp_path, monkeypatch):
    here = replace(search, storage=f"sqlite:///{tmp_path}/shared.db", trials=2)
    there = replace(here, out=tmp_path / "there")
    with pytest.raises(Killed):
        run_search(there, train=dying_at(0, 3))
    results = run_search(here, train=climb)
    assert [one.state for one in results] == ["running", "complete"]
    assert results[0].run == str(there.path(0))

    monkeypatch.setattr(trials, "_LOST_AFTER_SECONDS", -1.0)  # as if that time had passed
    results = run_search(here, train=climb)
    assert [one.state for one in results] == ["failed", "complete", "complete"]
    assert results[2].values == results[0].values
    assert results[0].reason.endswith("tried again")
    assert run_search(here, train=None) == results


def test_the_end_of_a_trial_that_was_declared_lost_is_ignored(search, tmp_path):
    shared = replace(search, storage=f"sqlite:///{tmp_path}/shared.db", trials=1)

    def lost(settings, path, watcher):
        open_study(shared).optuna.tell(0, state=TrialState.FAIL)
        return 0.5

    assert [one.state for one in run_search(shared, train=lost)] == ["failed"]


def test_a_trial_of_another_machine_in_the_same_folder_is_reclaimed_when_silent(search, monkeypatch):
    monkeypatch.setattr(trials.platform, "node", lambda: "other")
    with pytest.raises(Killed):
        run_search(search, train=dying_at(0, 1))
    monkeypatch.setattr(trials.platform, "node", lambda: "this")
    assert [one.state for one in run_search(replace(search, trials=2), train=climb)] == ["running", "complete"]
    monkeypatch.setattr(trials, "_LOST_AFTER_SECONDS", -1.0)
    assert [one.state for one in run_search(replace(search, trials=2), train=climb)] == ["complete", "complete"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EIO])
def test_a_refusal_of_the_system_ends_the_search_and_spends_no_trial(search, number):
    whole = run_search(replace(search, out=search.out.with_name("whole"), trials=3), train=climb)
    begun = []

    def refused(settings, path, watcher):
        begun.append(path)
        climb(settings, path, watcher)
        raise WriteError(number, os.strerror(number), str(path / "last.ckpt"))

    with pytest.raises(WriteError, match=r"last\.ckpt: cannot be written"):
        run_search(replace(search, trials=3), train=refused)
    assert len(begun) == 1
    assert summary(run_search(replace(search, trials=3), train=climb)) == summary(whole)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Too many open files. Communication with the workers is no longer possible"),
        OSError("Caught OSError in DataLoader worker process 0.\n[Errno 24] Too many open files: '0.png'"),
        RuntimeError("can't start new thread"),
        RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"),
    ],
)
def test_a_refusal_in_words_of_a_library_ends_the_search_too(search, error):
    begun = []

    def refused(settings, path, watcher):
        begun.append(path)
        raise error

    with pytest.raises(type(error), match=re.escape(str(error))):
        run_search(replace(search, trials=3), train=refused)
    assert len(begun) == 1

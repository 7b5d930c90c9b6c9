"""Runs that train the plain loss first: metrics, instances, notes, report, and an interruption in between."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ccpml.report import write_report
from ccpml.report.contents import Report
from ccpml.runs.train import resume, train
from ccpml.training import MetricLearning
from tests.toy import quick_settings, toy_folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = toy_folder(tmp_path_factory.mktemp("toy"))
    return quick_settings(data=f"folder:{folder}", max_steps=8)


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    changed = settings.changed({"projections.warm_start": 3})
    return train(changed, tmp_path_factory.mktemp("runs") / "warm", progress=False)


def test_the_plain_loss_is_trained_until_the_proxies_are_placed(run, settings, tmp_path):
    rows = run.metrics()
    assert [row["instance"] for row in rows][:3] == [-1, 0, 0]  # 3 steps are rounded up to the validation at step 4
    assert "proxy_spread" not in rows[0]
    assert rows[1]["proxy_spread"] > 0
    (note,) = run.scores()["notes"]  # the toy classes are learned in the first steps
    assert note == "The best weights, of step 2, are of the plain loss: the first proxies were placed at step 4."
    with np.load(run.instances / "000.npz") as first:
        assert first["step"] == 4
    plain = train(replace(settings, method="plain"), tmp_path / "plain", progress=False).metrics()
    for name in ("loss", "map_at_r", "val_covering_radius"):
        assert [row[name] for row in rows[:2]] == [row[name] for row in plain[:2]]
        assert [row[name] for row in rows[2:]] != [row[name] for row in plain[2:]]


class Interruption(Exception):
    pass


@pytest.mark.parametrize("saved", [2, 4], ids=["waiting", "begun"])
def test_an_interrupted_run_resumes_bit_for_bit(run, tmp_path, monkeypatch, saved):
    def interrupt(self, trainer, *_):
        if trainer.global_step == saved + 1:
            raise Interruption

    monkeypatch.setattr("ccpml.runs.loggers.progress.Progress.on_train_batch_end", interrupt)
    with pytest.raises(Interruption):
        train(run.settings(), tmp_path / "run")
    monkeypatch.undo()
    resumed = resume(tmp_path / "run", progress=False)
    for name, value in load_file(run.weights_file).items():
        assert load_file(resumed.weights_file)[name].equal(value)
    for row, expected in zip(resumed.metrics(), run.metrics(), strict=True):
        assert row | {"seconds": 0} == expected | {"seconds": 0}
    assert resumed.scores() == run.scores()


def test_a_network_that_tells_classes_apart_begins_at_once(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("ccpml.method.projections.MIN_SEPARATION", -1.0)
    runs = {
        choice: train(settings.changed({"projections.warm_start": choice}), tmp_path / choice, progress=False)
        for choice in ("auto", "never")
    }
    auto, never = (load_file(each.weights_file) for each in runs.values())
    assert all(torch.equal(auto[name], never[name]) for name in auto.keys() | never.keys())
    assert runs["auto"].metrics()[0]["instance"] == 0


def test_a_run_whose_classes_never_separate_says_so(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ccpml.method.projections.MIN_SEPARATION", 1.1)
    run = train(settings.changed({"projections.warm_start": "auto"}), tmp_path / "run")
    assert "no proxies yet" in capsys.readouterr().err
    rows = run.metrics()
    assert all(row["instance"] == -1 and -1 < row["separation"] <= 1 for row in rows)
    assert not list(run.instances.glob("*"))
    scores = run.scores()
    assert scores["instances"] == 0
    (note,) = scores["notes"]
    assert note.startswith("The proxies were never placed, and the run trained the plain loss: ")
    assert note in write_report(run).read_text(encoding="utf-8")
    assert Report(run, run.settings(), scores).proxies is None


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (
            {"projections.warm_start": 100},
            "The proxies were never placed, and the run trained the plain loss: it ended before step 100",
        ),
        (
            {"method": "xbm", "memory_start": 2},
            "The memory was never compared with, and the run trained the plain loss: it ended at step 2",
        ),
        ({"method": "xbm", "memory_start": 1}, None),
        (
            {"method": "plain", "warmup_epochs": 9},
            "The backbone was never trained, but the embedding layer alone: it ended at step 2 of the 27",
        ),
        ({"method": "plain", "warmup_epochs": 9, "trained_stages": 0}, None),
        ({"method": "plain", "loss": "proxy_anchor"}, None),  # the warm-up that is chosen fits the budget
        ({"max_steps": 0, "method": "xbm", "warmup_epochs": 9}, None),
        (
            {"method": "plain", "loss": "triplet", "margin": -3.0},
            "Nothing was learned: the loss was 0 in each of 2 steps",
        ),
    ],
)
def test_a_run_whose_method_never_began_says_so(settings, tmp_path, changes, note):
    scores = train(settings.changed({"max_steps": 2, **changes}), tmp_path / "run", progress=False).scores()
    notes = [text for text in scores.get("notes", []) if " never " in text or "Nothing " in text]
    assert len(notes) == (note is not None)
    assert all(text.startswith(note) for text in notes)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"projections.warm_start": 4}, "are of the plain loss: the first proxies were placed at step 4."),
        ({"method": "xbm", "memory_start": 4}, "are of the plain loss: the memory was compared with after step 4"),
        (
            {"method": "plain", "warmup_epochs": 1},
            "are of the 3 of warmup_epochs 1, in which the backbone is not trained.",
        ),
        ({"projections.warm_start": 2}, "are of the plain loss: the first proxies were placed at step 2."),
        ({"projections.warm_start": "never"}, None),
        ({"method": "plain"}, None),
    ],
)
def test_best_weights_that_are_older_than_the_method_are_told(settings, tmp_path, monkeypatch, changes, note):
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    monkeypatch.setattr(MetricLearning, "_score", falling(MetricLearning._score, scores))
    changes = {"max_steps": 12, "validate_every": 2, "patience": 9, **changes}
    found = train(settings.changed(changes), tmp_path / "run", progress=False).scores()
    assert found["validation"]["step"] == 2
    expected = [] if note is None else [f"The best weights, of step 2, {note}"]
    notes = [text for text in found.get("notes", []) if text.startswith("The best weights")]
    assert len(notes) == len(expected)
    assert all(text.startswith(start) for text, start in zip(notes, expected, strict=True))


def falling(score, values):
    """A score of the validation that is best at first."""

    def scored(self, *arguments):
        scores, joined = score(self, *arguments)
        return {**scores, "map_at_r": next(values)}, joined

    return scored


def test_the_report_marks_where_the_proxies_were_placed(run):
    page = write_report(run).read_text(encoding="utf-8")
    assert "The dotted line marks step 4, where the first proxies were placed" in page
    assert "First proxies, step 4" in page or "first proxies placed at step 4" in page

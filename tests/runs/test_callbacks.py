"""Callbacks of others in a run: what they average is kept, and a run is resumed with those that have a state."""

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    RichProgressBar,
)

from ccpml import evaluate
from ccpml.runs.defaults import DataFacts
from ccpml.runs.directory import RunDirectory
from ccpml.runs.train import resume, train
from ccpml.training import ReduceOnPlateau
from tests.runs.stopping import StopAt
from tests.toy import quick_settings, toy_folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return quick_settings(data=f"folder:{toy_folder(tmp_path_factory.mktemp('toy'))}")


@pytest.mark.parametrize("method", ["plain", "ccp"])
def test_weights_that_a_callback_averages_for_the_validation_are_those_that_are_kept(settings, tmp_path, method):
    averaging = EMAWeightAveraging(use_buffers=True, decay=0.5)
    changed = settings.changed({"method": method, "validate_every": 3, "max_steps": 9})
    run = train(changed, tmp_path / "run", progress=False, callbacks=[averaging])
    with np.load(run.embeddings / "validation.npz") as file:
        kept = evaluate(torch.from_numpy(file["embeddings"]), torch.from_numpy(file["labels"]))
    assert kept.map_at_r == pytest.approx(run.scores()["validation"]["map_at_r"], abs=1e-6)


def test_a_run_is_not_resumed_without_the_state_of_a_callback(settings, tmp_path, capsys):
    settings = settings.changed({"validate_every": 3, "max_steps": 9})
    whole = train(settings, tmp_path / "whole", progress=False, callbacks=[EMAWeightAveraging(decay=0.5)])
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(settings, tmp_path / "cut", progress=False, callbacks=[StopAt(5), EMAWeightAveraging(decay=0.5)])
    with pytest.raises(ValueError, match=r"cut: expected the callbacks it was trained with \(EMAWeight.*, StopAt\)"):
        resume(tmp_path / "cut", progress=False)
    capsys.readouterr()
    resumed = resume(tmp_path / "cut", progress=False, callbacks=[EMAWeightAveraging(decay=0.5)])
    assert "cut: trained with the callbacks StopAt until now, and now without, so the" in capsys.readouterr().err
    assert resumed.weights_file.read_bytes() == whole.weights_file.read_bytes()


def test_callbacks_of_this_library_count_as_those_of_others_do(settings, tmp_path):
    settings = settings.changed({"validate_every": 3, "max_steps": 9})
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(settings, tmp_path / "cut", progress=False, callbacks=[StopAt(5), ReduceOnPlateau()])
    with pytest.raises(ValueError, match=r"expected the callbacks it was trained with \(ReduceOnPlateau, StopAt\)"):
        resume(tmp_path / "cut", progress=False)
    with pytest.raises(ValueError, match="callbacks: expected none with 2 ranks, got ReduceOnPlateau, which"):
        train(settings.changed({"ranks": 2}), tmp_path / "ranks", progress=False, callbacks=[ReduceOnPlateau()])


def test_a_training_that_a_callback_has_ended_does_not_go_on_when_it_is_resumed(settings, tmp_path):
    settings = settings.changed({"validate_every": 2, "max_steps": 12, "patience": 9})
    stops = lambda: EarlyStopping("map_at_r", mode="max", min_delta=2.0, patience=1)  # noqa: E731  # no score gains 2
    whole = train(settings, tmp_path / "whole", progress=False, callbacks=[stops()])
    train(settings, tmp_path / "cut", progress=False, callbacks=[stops()], test=False)
    resumed = resume(tmp_path / "cut", progress=False, callbacks=[stops()])
    assert whole.scores()["steps"] == 4
    for name in ("map_at_r", "steps", "best_step", "test"):
        assert resumed.scores().get(name) == whole.scores().get(name)
    assert resumed.weights_file.read_bytes() == whole.weights_file.read_bytes()


class Failing(L.Callback):
    """One that fails before the first step."""

    def on_train_start(self, trainer, pl_module):
        raise RuntimeError("its own error")


def test_a_state_that_a_callback_saves_before_the_first_step_hides_no_error(settings, tmp_path):
    callbacks = [OnExceptionCheckpoint(tmp_path / "states"), Failing()]
    with pytest.raises(RuntimeError, match="its own error"):
        train(settings, tmp_path / "run", progress=False, callbacks=callbacks)
    assert list((tmp_path / "states").iterdir())


@pytest.mark.parametrize(
    "one",
    [
        *(ModelCheckpoint(), RichProgressBar(), GradientAccumulationScheduler({0: 2}), LearningRateFinder()),
        *(BatchSizeFinder(), BackboneFinetuning()),
    ],
)
def test_callbacks_for_what_a_run_does_itself_are_refused_by_name(settings, tmp_path, one):
    expected = f"callbacks: expected none for what a run does itself, or by its settings, got {type(one).__name__}; lea"
    with pytest.raises(ValueError, match=expected):
        train(settings, tmp_path / "run", progress=False, callbacks=[one])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("start", [train, lambda settings, path, **options: resume(path, **options)])
def test_callbacks_that_other_ranks_would_not_have_are_refused(settings, tmp_path, start):
    on_ranks = settings.changed({"ranks": 2, "max_steps": 2})
    RunDirectory.create(tmp_path / "begun", on_ranks.resolved(DataFacts()))
    path = tmp_path / "new" if start is train else tmp_path / "begun"
    with pytest.raises(
        ValueError, match="callbacks: expected none with 2 ranks, got StopAt, which the other ranks would"
    ):
        start(on_ranks, path, progress=False, callbacks=[StopAt(1)])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["Timer", 3, None])
def test_what_is_no_callback_is_named_before_anything_is_written(settings, tmp_path, given):
    for wrong, got in ((given, repr(given)), (StopAt, r"the class StopAt; pass StopAt\(\)")):
        with pytest.raises(ValueError, match=f"callbacks: expected Lightning callbacks, got {got}"):
            train(settings, tmp_path / "run", progress=False, callbacks=[wrong])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [StopAt(1), None, iter([])])
def test_callbacks_are_a_list(settings, tmp_path, given):
    with pytest.raises(ValueError, match=r"callbacks: expected several Lightning callbacks, got .*; pass a list"):
        train(settings, tmp_path / "run", progress=False, callbacks=given)


class EMA(L.Callback):
    """One without a state, whose name is the beginning of another's."""


def test_a_callback_is_known_by_its_whole_name(settings, tmp_path, capsys):
    settings, averaging = settings.changed({"validate_every": 3, "max_steps": 9}), EMAWeightAveraging(decay=0.5)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(settings, tmp_path / "cut", progress=False, callbacks=[StopAt(5), EMA(), averaging])
    resume(tmp_path / "cut", progress=False, callbacks=[EMAWeightAveraging(decay=0.5)])
    assert "trained with the callbacks EMA, StopAt until now, and now without" in capsys.readouterr().err

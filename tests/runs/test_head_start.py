"""Runs whose embedding layer starts in closed form, and the scores of untouched features."""

from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ccpml.method import ContrastiveLoss, lipschitz_normalize
from ccpml.models import closed_form_head
from ccpml.report import write_report
from ccpml.retrieval import evaluate
from ccpml.runs.build import build_model, evaluation_batches
from ccpml.runs.images import load_images
from ccpml.runs.inference import evaluate_run, load_run
from ccpml.runs.train import resume, train
from ccpml.training import embed, head_start, pooled_features
from tests.toy import quick_settings, toy_folder

LENGTH = ContrastiveLoss().starting_length


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = toy_folder(tmp_path_factory.mktemp("toy"))
    return quick_settings(data=f"folder:{folder}", head_start="whitening", loss="contrastive")


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    return train(settings, tmp_path_factory.mktemp("runs") / "run", progress=False)


@pytest.fixture(scope="module")
def weights(settings, tmp_path_factory):
    """A file of weights for the backbone, and a run that scores its untouched features."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(build_model(settings.resolved(), channels=1).backbone.state_dict(), file)
    return file


def features_of(run, split):
    """Features of the initial weights of a run, and labels."""
    settings = run.settings()
    torch.manual_seed(settings.seed)
    model, images = build_model(settings, settings.channels), load_images(settings, progress=False)
    return pooled_features(model, evaluation_batches(settings, getattr(images.splits, split), settings.channels))


def test_the_first_instance_starts_from_the_closed_form(run, settings):
    layer = closed_form_head(*features_of(run, "train"), 8, "whitening", LENGTH, "auto")
    with np.load(run.instances / "000.npz") as first:
        samples, labels = torch.from_numpy(first["samples"]), first["labels"]
    features, classes = features_of(run, "train")
    embeddings = lipschitz_normalize((features.double() @ layer.weight.T + layer.bias).float())
    for sample, label in zip(samples, labels, strict=True):
        assert (embeddings[classes == label] - sample).norm(dim=1).min() < 1e-5


def test_the_start_is_scored_and_may_be_the_best(run):
    rows = run.metrics()
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    assert "loss" not in rows[0]
    best = max(rows, key=lambda row: row["map_at_r"])  # the first of equal ones
    assert run.scores()["validation"] == {"map_at_r": pytest.approx(best["map_at_r"]), "step": best["step"]}
    assert run.scores()["steps"] == 6


def test_a_run_with_a_bias_is_loaded_scored_and_reported(run):
    assert {"model.linear.weight", "model.linear.bias"} <= load_file(run.weights_file).keys()
    assert load_run(run.path).model.linear.bias is not None
    assert evaluate_run(run.path).scores.as_dict() == pytest.approx(run.scores()["test"])
    assert "start whitening" in write_report(run).read_text()


@pytest.mark.parametrize(("kind", "method"), [("whitening", "ccp"), ("pca", "plain"), ("random", "ccp")])
def test_a_run_without_steps_scores_the_start(settings, run, tmp_path, kind, method):
    start = train(replace(settings, head_start=kind, method=method, max_steps=0), tmp_path / "run", progress=False)
    assert [row["step"] for row in start.metrics()] == [0]
    assert (start.scores()["steps"], start.scores()["validation"]["step"]) == (0, 0)
    if kind == "whitening":
        assert start.metrics()[0]["map_at_r"] == run.metrics()[0]["map_at_r"]
        layer = closed_form_head(*features_of(run, "train"), 8, "whitening", LENGTH, "auto")
        torch.testing.assert_close(load_run(start.path).model.linear.weight, layer.weight.float())
        assert write_report(start).is_file()
    assert resume(start.path, progress=False).scores() == start.scores()


def test_untouched_features_are_scored_for_initial_weights(settings, weights, tmp_path):
    changes = {"weights": str(weights), "head_start": "identity", "embedding_dim": 128, "max_steps": 0}
    run = train(replace(settings, **changes), tmp_path / "run", progress=False)
    features, labels = features_of(run, "test")
    expected = evaluate(nn.functional.normalize(features, dim=1), labels).as_dict()
    assert run.scores()["features"] == pytest.approx({"dimensions": 128, **expected})
    table = load_images(run.settings(), progress=False).splits.test
    embeddings, _ = embed(load_run(run.path).model, evaluation_batches(run.settings(), table, 1))
    torch.testing.assert_close(embeddings, features)
    assert "untouched features (128 dimensions)" in write_report(run).read_text()


def test_features_are_scored_once_and_change_nothing_in_training(settings, weights, tmp_path, monkeypatch):
    changed = replace(settings, weights=str(weights), head_start="random")
    whole = train(changed, tmp_path / "whole", progress=False)
    assert whole.scores()["features"]["dimensions"] == 128
    monkeypatch.setattr("ccpml.runs.parts._build_head_start", lambda *_: None)
    without = train(changed, tmp_path / "without", progress=False)
    assert "features" not in without.scores()
    assert without.metrics()[-1]["loss"] == whole.metrics()[-1]["loss"]
    assert without.scores()["test"] == whole.scores()["test"]


def test_without_a_test_the_test_classes_are_not_looked_at(settings, weights, tmp_path, monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr(head_start, "pooled_features", lambda *args: seen.append(1) or pooled_features(*args))
    for test, passes in ((False, 1), (True, 2)):  # the start of the layer, and the untouched features
        seen.clear()
        run = train(replace(settings, weights=str(weights)), tmp_path / str(test), progress=False, test=test)
        assert len(seen) == passes
        assert run.finished == test


@pytest.mark.parametrize("dim", [1, 128])
def test_it_is_said_if_untouched_features_score_better(dim, settings, weights, tmp_path):
    changed = replace(settings, weights=str(weights), head_start="random", embedding_dim=dim, max_steps=0)
    run = train(changed, tmp_path / "run", progress=False)
    scores = run.scores()
    win = all(scores["features"][name] > scores["test"][name] for name in ("map_at_r", "precision_at_1"))
    assert win == any("untouched features score better" in note for note in scores.get("notes", []))
    assert win or dim > 1


class Killer(L.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 3:
            raise RuntimeError("killed")


def test_a_resumed_run_starts_from_its_checkpoint(settings, run, weights, tmp_path, monkeypatch):
    changed = replace(settings, weights=str(weights))
    whole = train(changed, tmp_path / "whole", progress=False)
    with pytest.raises(RuntimeError, match="killed"):
        train(changed, tmp_path / "resumed", progress=False, callbacks=[Killer()])
    monkeypatch.setattr("ccpml.training.head_start.start_head", None)
    monkeypatch.setattr("ccpml.training.head_start.pooled_features", None)
    again = resume(tmp_path / "resumed", progress=False)
    assert again.scores()["features"] == whole.scores()["features"]
    assert again.scores()["test"] == whole.scores()["test"]
    for name, value in load_file(whole.weights_file).items():
        assert torch.equal(load_file(again.weights_file)[name], value), name


def test_identity_needs_the_dimension_of_the_features(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("ccpml.runs.train.load_images", None)  # found before images are read
    with pytest.raises(ValueError, match="embedding_dim: expected 128, the features of small_conv, for head_start ide"):
        train(replace(settings, head_start="identity"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_classes_of_one_image_are_projected_and_it_is_said(settings, tmp_path, capsys):
    folder = toy_folder(tmp_path / "one")
    for label in (3, 4, 5):  # the training classes
        for file in sorted(folder.glob(f"*/class{label:02d}/*"))[1:]:
            file.unlink()
    changed = replace(settings, data=f"folder:{folder}", max_steps=0, method="plain")
    train(changed, tmp_path / "run", progress=False)
    said = "head_start whitening: no class has two different images, so the embedding layer starts by pca"
    assert said in capsys.readouterr().err

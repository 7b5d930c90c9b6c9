import csv
import json
import multiprocessing
import shutil
import threading
from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from PIL import Image
from safetensors.torch import load_file

from ccpml.data.class_records import DataChangedError
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import embed_run, evaluate_run, load_run
from ccpml.runs.train import resume, train
from tests.runs.stopping import StopAt
from tests.toy import quick_settings, toy_folder, toy_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def settings(folder):
    return quick_settings(data=f"folder:{folder}")


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    return train(settings, tmp_path_factory.mktemp("runs") / "ccp", progress=False)


def test_files_of_a_run_directory(run, settings):
    assert run.finished
    resolved = run.settings()
    assert (resolved.data, resolved.channels, resolved.lr) == (settings.data, 1, 1e-3)
    scores = run.scores()
    assert scores["splits"] == {
        "train": {"classes": 3, "images": 15},
        "validation": {"classes": 3, "images": 15},
        "test": {"classes": 6, "images": 30},
    }
    assert {"seed", "versions", "commit", "hardware", "test", "validation", "instances"} <= scores.keys()
    assert scores["steps"] == 6
    assert list((run.path / "tensorboard").glob("events*"))
    assert not list(run.path.rglob("*.tmp*"))
    state = torch.load(run.state_file, weights_only=True)
    assert state["global_step"] == 6


def test_a_run_in_one_task_of_a_cluster_job_is_its_own(settings, tmp_path, monkeypatch):
    """As the seeds of a run are trained: Lightning takes the variables of the job for those of ranks."""
    for name, value in (("SLURM_NTASKS", "4"), ("SLURM_JOB_ID", "1"), ("SLURM_PROCID", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as it is set at its import
    run = train(replace(settings, max_steps=2), tmp_path / "run", progress=False)
    assert list((run.path / "tensorboard").glob("events*"))
    assert rank_zero_only.rank == 1


def test_each_validation_has_a_row_of_metrics(run):
    rows = run.metrics()
    assert [row["step"] for row in rows] == [2, 4, 6]
    with run.metrics_file.open() as file:
        header = next(csv.reader(file))
    assert {"loss", "map_at_r", "instance", "val_covering_radius", "proxy_covering_radius"} <= set(header)
    best = max(rows, key=lambda row: row["map_at_r"])
    validation = run.scores()["validation"]
    assert validation == {"map_at_r": pytest.approx(best["map_at_r"]), "step": best["step"]}


def test_instances_are_recorded(run):
    rows = run.metrics()
    files = sorted(run.instances.glob("*.npz"))
    assert len(files) == run.scores()["instances"] + 1 == rows[-1]["instance"] + 1
    with np.load(files[0], allow_pickle=False) as first:
        assert first["step"] == 0
        assert first["next"].shape == (3, 2, 8)
        assert "converged" not in first.files
    for number, file in enumerate(files[1:], start=1):
        with np.load(file, allow_pickle=False) as later:
            assert later["converged"].shape == (3, 2, 8)
            assert later["step"] == next(row["step"] for row in rows if row["instance"] == number)


def test_scores_are_those_of_the_best_weights(run, tmp_path):
    scores, size, _, _ = evaluate_run(run.path)
    assert size == "6 classes, 30 images"
    assert scores.as_dict() == pytest.approx(run.scores()["test"])
    weights = load_file(run.weights_file)
    assert "criterion.proxies" in weights
    model = load_run(run.path).model
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[f"model.{name}"])


def test_written_embeddings_are_those_that_are_scored(run, folder, tmp_path):
    assert embed_run(run.path, f"folder:{folder}", tmp_path / "all.npz") == 60
    with np.load(tmp_path / "all.npz", allow_pickle=False) as file, np.load(run.embeddings / "test.npz") as test:
        assert file["embeddings"].shape == (60, 8)
        assert np.linalg.norm(file["embeddings"], axis=1).max() <= 1 + 1e-6
        assert file["class_names"][file["labels"][0]] == "group0/class00"
        row = file["paths"].tolist().index(test["paths"][0])
        np.testing.assert_allclose(file["embeddings"][row], test["embeddings"][0], rtol=1e-4, atol=1e-6)
        assert dict(zip(file["class_names"], file["splits"], strict=True))["group0/class00"] == "validation"


def test_plain_trains_without_proxies(settings, tmp_path):
    run = train(replace(settings, method="plain"), tmp_path / "plain", progress=False)
    assert run.scores()["instances"] == 0
    assert not run.instances.exists()
    assert "criterion.proxies" not in load_file(run.weights_file)


@pytest.mark.parametrize(
    "change",
    [
        {"projections.rewind": True},
        {"projections.reset_proxy_state": True},
        {"projections.strength": 10.0},
        {"pool_transform": "eval"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_option_of_the_projections_changes_the_run(settings, run, tmp_path, change):
    assert run.scores()["instances"] > 0
    other = train(settings.changed(change), tmp_path / "run", progress=False)
    assert other.state_file.read_bytes() != run.state_file.read_bytes()
    losses, other_losses = ([row["loss"] for row in each.metrics()] for each in (run, other))
    assert losses != other_losses


def test_the_seed_determines_the_run(settings, run, tmp_path):
    again = train(settings, tmp_path / "again", progress=False)
    assert json.loads(again.scores_file.read_text()) == json.loads(run.scores_file.read_text())
    assert again.weights_file.read_bytes() == run.weights_file.read_bytes()
    other = train(replace(settings, seed=1), tmp_path / "other", progress=False)
    assert other.weights_file.read_bytes() != run.weights_file.read_bytes()


def test_the_number_of_workers_changes_nothing(settings, run, tmp_path):
    before = set(multiprocessing.active_children())
    again = train(replace(settings, workers=2), tmp_path / "workers", progress=False)
    assert not set(multiprocessing.active_children()) - before  # nothing is left for the garbage collector to wait for
    assert again.weights_file.read_bytes() == run.weights_file.read_bytes()


def test_training_stops_without_improvement(settings, tmp_path):
    run = train(replace(settings, patience=1, max_steps=400, lr=1e-12), tmp_path / "run", progress=False)
    rows = run.metrics()
    assert rows[-1]["step"] < 400
    assert rows[-1]["map_at_r"] <= max(row["map_at_r"] for row in rows[:-1])


def test_steps_are_rounded_up_to_a_validation(settings, tmp_path):
    assert train(replace(settings, max_steps=3), tmp_path / "run", progress=False).scores()["steps"] == 4


@pytest.mark.parametrize("method", ["plain", "ccp"])
def test_double_precision_resumes_bit_for_bit(settings, tmp_path, method):
    settings = settings.changed({"precision": "64-true", "max_steps": 10, "method": method})
    whole = train(settings, tmp_path / "whole", progress=False)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(settings, tmp_path / "cut", progress=False, callbacks=[StopAt(5)])
    cut = resume(tmp_path / "cut", progress=False)
    assert cut.weights_file.read_bytes() == whole.weights_file.read_bytes()
    weights = load_file(cut.weights_file).values()
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float64}


@pytest.mark.parametrize("schedule", ["plateau", "constant"])
def test_schedules_resume_bit_for_bit(settings, tmp_path, schedule):
    changes = {"lr_schedule": schedule, "head_lr_factor": 5.0, "max_steps": 10}
    settings = settings.changed(changes)
    whole = train(settings, tmp_path / "whole", progress=False)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(settings, tmp_path / "cut", progress=False, callbacks=[StopAt(5)])
    cut = resume(tmp_path / "cut", progress=False)
    assert cut.weights_file.read_bytes() == whole.weights_file.read_bytes()
    states = [torch.load(run.state_file, weights_only=True) for run in (whole, cut)]
    for one, other in zip(*(state["optimizer_states"][0]["param_groups"] for state in states), strict=True):
        assert one["lr"] == other["lr"]
    backbone, head, _ = (group["lr"] for group in states[0]["optimizer_states"][0]["param_groups"])
    assert head == pytest.approx(5 * backbone)
    plain = train(settings.changed({"head_lr_factor": 1.0}), tmp_path / "plain", progress=False)
    assert plain.weights_file.read_bytes() != whole.weights_file.read_bytes()


def test_what_was_chosen_is_printed_and_kept(folder, tmp_path, capsys):
    settings = quick_settings(data=f"folder:{folder}", max_steps=2, backbone=None)
    run = train(settings, tmp_path / "run", test=False)
    chosen = run.choices()["chosen"]
    assert chosen[0] == "backbone small_conv: gray pictures with a median shorter side of 32 pixels"
    printed = capsys.readouterr().err
    assert all(f"  {line}\n" in printed for line in chosen)
    assert "note: validation has 3 classes" in printed
    assert [note.partition(",")[0] for note in run.choices()["notes"]] == ["validation has 3 classes"]
    assert not train(run.settings(), tmp_path / "again", test=False, progress=False).choices()["chosen"]
    run.choices_file.write_text("{")
    with pytest.raises(ValueError, match=r"choices\.json: damaged"):
        run.choices()


def test_a_finished_run_is_not_trained_again(run):
    before = run.weights_file.stat().st_mtime_ns
    assert resume(run.path, progress=False).scores() == run.scores()
    assert run.weights_file.stat().st_mtime_ns == before


def test_a_run_resumed_with_another_number_of_threads_says_so(settings, run, tmp_path, capsys):
    shutil.copytree(run.path, tmp_path / "run")
    copy = RunDirectory(tmp_path / "run")
    copy.scores_file.unlink()
    resume(copy.path, progress=False)  # with as many
    assert capsys.readouterr().err == ""
    copy.scores_file.unlink()
    state = torch.load(copy.state_file, weights_only=True)
    torch.save({**state, "ccpml_threads": 3}, copy.state_file)
    resume(copy.path, progress=False)
    assert f"note: {copy.path}: trained with 3 threads until now, and now with 1" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_other_images(tmp_path):
    folder = toy_folder(tmp_path / "toy")
    run = train(quick_settings(data=f"folder:{folder}"), tmp_path / "run", progress=False)
    run.scores_file.unlink()
    next(folder.rglob("3.png")).unlink()
    with pytest.raises(DataChangedError, match=r"started with, got 1 class \(group\d/class\d\d\) with other images"):
        resume(run.path, progress=False)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train_alike(settings, run, tmp_path, precision):
    other = train(replace(settings, precision=precision), tmp_path / "run", progress=False)
    losses, other_losses = ([row["loss"] for row in each.metrics()] for each in (run, other))
    assert other_losses != losses
    assert other_losses == pytest.approx(losses, rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_on_a_gpu_trains_alike(settings, run, tmp_path, precision):
    other = train(replace(settings, device="cuda", precision=precision), tmp_path / "run", progress=False)
    assert other.scores()["hardware"]["device"] == torch.cuda.get_device_name()
    losses, other_losses = ([row["loss"] for row in each.metrics()] for each in (run, other))
    assert other_losses == pytest.approx(losses, rel=0.2)
    scores = evaluate_run(other.path)[0].as_dict()
    assert scores == pytest.approx(other.scores()["test"], abs=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "then"), [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("method", ["ccp", "xbm"])
def test_a_run_is_resumed_on_another_device(settings, tmp_path, method, first, then):
    settings = settings.changed({"method": method, "memory_start": 0, "device": first})
    whole = train(settings, tmp_path / "whole", progress=False)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(settings, tmp_path / "cut", progress=False, callbacks=[StopAt(5)])
    file = tmp_path / "cut" / "experiment.yaml"
    file.write_text(file.read_text().replace(f"device: {first}", f"device: {then}"))
    cut = resume(tmp_path / "cut", progress=False)
    assert cut.scores()["hardware"]["device"] == (then if then == "cpu" else torch.cuda.get_device_name())
    losses, other_losses = ([row["loss"] for row in each.metrics()] for each in (whole, cut))
    assert other_losses == pytest.approx(losses, rel=0.2)


def test_queries_and_gallery_of_a_csv_file(tmp_path):
    images, lines = toy_images(8, 4), ["path,label,split,role"]
    for c, n in np.ndindex(8, 4):
        Image.fromarray(images[c, n]).save(tmp_path / f"{c}-{n}.png")
        split = ("train", "train", "train", "val", "val", "val", "test", "test")[c]
        role = ("query" if n == 0 else "gallery") if split == "test" else ""
        lines.append(f"{c}-{n}.png,label{c},{split},{role}")
    (tmp_path / "list.csv").write_text("\r\n".join(lines))
    settings = quick_settings(data=f"csv:{tmp_path / 'list.csv'}", max_steps=2)
    run = train(settings, tmp_path / "run", progress=False)
    assert run.scores()["test"]["num_queries"] == 2
    scores, _, _, _ = evaluate_run(run.path, f"csv:{tmp_path / 'list.csv'}")
    assert scores.as_dict() == pytest.approx(run.scores()["test"])


def test_errors_are_raised_before_anything_is_written(settings, folder, run, tmp_path):
    with pytest.raises(FileExistsError, match="already exists"):
        train(settings, run.path, progress=False)
    with pytest.raises(
        ValueError, match="classes_per_batch: expected at most 3, the number of training classes, got 4; choose fewer"
    ):
        train(replace(settings, classes_per_batch=4), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="matches none of"):
        train(replace(settings, test_classes="Korean/*"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_named_or_left_out(tmp_path, capsys):
    folder = toy_folder(tmp_path / "toy")
    bad = next(folder.rglob("3.png"))
    bad.write_bytes(bad.read_bytes()[:100])
    settings = quick_settings(data=f"folder:{folder}", max_steps=2)
    with pytest.raises(ValueError, match=r"(?s)repair, remove or skip them.*3\.png: cannot be decoded"):
        train(settings, tmp_path / "run", progress=False)
    run = train(replace(settings, skip_bad_images=True), tmp_path / "run", progress=False)
    (left_out,) = run.scores()["images_left_out"]
    assert left_out.startswith(str(bad))
    evaluate_run(run.path)
    assert "so the scores are of other images" not in capsys.readouterr().err
    shutil.copy(next(each for each in bad.parent.iterdir() if each != bad), bad)  # repaired
    evaluate_run(run.path)
    note = "1 image left out as unreadable when it was scored, and 0 now, so the scores are of other images"
    assert note in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"image_size": 20}, {"device": "cuda:7"}])
def test_a_run_that_cannot_start_leaves_nothing(settings, tmp_path, changes):
    with pytest.raises(ValueError, match=r"28 × 28|device: cuda:7 is not available") as caught:
        train(replace(settings, **changes), tmp_path / "run", progress=False)
    if "image_size" in changes:
        assert caught.value.__notes__ == ["choose a larger image_size"]
    assert not (tmp_path / "run").exists()


def test_divergence_is_an_error(settings, tmp_path):
    with pytest.raises(ValueError, match="diverged; try a lower learning rate"):
        train(replace(settings, lr=1e30), tmp_path / "run", progress=False)


def test_damaged_files_of_a_run_are_named(settings, tmp_path):
    run = train(settings, tmp_path / "run", progress=False)
    run.scores_file.write_text("{")
    with pytest.raises(ValueError, match=r"scores\.json: damaged"):
        run.scores()
    run.scores_file.unlink()
    run.weights_file.write_bytes(run.weights_file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"best\.safetensors: damaged"):
        load_run(run.path).embed([])
    run.state_file.write_bytes(run.state_file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"last\.ckpt: damaged"):
        resume(run.path, progress=False)


def test_weights_of_a_file_or_a_run_are_the_initial_ones(run, settings, tmp_path):
    learned = load_file(run.weights_file)
    plain = {k.removeprefix("model.backbone."): v for k, v in learned.items() if k.startswith("model.backbone.")}
    torch.save(plain, tmp_path / "start.pth")
    for number, file in enumerate([tmp_path / "start.pth", run.weights_file]):
        settings = replace(settings, weights=str(file), max_steps=2, lr=1e-12)
        started = load_file(train(settings, tmp_path / f"run{number}", progress=False).weights_file)
        name = "model.backbone.blocks.0.weight"
        torch.testing.assert_close(started[name], learned[name])


def test_a_run_without_weights_is_named(settings, tmp_path):
    run = RunDirectory.create(tmp_path / "run", settings.resolved())
    with pytest.raises(FileNotFoundError, match="no weights yet"):
        load_run(run.path).embed([])


class _TrainWithin(L.Callback):
    def __init__(self, settings, path):
        self.settings, self.path, self.error = settings, path, None

    def on_train_start(self, *_):
        def second():
            try:
                train(self.settings, self.path, progress=False)
            except RuntimeError as error:
                self.error = str(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()


def test_two_trainings_at_once_in_a_process_are_refused(settings, run, tmp_path):
    second = _TrainWithin(settings, tmp_path / "second")
    first = train(settings, tmp_path / "first", progress=False, callbacks=[second])
    assert second.error.startswith("another training runs in this process; train one after the other, or in spawned")
    assert not (tmp_path / "second").exists()
    assert first.weights_file.read_bytes() == run.weights_file.read_bytes()
    train(settings, tmp_path / "second", progress=False)

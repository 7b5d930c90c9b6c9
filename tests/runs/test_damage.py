"""Damage to every file of a run: each is noticed by what reads it, in a sentence that names it and the way out."""

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccpml.calibration.certificate import Certificate
from ccpml.cli import main
from ccpml.files import read_arrays, write_arrays
from ccpml.report.embedded import Instance, read_embedded
from ccpml.runs.directory import RunDirectory
from ccpml.runs.train import resume, train
from tests.toy import quick_settings, toy_folder

# What reads each file of a run. Those of the report and of TensorBoard are written, and never read.
READERS: dict[str, Callable[[RunDirectory, Path], Any]] = {
    "experiment.yaml": lambda run, file: run.settings(),
    "choices.json": lambda run, file: run.choices(),
    "record.json": lambda run, file: run.record(),
    "images.sha256": lambda run, file: run.fingerprint(),
    "metrics.csv": lambda run, file: run.metrics(),
    "scores.json": lambda run, file: run.scores(),
    "best.safetensors": lambda run, file: run.weights(),
    "last.ckpt": lambda run, file: run.check_state() and torch.load(file, weights_only=True),
    "embeddings": lambda run, file: vars(read_embedded(run, file.stem)),
    "instances": lambda run, file: vars(Instance.read(file)),
}
CHECKED = {"best.safetensors", "last.ckpt", "embeddings", "instances", "images.sha256"}  # by checksums


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    root = tmp_path_factory.mktemp("trained")
    settings = quick_settings(data=f"folder:{toy_folder(root / 'toy')}", max_steps=4)
    return train(settings, root / "run", progress=False)


def test_instances_of_another_run_are_named(trained: RunDirectory) -> None:
    file = trained.instances / "000.npz"
    assert Instance.read(file, trained.record().digest).title == Instance.read(file).title
    with pytest.raises(ValueError, match=r"000\.npz: of another run; restore it from a copy"):
        Instance.read(file, "0" * 64)


def files_of(run: RunDirectory) -> dict[Path, str]:
    """Return the files of a run, and the key of what reads each."""
    others = {"report.html", "pictures", "tensorboard", ".lock"}
    files = [file for file in sorted(run.path.rglob("*")) if file.is_file()]
    inside = {file: file.relative_to(run.path).parts for file in files}
    return {
        file: parts[0] if parts[0] in READERS else parts[-1] for file, parts in inside.items() if parts[0] not in others
    }


def content(run: RunDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}


def damaged(whole: bytes, other: bytes) -> dict[str, bytes]:
    """Return a file in several states of damage."""
    chance = random.Random(len(whole))
    states = {"empty": b"", "garbage": b"garbage\n", "zeros": bytes(len(whole)), "another": other}
    for place in sorted(chance.sample(range(1, len(whole)), 6)):
        states[f"cut at {place}"] = whole[:place]
    for place in sorted(chance.sample(range(len(whole)), 12)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        states[f"flipped at {place}"] = bytes(flipped)
    return states


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, np.ndarray | torch.Tensor):
        return one.dtype == other.dtype and np.array_equal(np.asarray(one), np.asarray(other))
    return bool(one == other)


def test_every_file_of_a_run_has_a_reader(trained: RunDirectory) -> None:
    keys = set(files_of(trained).values())
    assert keys == READERS.keys(), "add what reads a new file, with a sentence for a damaged one"


@pytest.mark.parametrize("key", READERS)
def test_damage_is_named(trained: RunDirectory, tmp_path: Path, key: str) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    files = files_of(run)
    file = next(file for file in files if files[file] == key)
    whole, read = file.read_bytes(), READERS[key]
    before = read(run, file)
    other = next(each for each in files if files[each] != key and each.suffix != file.suffix).read_bytes()
    for state, changed in damaged(whole, other).items():
        file.write_bytes(changed)
        message, now = "", None
        try:
            now = read(run, file)
        except ValueError as error:
            message = str(error)
        if not message:  # what has no checksum may be read as something else, if it is of the right kind
            assert state.startswith(("flipped", "cut")), state
            assert key not in CHECKED or is_same(now, before), state
        else:
            assert message.startswith(str(file)), (state, message)
            assert "; " in message, (state, message)
            assert not {"weights_only", "pickle"} & set(message.split()), (state, message)
    file.unlink()
    file.mkdir()
    with pytest.raises(
        (ValueError, FileNotFoundError), match=rf"{file.name}\b.*(got a folder|cannot be read|not found)"
    ):
        READERS[key](RunDirectory.open(run.path), file)


def test_embeddings_of_another_run_are_named(trained: RunDirectory, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    file = run.embeddings / "test.npz"
    arrays = read_arrays(file, [], "")
    write_arrays(file, **{**arrays, "embeddings": arrays["embeddings"][::-1]})
    with pytest.raises(ValueError, match=rf"{file}: damaged, or of another run \(wrong digest\); remove .* resume"):
        read_embedded(run, "test")
    assert main(["report", str(run.path)]) == 1
    assert "test.npz: damaged, or of another run" in capsys.readouterr().err


def test_scores_of_another_run_are_named(trained: RunDirectory, tmp_path: Path, capsys: Any) -> None:
    settings = trained.settings()
    other = train(settings.changed({"seed": 1}), tmp_path / "other", progress=False)
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    shutil.copy(other.scores_file, run.scores_file)
    verbs = [["train", "--resume"], ["report"], ["calibrate"], ["compare", str(other.path)]]
    verbs += [["export", "--format", "safetensors", "-o", str(tmp_path / "export.safetensors")]]
    for verb in verbs:
        assert main([*verb, str(run.path)]) == 1
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith(f"ccpml: error: {run.scores_file}: scores of another run; remove it and resume the run")
    run.scores_file.unlink()
    assert resume(run.path, progress=False).scores() == trained.scores()


def test_digests_of_images_of_another_run_are_named(trained: RunDirectory, tmp_path: Path) -> None:
    """They, and not the images, which are the same."""
    other = train(trained.settings().changed({"seed": 1}), tmp_path / "other", progress=False)
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.scores_file.unlink()
    shutil.copy(other.images_file, run.images_file)
    with pytest.raises(ValueError, match=rf"^{run.images_file}: damaged, or of another run .*; restore it from a copy"):
        resume(run.path, progress=False)
    older, _ = trained.images_file.read_text().splitlines()  # which does not name its run
    run.images_file.write_text(f"{older}\n")
    assert resume(run.path, progress=False).scores() == trained.scores()


def test_scores_that_do_not_name_their_run_are_read(trained: RunDirectory, tmp_path: Path) -> None:
    """Those of an older ccpml."""
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    older = {name: value for name, value in trained.scores().items() if name not in {"record_digest", "metrics_digest"}}
    run.scores_file.write_text(json.dumps(older))
    assert run.scores() == older


@pytest.mark.parametrize("name", ["experiment.yaml", "record.json", "images.sha256", "best.safetensors", "last.ckpt"])
def test_a_refused_verb_leaves_nothing(trained: RunDirectory, tmp_path: Path, name: str, capsys: Any) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    next(run.path.rglob(name)).write_bytes(b"garbage\n")
    run.scores_file.unlink()
    verbs = [["train", "--resume", str(run.path)]]
    verbs += [["evaluate", str(run.path)]] if name not in {"images.sha256", "last.ckpt"} else []
    for verb in verbs:
        before = content(run)
        assert main(verb) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{name}: " in error
        assert "; " in error
        assert content(run) == before


@pytest.mark.parametrize("name", READERS)
def test_a_file_without_permission_is_never_to_be_removed(
    trained: RunDirectory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(file for file, key in files_of(trained).items() if key == name)
    path_open = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return path_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=f"{file.name}: cannot be read .Permission denied.; change its permissions$"):
        READERS[name](trained, file)


def test_a_report_names_what_it_lacks(trained: RunDirectory, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    whole = content(run)
    run.metrics_file.write_text("garbage\n")
    (run.embeddings / "train.npz").unlink()
    (run.embeddings / "test.npz").write_bytes(whole[run.embeddings / "test.npz"][:100])
    (run.instances / "000.npz").write_bytes(b"zz\n")
    assert main(["report", str(run.path)]) == 1
    printed, page = capsys.readouterr().err, run.report_file.read_text(encoding="utf-8")
    for text in (printed, page):
        assert "metrics.csv: damaged (no column map_at_r); remove" in text
        assert "train.npz: not found; remove" in text
        assert "test.npz: damaged, cannot be read as .npz; remove" in text
        assert "000.npz: damaged, cannot be read as .npz; restore it from a copy" in text
    for file in (run.scores_file, run.metrics_file, run.embeddings / "test.npz"):  # as it says
        file.unlink()
    resume(run.path, progress=False)
    for file in (run.metrics_file, run.embeddings / "test.npz", run.embeddings / "train.npz"):
        assert file.read_bytes() == whole[file]
    (run.instances / "000.npz").unlink()
    run.metrics_file.write_bytes(b"\n".join(run.metrics_file.read_bytes().splitlines()[:-1]) + b"\n")
    assert main(["report", str(run.path)]) == 1
    printed = capsys.readouterr().err
    assert "metrics.csv: damaged (ends at step 2 of 4)" in printed


def test_a_file_that_several_sections_lack_is_named_once(trained: RunDirectory, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    Certificate("0" * 64, 0.95, {0.8: 0.5}).write(run.path)
    run.weights_file.unlink()
    assert main(["report", str(run.path)]) == 1
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == len({*notes}) == 1, notes


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '{"test": 1, "validation": 2, "steps": 3}', "[" * 10**5])
def test_scores_of_another_kind_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ValueError, match=r"scores\.json: (not the scores|damaged).*; remove it and resume the run"):
        RunDirectory(tmp_path).scores()


def test_a_report_says_what_to_do_about_other_data(trained: RunDirectory, tmp_path: Path, capsys: Any) -> None:
    folder = toy_folder(tmp_path / "toy")
    run = train(quick_settings(data=f"folder:{folder}", max_steps=1), tmp_path / "run", progress=False)
    first = next(path for path in sorted(folder.iterdir()) if path.is_dir())
    first.rename(folder / "other")
    assert main(["report", str(run.path)]) == 1
    assert "; restore them; scores and embeddings are of the images as they were." in capsys.readouterr().err

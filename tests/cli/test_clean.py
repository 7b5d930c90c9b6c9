"""``ccpml clean``: what it prints and writes, that `train` accepts it, and what it refuses."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from ccpml.cleaning.found import CleanedData
from ccpml.cli import main
from ccpml.data.sources.csv_file import load_csv
from ccpml.runs.directory import RunDirectory


@pytest.fixture
def photos(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder of the run with copies, a leak, a wrong label, and files that cannot be read."""
    photos = Path(shutil.copytree(folder, tmp_path / "photos"))
    first, other, last = (photos / name for name in ("group0/class00", "group0/class01", "group2/class11"))
    shutil.copy(first / "0.png", first / "a, copy.png")
    shutil.copy(first / "1.png", last / "leak.png")
    with Image.open(other / "2.png") as image:
        image.resize((64, 64)).save(other / "twice as large.png")
    (other / "empty.png").touch()
    return photos


def findings(output: Path) -> list[dict[str, str]]:
    with (output / "findings.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def names(output: Path, kind: str) -> list[str]:
    return [Path(row["path"]).name for row in findings(output) if row["kind"] == kind]


def test_what_is_found_is_written(
    run: Path,
    photos: Path,
    tmp_path: Path,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    output = tmp_path / "deep" / "found"
    assert main(["clean", str(run), f"folder:{photos}", "-o", str(output)]) == 0
    out = capsys.readouterr().out
    assert "63 pictures, 12 classes" in out
    assert f"cleaned   {output / 'cleaned.csv'}: 60 of 63 pictures" in out  # the leak has a wrong label in test
    assert "The run was trained on 3 of the 12 classes" in out
    assert set(names(output, "exact copy")) == {"0.png", "a, copy.png", "1.png", "leak.png"}
    assert names(output, "same picture") == ["twice as large.png", "2.png"]
    assert set(names(output, "leak")) == {"1.png", "leak.png"}
    assert names(output, "unreadable") == ["empty.png"]
    assert {row["cleaned"] for row in findings(output)} >= {"kept", "left out: copy", "left out: leak"}
    page = (output / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") > 10
    assert "http" not in page.replace("http-equiv", "")
    assert "ccpml train csv:cleaned.csv" in page
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    source = load_csv(output / "cleaned.csv")
    assert len(source.table) == 60
    assert source.split_of_class is not None
    monkeypatch.setattr("ccpml.report.write_report", lambda run, *_, **__: run.path / "report.html")
    flags = [*flags, "--max-steps=2"]
    assert main(["train", f"csv:{output / 'cleaned.csv'}", *flags, "--run", str(tmp_path / "again")]) == 0


def test_classes_that_the_run_was_trained_on_are_known_by_their_files(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = shutil.copytree(photos, tmp_path / "renamed")
    for name, split in RunDirectory(run).record().split_of_class.items():
        if split == "train":
            (renamed / name).rename(renamed / f"{name} as it is called now")
    assert main(["clean", str(run), f"folder:{renamed}", "-o", str(tmp_path / "found")]) == 0
    assert "The run was trained on 3 of the 12 classes" in capsys.readouterr().out


def test_what_has_no_class_to_train_on_is_not_advised_to_be_trained_on(run: Path, photos: Path, tmp_path: Path) -> None:
    splits = RunDirectory(run).record().split_of_class
    for name, split in splits.items():
        if split == "train":
            shutil.rmtree(photos / name)
    assert main(["clean", str(run), f"folder:{photos}", "-o", str(tmp_path / "found")]) == 0
    page = (tmp_path / "found" / "index.html").read_text(encoding="utf-8")
    assert "cleaned.csv has no class to train on, as none here is for training." in page
    assert "ccpml train csv:" not in page


def test_metadata_of_a_table_stay(run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(photos.rglob("*.png"))
    rows = [[number, file.relative_to(tmp_path), file.parent.name, file.stem] for number, file in enumerate(files)]
    with (tmp_path / "list.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows([["", "Path", "label", "Price"], *rows])  # as pandas writes it
    monkeypatch.chdir(tmp_path)
    assert main(["clean", str(run), "csv:list.csv", "-o", "found"]) == 0
    with Path("found/cleaned.csv").open(encoding="utf-8", newline="") as file:
        cleaned = list(csv.DictReader(file))
    assert 0 < len(cleaned) < len(files)
    assert [*cleaned[0]] == ["path", "label", "split", "role", "Price"]  # the run knows the files
    assert all(row["Price"] == Path(row["path"]).stem for row in cleaned)


def test_data_with_the_results_exist_only_once(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["clean", str(run), "folder:photos", "--drop", "same", "--relabel"]) == 0
    output = Path("run-photos-cleaned")
    assert (output / "index.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "run-photos-cleaned"]
    with (output / "cleaned.csv").open(encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert all(path.startswith("../photos/") for path in paths)
    assert not any(path.endswith("/class01/2.png") for path in paths)
    assert main(["clean", str(run), "folder:photos"]) == 2
    assert "run-photos-cleaned already exists; choose another folder or remove it" in capsys.readouterr().err


def test_pictures_without_labels(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inbox = photos / "group0" / "class00"
    output = tmp_path / "found"
    assert main(["clean", str(run), f"folder:{inbox}", "-o", str(output)]) == 0
    assert "6 pictures have no label" in capsys.readouterr().out
    assert names(output, "exact copy") == ["0.png", "a, copy.png"]
    assert (output / "cleaned.csv").read_text(encoding="utf-8").splitlines()[0] == "path"


def test_a_table_in_which_some_labels_are_missing_keeps_its_splits(run: Path, photos: Path, tmp_path: Path) -> None:
    rows = [(path, path.parent.name) for path in sorted(photos.rglob("?.png"))]
    lines = [
        f"{path},{'' if number % 7 == 0 else name},{'train' if name < 'class06' else 'test'},"
        for number, (path, name) in enumerate(rows)
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label,split,role", *lines]), encoding="utf-8")
    output = tmp_path / "found"
    assert main(["clean", str(run), f"csv:{table}", "-o", str(output)]) == 0
    source = load_csv(output / "cleaned.csv")
    assert source.split_of_class is not None
    assert source.split_of_class["class07"] == "test"
    assert len(source.table) == len(rows) - len(rows[::7])


def test_a_pool_and_built_in_data(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ccpml.data import ImageTable, loading
    from ccpml.data.sources.source import Source
    from tests.toy import toy_images

    images = toy_images(4, 5).reshape(20, 32, 32)
    table = ImageTable(images, np.repeat(np.arange(4), 5), tuple("abcd"), name="glyphs")
    load = loading._load
    monkeypatch.setattr(
        loading, "_load", lambda name, *rest: Source(table) if name.kind == "glyphs" else load(name, *rest)
    )
    output = tmp_path / "found"
    assert main(["clean", str(run), "glyphs", "--pool", f"folder:{photos}", "-o", str(output)]) == 0
    assert len(load_csv(output / "cleaned.csv").table) == 20
    with Image.open(output / "images" / "000007.png") as image:
        assert (np.asarray(image) == images[7]).all()
    assert "leaks between splits cannot be found" in capsys.readouterr().out


def test_wrong_usage(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        (str(photos), f"folder:{photos}"): "not a run directory",
        (str(run), "folder:nowhere"): "folder:nowhere: folder not found",
        (str(run), f"folder:{photos}", "--pool", "folder:nowhere"): "folder:nowhere: folder not found",
        (str(run), f"folder:{photos}", "-o", str(photos)): "already exists",
        (str(run), f"folder:{photos}", "--min-score", "2"): "--min-score: expected a number from 0.5",
        (
            str(run),
            f"folder:{photos}",
            "-o",
            str(photos / "group0" / "class00" / "0.png" / "x"),
        ): "not a writable folder",
    }
    for arguments, message in cases.items():
        assert main(["clean", *arguments]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_nothing_is_left_of_an_interrupted_command(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(found: CleanedData) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("ccpml.cleaning.results.page_of", interrupt)
    assert main(["clean", str(run), f"folder:{photos}", "-o", str(tmp_path / "deep" / "found")]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_failures(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path(shutil.copytree(run, tmp_path / "own"))
    file = own / "checkpoints" / "best.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("model.") and weights[name].is_floating_point())
    save_file({**weights, name: weights[name] * np.nan}, file)
    output = tmp_path / "found"
    assert main(["clean", str(own), f"folder:{photos}", "-o", str(output)]) == 1
    assert "expected finite embeddings, got NaN or infinity for 63 of 63 images" in capsys.readouterr().err
    file.unlink()
    assert main(["clean", str(own), f"folder:{photos}", "-o", str(output)]) == 1
    assert "best.safetensors" in capsys.readouterr().err.splitlines()[-1]
    for path in (photos / "group0" / "class00").iterdir():
        path.write_bytes(b"")
    assert main(["clean", str(run), f"folder:{photos / 'group0' / 'class00'}", "-o", str(output)]) == 1
    assert "expected at least one image that can be read, got none of 6" in capsys.readouterr().err
    assert not output.exists()


def test_names_that_no_table_can_hold_are_left_out(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = photos / "group0" / "class02" / "0.png"
    try:
        some.rename(some.with_name(os.fsdecode(b"a\xff.png")))
    except OSError:
        pytest.skip("the file system has names of text alone")
    assert main(["clean", str(run), f"folder:{photos}", "-o", str(tmp_path / "out")]) == 0
    assert "1 picture has a name not in UTF-8" in capsys.readouterr().out
    assert "udcff" not in (tmp_path / "out" / "cleaned.csv").read_text(encoding="utf-8")

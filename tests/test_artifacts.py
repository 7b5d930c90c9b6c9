"""One thing of ccpml given in place of another: the error says what it is, and which verbs take it."""

from pathlib import Path

import pytest

from ccpml.artifacts import artifact_kind, mismatch
from ccpml.cli import main
from ccpml.data.sources.folder import load_folder
from ccpml.runs import load_run


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    files = {
        "run": "experiment.yaml",
        "index": "index.sqlite",
        "benchmark": "benchmark.yaml",
        "study": "study.yaml",
        "cleaned": "cleaned.csv",
        "hub": "model.safetensors",
        "runs": "photos-seed0/experiment.yaml",
        "photos": "mug/a.png",
    }
    for name, file in files.items():
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).touch()
    (tmp_path / "run" / "record.json").touch()
    for name in ("a.onnx", "a.pt2", "a.safetensors", "a.png", "a.zip", "a.xlsx", "a.pth", "run/scores.json", "a.bin"):
        (tmp_path / name).write_bytes(b"\xff\n")
    return {path.name: path for path in (*tmp_path.iterdir(), *(tmp_path / "run").iterdir())}


PYTHON = "an exported model, which EmbeddingModel.from_pretrained loads; embed, index, search and serve take the run, "
EXPECTED = {
    "index": "an index, which search and serve take",
    "benchmark": "the folder of a benchmark, whose runs are below cells",
    "study": "the folder of a study, whose runs are its trials",
    "cleaned": "the results of clean, whose cleaned.csv is data",
    "hub": f"{PYTHON}or an .onnx file of it",
    "runs": "a folder of runs, such as photos-seed0",
    "a.onnx": "an exported model, which embed, index, search and serve take",
    "a.pt2": f"{PYTHON.replace('EmbeddingModel.from_pretrained', 'torch.export.load')}or an .onnx file of it",
    "a.safetensors": f"{PYTHON}or an .onnx file of it",
    "a.png": "a picture",
    "a.zip": "an archive, to be unpacked first",
    "a.bin": "another file",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_given_in_place_of_a_run_is_named(
    name: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, what = places[name], EXPECTED[name]
    for verb in (["evaluate"], ["report"], ["train", "--resume"], ["export", "--format", "hub"]):
        assert main([*verb, str(path)]) == 2
        assert capsys.readouterr().err == f"ccpml: error: {path}: expected a run directory, got {what}\n"
    with pytest.raises(FileNotFoundError, match="expected a run directory, got a"):
        load_run(places["hub"])


def test_verbs_that_take_an_onnx_file_too_say_so(places: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hub", "a.pt2", "a.safetensors"):
        assert main(["index", str(places[name]), "photos", "-o", "x.index"]) == 2
        message = f"{places[name]}: expected a run directory or an .onnx file, got {EXPECTED[name]}\n"
        assert capsys.readouterr().err == f"ccpml: error: {message}"


def test_the_home_of_an_unknown_user_is_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "folder:~no-such-user/a"], ["evaluate", "~no-such-user/a"], ["report", "~no-such-user/a"]):
        assert main(words) == 2
        assert "~no-such-user/a: " in capsys.readouterr().err


def test_a_run_in_place_of_an_index_is_named(places: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(places["run"]), "query.jpg"]) == 2
    assert f"{places['run']}: expected an index, got a run directory; `ccpml index" in capsys.readouterr().err


def test_other_folders_lack_a_file(places: dict[str, Path]) -> None:
    assert artifact_kind(places["photos"]) == "a folder"
    expected = f"{places['photos']}: not a run directory (experiment.yaml not found)"
    assert mismatch(places["photos"], "a run directory", "experiment.yaml") == expected


def test_a_run_that_has_lost_its_settings_is_to_be_restored(tmp_path: Path) -> None:
    (tmp_path / "record.json").touch()
    text = mismatch(tmp_path, "a run directory", "experiment.yaml")
    assert text == f"{tmp_path}: not a run directory (experiment.yaml not found); restore it from a copy"
    (tmp_path / "experiment.yaml").mkdir()
    text = mismatch(tmp_path, "a run directory", "experiment.yaml")
    reason = "experiment.yaml: expected a file, got a folder"
    assert text == f"{tmp_path}: not a run directory ({reason}); restore it from a copy"


@pytest.mark.parametrize("name", ["run", "index", "benchmark", "study"])
def test_what_ccpml_has_written_is_no_folder_of_images(
    name: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """And no class of one: the default folder of runs is in the current folder, which may be that of the images."""
    outside, kind = places["photos"].parent, {"run": "a run directory", **EXPECTED}[name]
    (places[name] / "pictures").mkdir()
    for file in (places[name] / "pictures" / "a.png", places[name] / "table.png"):
        file.touch()
    for verb in (["train"], ["data", "check"], ["benchmark"]):
        assert main([*verb, f"folder:{places[name]}"]) == 1
        assert f"{places[name]}: expected a folder of images, got {kind}" in capsys.readouterr().err
        assert main([*verb, str(places[name])]) == 2
        assert f"; {places[name]} is {kind}" in capsys.readouterr().err
    (outside / "a.png").unlink()
    (places["photos"].parent / "cleaned" / "own.png").touch()
    found = load_folder(outside)
    assert [*found.table.class_names] == ["cleaned", "photos/mug"]
    assert any(one.path == Path(name) and one.kind.startswith("folder{s} of a") for one in found.ignored)


def test_a_file_in_place_of_another_is_named(places: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = places["run"], places["run"].parent
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.safetensors").touch()
    expected = {
        f"csv:{places['a.png']}": f"{places['a.png']}: expected a CSV file, got a picture; choose another file",
        f"csv:{places['a.xlsx']}": "expected a CSV file, got a spreadsheet, to be saved as CSV first",
        f"csv:{places['a.bin']}": "not UTF-8; save the file as UTF-8",
        f"csv:{run}": "expected a file, got a run directory",
        f"folder:{places['a.zip']}": "expected a folder, got an archive, to be unpacked first",
        f"folder:{places['scores.json']}": f"expected a folder, got a file of the run {run}",
        str(places["a.png"]): f"csv:<file>; {places['a.png']} is a picture",
        str(places["a.bin"]): f"; did you mean csv:{places['a.bin']}?",
        str(places["photos"]): f"; did you mean folder:{places['photos']}?",
        f"glyphs --config {run}": f"--config {run}: expected a file, got a run directory; its settings are {run}/exp",
        f"glyphs --weights {run}": f"'{run}', a run directory; its weights are {run}/checkpoints/best.safetensors",
        f"glyphs --config {folder}": f"--config {folder}: expected a file, got a folder of runs, such as run",
    }
    for words, message in expected.items():
        assert main(["train", *words.split()]) in {1, 2}
        assert message in capsys.readouterr().err, words
    for path in (run / "scores.json", run / "checkpoints", run / "checkpoints" / "best.safetensors"):
        assert main(["report", str(path)]) == 2
        what = "folder" if path.is_dir() else "file"
        assert f"expected a run directory, got a {what} of the run {run}" in capsys.readouterr().err

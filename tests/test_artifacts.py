"""One thing of ccpml given in place of another: the error says what it is, and which verbs take it."""

from pathlib import Path

import pytest

from ccpml.artifacts import artifact_kind, mismatch
from ccpml.cli import main
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
    for name in ("a.onnx", "a.pt2", "a.safetensors", "a.png"):
        (tmp_path / name).touch()
    return {path.name: path for path in tmp_path.iterdir()}


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
    "a.png": "another file",
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

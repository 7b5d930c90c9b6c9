"""Every verb that reads a run says that it is unfinished: those that use its weights in a note, others as an error."""

import re
import shutil
from pathlib import Path

import pytest

from ccpml import load_run
from ccpml.cli import VERBS, main
from ccpml.runs.train import train
from ccpml.serving import Index
from tests.toy import quick_settings, toy_folder

USE = {
    "evaluate": ["evaluate", "run", "--all-classes", "folder:photos"],
    "evaluate --ensemble": ["evaluate", "finished", "--ensemble", "run"],
    "embed": ["embed", "run", "folder:photos", "-o", "photos.npz"],
    "export": ["export", "run", "--format", "safetensors"],
    "compare": ["compare", "finished", "run", "--data", "folder:others"],
    "index": ["index", "run", "photos/group0", "-o", "new.index"],
    "index --ensemble": ["index", "finished", "photos/group0", "-o", "new.index", "--ensemble", "run"],
    "search": ["search", "p.index", "photos/group0/class00/0.png"],
    "serve": ["serve", "p.index", "--port", "0"],
    "clean": ["clean", "run", "folder:photos"],
}
REFUSE = {
    "report": ["report", "run"],
    "compare": ["compare", "finished", "run"],
    "calibrate": ["calibrate", "run"],
}
READ_NONE = {"train", "benchmark", "tune", "data"}
NOTE = r"note: (/\S+/)?run: the run is unfinished \(scores.json not found\); these are its best weights so far"


@pytest.fixture(scope="module")
def place(run: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "photos").symlink_to(folder)
    toy_folder(place / "others", classes=16, per_class=2)
    shutil.copytree(run, place / "finished")
    train(quick_settings(data=f"folder:{folder}", max_steps=2, seed=1), place / "run", progress=False, test=False)
    with Index.create(place / "p.index", load_run(place / "run")) as index:
        index.sync(str(folder / "group0"))
    return place


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("ccpml.serving.service.server.serve", lambda app, listener, settings: None)


def test_every_verb_is_in_a_table() -> None:
    assert {name.split()[0] for name in (*USE, *REFUSE)} | READ_NONE == set(VERBS)


@pytest.mark.parametrize("name", USE)
def test_a_verb_that_uses_the_weights_of_an_unfinished_run_says_so_once(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / word) if word.startswith("new") else word for word in USE[name]]
    assert main(arguments) == 0, capsys.readouterr().err
    assert len(re.findall(f"^{NOTE}$", capsys.readouterr().err, re.MULTILINE)) == 1


@pytest.mark.parametrize("name", REFUSE)
def test_a_verb_that_needs_a_finished_run_says_what_is_missing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(REFUSE[name]) == 1
    err = capsys.readouterr().err
    assert "run: the run is not finished (scores.json not found)" in err
    assert "unfinished" not in err


def test_a_finished_run_has_no_such_note(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "finished", "folder:photos", "-o", "finished.npz"]) == 0
    assert "unfinished" not in capsys.readouterr().err

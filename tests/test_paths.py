"""Paths as users of the library write them: text, with ~, and a run in place of its path."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccpml import EmbeddingModel, ExportedModel, Index, export_run, load_run, train
from ccpml.calibration import Certificate
from ccpml.calibration.run import calibrate_run
from ccpml.cleaning.run import clean_run
from ccpml.comparison.compare import compare_runs
from ccpml.runs.directory import RunDirectory
from ccpml.runs.inference import embed_run, evaluate_run
from ccpml.runs.inference.rankings import compare_rankings
from ccpml.runs.train import resume
from ccpml.serving import create_index, find_pictures, open_index
from ccpml.serving.interface import index_exists
from tests.toy import quick_settings, toy_folder

GRAY = np.full((28, 28), 128, np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with data, two runs, an index, a certificate and exports."""
    home = tmp_path_factory.mktemp("home")
    data = f"folder:{toy_folder(home / 'photos')}"
    for number, name in enumerate(("run", "other")):
        train(quick_settings(data=data, max_steps=2, seed=number), home / name, progress=False)
    calibrate_run(home / "run", data)
    export_run(home / "run", "onnx", home / "model.onnx")
    export_run(home / "run", "safetensors", home / "model.safetensors")
    with Index.create(home / "made.index", load_run(home / "run")):
        return home


READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "load_run": ("run", lambda path: load_run(path).embed([GRAY]).shape),
    "RunDirectory": ("run", lambda path: RunDirectory.open(path).finished),
    "resume": ("run", lambda path: resume(path, progress=False).finished),
    "evaluate_run": ("run", lambda path: evaluate_run(path).size),
    "compare_rankings": ("run", lambda path: compare_rankings(path)[0]),
    "calibrate_run": ("run", lambda path: calibrate_run(path, precisions=(0.5,))),
    "export_run": ("run", lambda path: export_run(path, "safetensors").path),
    "Certificate": ("run", lambda path: Certificate.read(path).answers),
    "Certificate, file": ("run/certificate.json", lambda path: Certificate.read(path).answers),
    "compare_runs": ("run", lambda path: len(compare_runs([path, Path.home() / "other"]).runs)),
    "ExportedModel": ("model.onnx", lambda path: ExportedModel(path).embed([GRAY]).shape),
    "from_pretrained": ("model.safetensors", lambda path: EmbeddingModel.from_pretrained(path).training),
    "Index": ("made.index", lambda path: Index.open(path).path),
    "open_index": ("made.index", lambda path: open_index(path).path),
    "index_exists": ("made.index", index_exists),
    "find_pictures": ("photos", lambda path: len(find_pictures(path).pictures)),
}
WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    "train": lambda path, home: train(quick_settings(data="folder:~/photos", max_steps=2), path, progress=False),
    "export_run": lambda path, home: export_run(home / "run", "hub", path),
    "embed_run": lambda path, home: embed_run(home / "run", "folder:~/photos", path),
    "clean_run": lambda path, home: clean_run(home / "run", "folder:~/photos", path),
    "Index": lambda path, home: Index.create(path, load_run(home / "run")).close(),
    "create_index": lambda path, home: create_index(path, load_run(home / "run")).close(),
}


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, from another one."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "photos")
    shutil.rmtree(home / "run" / "export", ignore_errors=True)
    return home


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("form", [str, Path])
def test_a_path_to_read_may_begin_with_the_home_folder(name: str, form: Callable[[str], Any], at_home: Path) -> None:
    place, read = READERS[name]
    found = read(form(f"~/{place}"))
    shutil.rmtree(at_home / "run" / "export", ignore_errors=True)
    assert found == read(at_home / place)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("form", [str, Path])
def test_a_path_to_write_may_begin_with_the_home_folder(name: str, form: Callable[[str], Any], at_home: Path) -> None:
    """A folder with the name ~ was made in the current one."""
    target = f"new-{name}-{form.__name__}.npz"
    WRITERS[name](form(f"~/{target}"), at_home)
    assert (at_home / target).exists()
    assert not Path("~").exists()


@pytest.mark.parametrize("name", [name for name, (place, _) in READERS.items() if place == "run"])
@pytest.mark.parametrize("opened", [load_run, RunDirectory])
def test_a_run_is_taken_in_place_of_its_path(name: str, opened: Callable[[Path], Any], at_home: Path) -> None:
    """As it is returned by train or load_run."""
    read = READERS[name][1]
    found = read(opened(at_home / "run"))
    shutil.rmtree(at_home / "run" / "export", ignore_errors=True)
    assert found == read(at_home / "run")

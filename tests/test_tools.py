"""The scripts in tools/, on small data."""

import io
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ccpml import train
from ccpml.data.sources import groceries
from tests.toy import quick_settings, toy_folder

ROOT = Path(__file__).parents[1]
ORIGINAL = ROOT.parent / "shared" / "data" / "grocery81.zip"


def tool(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(folder: Path, values: list[float]) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        Image.new("RGB", (20, 20), (round(value), 0, 0)).save(path)
    return paths


def test_images_are_chosen_farthest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tool("make_groceries")
    paths = images(tmp_path, [0, 10, 11, 12, 30, 100])  # mean 27.2: first 30, then 100, 0, then 11 or 12
    for count, expected in ((1, [4]), (2, [4, 5]), (3, [0, 4, 5]), (4, [0, 3, 4, 5])):
        monkeypatch.setattr(make, "IMAGES_PER_CLASS", count)
        assert make.farthest_first(paths) == [paths[row] for row in expected]


@pytest.mark.skipif(not ORIGINAL.is_file(), reason="the GroceryStore images are not in ../shared/data")
def test_the_groceries_can_be_made_again(tmp_path: Path) -> None:
    make = tool("make_groceries")
    with zipfile.ZipFile(ORIGINAL) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith("63.Cucumber/")])
    paths = make.farthest_first(sorted(tmp_path.glob("63.Cucumber/*.jpg")))
    with zipfile.ZipFile(Path(groceries.__file__).with_name("groceries.zip")) as archive:
        names = [name for name in archive.namelist() if name.startswith("Vegetables/Cucumber/")]
        assert [Path(name).stem for name in names] == [path.stem.replace("_Cucumber", "") for path in paths]
        stored, again = archive.read(names[5]), make.encoded(paths[5])
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in (stored, again)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 8, "another version of libwebp"


def test_picture_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = quick_settings(data=f"folder:{toy_folder(tmp_path / 'toy')}", max_steps=2, loss="triplet")
    run = train(settings, tmp_path / "run", progress=False)
    monkeypatch.setattr(sys, "argv", ["", str(run.path)])
    draw = tool("draw_readme_picture")
    monkeypatch.setattr(draw, "OUTPUT", tmp_path / "gallery.jpg")
    draw.main()
    with Image.open(tmp_path / "gallery.jpg") as picture:
        assert picture.width > 1000


WRITER = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
for name in "ab":
    file = folder / name
    if not file.exists():
        file.write_text(f"{name}: {'done' if not list(folder.iterdir()) else sys.argv[2]}")
    time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize(("resumed", "expected"), [("ok", ""), ("not the same", "DIFFERS: b (1 files)")])
def test_a_result_that_differs_after_an_interruption_is_found(tmp_path: Path, resumed: str, expected: str) -> None:
    interrupted = tool("interrupt_at_random")

    def writer(text: str, seconds: float) -> Callable[[Path], list[str]]:
        return lambda folder: [sys.executable, "-c", WRITER, str(folder), text, str(seconds)]

    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(writer("ok", 0)(whole), check=True)
    verb = interrupted.Verb(Path.mkdir, writer("ok", 30), writer(resumed, 0))
    problem, code = interrupted.interrupt(verb, signal.SIGKILL, 1.0, tmp_path / "now", whole)
    assert (problem, code) == (expected, -signal.SIGKILL)


def test_all_verbs_are_interrupted_by_all_signals() -> None:
    interrupted = tool("interrupt_at_random")
    cases = interrupted._cases(["train", "report"], 8, random.Random(0))
    assert len(cases) == 8
    assert set(cases[:6]) == {(name, number) for name in ("train", "report") for number in interrupted.SIGNALS}

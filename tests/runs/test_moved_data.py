"""Data of a run that were moved: each step that needs them says what works, and that does."""

import re
from pathlib import Path

import pytest

from ccpml.data.sources.source import SourceNotFoundError
from ccpml.runs.directory import RunDirectory
from ccpml.runs.images import DataMovedError, compare_data
from ccpml.runs.inference import evaluate_run
from ccpml.runs.train import resume, train
from tests.data.layouts import make_cub
from tests.toy import quick_settings, toy_folder


@pytest.mark.parametrize("kind", ["folder", "csv", "cub"])
def test_moved_data_are_found_by_a_link_as_the_error_says(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    make_cub(data)
    photos = toy_folder(data / "photos", classes=8, per_class=2)
    lines = [f"{file.relative_to(data)},{file.parent.name}" for file in sorted(photos.glob("*/*/*.png"))]
    (data / "list.csv").write_text("\n".join(["path,label", *lines, ""]))
    name = {"folder": f"folder:{photos}", "csv": f"csv:{data / 'list.csv'}", "cub": "cub"}[kind]
    settings = quick_settings(data=name, data_root=str(data), allow_partial=True, max_steps=0, classes_per_batch=2)
    run = train(settings, tmp_path / "run", progress=False, test=False)

    data.rename(tmp_path / "moved")
    moved = f"not found.*; {re.escape(str(run.path))} was started with it: restore it, or make a link to it there if it"
    with pytest.raises(DataMovedError, match=moved):
        resume(run.path, progress=False)
    with pytest.raises(SourceNotFoundError, match="not found.*" if kind == "cub" else moved):  # of another data root
        evaluate_run(run.path)
    assert re.search(moved, compare_data(run))

    data.symlink_to(tmp_path / "moved")
    assert not compare_data(run)
    assert RunDirectory(resume(run.path, progress=False).path).finished
    evaluate_run(run.path)

"""The recipes of docs/extend.md are followed to the letter on a copy of the package, and the result is run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy import QUICK, toy_folder

pytestmark = pytest.mark.usefixtures("preloaded")

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
RUN = "import json, sys; from ccpml.cli import main; sys.exit(max(main(line) for line in json.loads(sys.argv[1])))"


def blocks(recipe, language):
    section = re.search(rf"^## {recipe}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def write(source, block):
    """Write a block as a new file, or add it to the table that its first line names."""
    where, _, content = block.partition("\n")
    path, _, table = where.removeprefix("# src/").partition(", in ")
    if not table:
        assert not (source / path).exists()
        (source / path).write_text(content, encoding="utf-8")
        return
    lines = (source / path).read_text(encoding="utf-8").splitlines(keepends=True)
    start = next(row for row, line in enumerate(lines) if re.match(rf"{table}\b.*[({{]\n$", line))
    end = next(row for row in range(start, len(lines)) if lines[row] in {"}\n", ")\n"})
    added = content.splitlines(keepends=True)
    lines[end:end] = [line for line in added if line.startswith(" ")]
    first_import = next(row for row, line in enumerate(lines) if line.startswith(("from ", "import ")))
    lines[first_import:first_import] = [line for line in added if line.startswith("from ")]
    (source / path).write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def follow(tmp_path):
    """Follow a recipe and run its commands with settings of a run of seconds; return the folder they ran in."""
    toy_folder(tmp_path / "photos")

    def run(recipe, *before):
        source = tmp_path / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        code = blocks(recipe, "python")
        assert sum(bool(line.strip()) for block in code for line in block.splitlines()[1:]) < 30
        for block in code:
            write(source, block)
        quick = [*(f"--{name}={value}" for name, value in {**QUICK, "max_steps": 2, "memory_start": 1}.items())]
        lines = [shlex.split(line)[1:] for block in blocks(recipe, "") for line in block.splitlines()]
        # a recipe's own options come last, and win
        lines = [
            [line[0], *(quick if line[0] in {"train", "benchmark"} else []), *line[1:]] for line in [*before, *lines]
        ]
        done = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps(lines)],
            env={**os.environ, "PYTHONPATH": str(source)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return tmp_path

    return run


def test_a_loss(follow):
    folder = follow("A loss")
    table = next(folder.rglob("table.md")).read_text(encoding="utf-8")
    for title in ("BD", "BD-CCP", "BD-XBM"):
        assert f"| {title} " in table
    (run,) = folder.glob("runs/photos-binomial_deviance-*")
    assert "alpha: 3.0" in (run / "experiment.yaml").read_text(encoding="utf-8")
    assert "binomial deviance, alpha 3, beta 25" in (run / "report.html").read_text(encoding="utf-8")


def test_a_baseline(follow):
    folder = follow("A baseline")
    (run,) = folder.glob("runs/*")
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "CosFace, margin 0.35, scale 64" in report


def test_a_backbone(follow):
    folder = follow("A backbone")
    (run,) = folder.glob("runs/*")
    settings = (run / "experiment.yaml").read_text(encoding="utf-8")
    assert "backbone: patch_net" in settings
    assert "channels: 1" in settings  # the images are gray, and it takes them


def test_a_data_set(follow, tmp_path):
    images = sorted(tmp_path.rglob("photos/*/*/*.png"))
    labels = sorted({image.parent.name for image in images})
    split = dict(zip(labels, ["train"] * 6 + ["validation"] * 2 + ["test"] * 4, strict=True))
    rows = {
        str(image.relative_to(tmp_path)): {"label": image.parent.name, "split": split[image.parent.name]}
        for image in images
    }
    (tmp_path / "photos.json").write_text(json.dumps(rows), encoding="utf-8")
    folder = follow("A data set")
    (run,) = folder.glob("runs/photos-*")
    sizes = {name: part["classes"] for name, part in json.loads((run / "scores.json").read_text())["splits"].items()}
    assert sizes == {"train": 6, "validation": 2, "test": 4}


def test_a_picture(follow):
    folder = follow("A section of the report", ["train", "folder:photos", "--method", "plain", "--run", "runs/ccp"])
    run = folder / "runs" / "ccp"
    assert (run / "pictures" / "query_scores.png").is_file()
    assert "Histogram of MAP@R over 30 queries." in (run / "report.html").read_text(encoding="utf-8")

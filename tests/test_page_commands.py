"""Every command of the pages is run, in order, in a folder with what the page names."""

import csv
import shlex
import shutil
from pathlib import Path

import pytest

from ccpml import load_run, train
from ccpml.data.sources import groceries
from tests.exported.onnx_models import describe, write_model
from tests.page_commands import page_commands, run_commands
from tests.serving.qdrant.server import qdrant_server
from tests.toy import quick_settings, toy_folder

DOCS = Path(__file__).parents[1] / "docs"
RUN = "runs/photos-multi_similarity-ccp-seed0"
QUERIES = ("query.jpg", "a.jpg", "b.jpg", "c.jpg", "front.jpg", "back.jpg")

#: Commands of each page that are not run, by their first words.
PAGES = {
    "export.md": ["pip install"],
    "deploy.md": ["pip install"],
    "compare.md": [],
    "indexes.md": [],
    "clean.md": [],
    "guarantee.md": [],
    "search.md": ["pip install"],
    "serving.md": ["pip install"],
    "loggers.md": ["pip install", "tensorboard --logdir", "mlflow server", "wandb sync"],
    "qdrant.md": [
        "pip install",
        "docker run",
        "docker run",
        "docker network",
        "docker run",
        "docker run",
        "docker run",
    ],
}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A folder with the pictures, the table and the run that pages begin with."""
    folder = tmp_path_factory.mktemp("example")
    photos = toy_folder(folder / "photos", per_class=3, suffix=".jpg")
    pictures = sorted(photos.rglob("*.jpg"))
    for name, picture in zip(QUERIES, pictures, strict=False):
        shutil.copy(picture, folder / name)
    shutil.copytree(pictures[0].parent, folder / "inbox")
    toy_folder(folder / "other", per_class=3)
    with (folder / "shop.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "price", "color", "list price"])
        for number, picture in enumerate(pictures):
            table.writerow([picture, ["mug", "bowl"][number % 2], 5 + number, ["red", "blue", ""][number % 3], 40])
    train(quick_settings(data=f"folder:{photos}", max_steps=2), folder / RUN, progress=False)
    shutil.copytree(folder / RUN, folder / "runs" / "ccp")
    facts = describe(fingerprint=load_run(folder / RUN).fingerprint, embedding_dim=8)
    write_model(folder / "photos.onnx", facts)
    return folder


@pytest.fixture
def few_groceries(monkeypatch):
    """Four classes of each part of the groceries, six pictures of each."""
    of_archive = groceries.list_archive

    def some(archive):
        kept, classes = {}, {}
        for image in of_archive(archive):
            name = image.name.rpartition("/")[0]
            kind = classes.setdefault(name.partition("/")[0], [])
            if name not in kind and len(kind) < 4:
                kind.append(name)
            if name in kind and len(kept.setdefault(name, [])) < 6:
                kept[name].append(image)
        return [image for images in kept.values() for image in images]

    monkeypatch.setattr(groceries, "list_archive", some)


@pytest.mark.parametrize("page", [name for name in PAGES if (DOCS / name).exists()])
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_commands_run(page, example, few_groceries, tmp_path, monkeypatch, capsys):
    shutil.copytree(example, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("CCPML_QDRANT_API_KEY", "")
    monkeypatch.setattr("ccpml.report.write_report", lambda run, *_, **__: run.path / "report.html")
    commands = page_commands(DOCS / page)
    if ["ccpml", "train", "folder:photos"] in commands:
        shutil.rmtree(RUN)
    with qdrant_server() as server:
        addresses = {"localhost:6333": server.url.removeprefix("qdrant://")}
        skipped = run_commands(commands, addresses)
    assert [shlex.join(words[:2]) for words in skipped] == PAGES[page]
    assert len(commands) > len(skipped)

"""What README and docs show is run."""

import contextlib
import re
import shlex
import shutil
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from ccpml import train
from ccpml.cli import VERBS
from tests.exported.onnx_models import write_model
from tests.toy import quick_settings, toy_folder

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


SHOWN = [page for page in PAGES if page.name != "extend.md"]  # test_extend runs that one
CODE = [(page, code) for page in SHOWN for code in blocks(page, "python")]
NAME = attrgetter("name")
COMMANDS = [
    (page, line)
    for page in SHOWN
    for language in ("", "bash", "console")
    for block in blocks(page, language)
    for line in block.replace("\\\n", " ").removeprefix("$ ").splitlines()
    if line.startswith("ccpml ")
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the images and the run that the pages name."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("photos", "other"):
        toy_folder(folder / name, classes=24, suffix=".jpg")
    settings = quick_settings(data=f"folder:{folder / 'photos'}", max_steps=2)
    for name in ("ccp", "photos-multi_similarity-ccp-seed0"):
        train(settings, folder / "runs" / name, progress=False)
    write_model(folder / "photos.onnx")
    for name in ("demo-plain", "demo"):
        shutil.copytree(folder / "runs" / "ccp", folder / "runs" / name)
    return folder


@pytest.mark.parametrize(("page", "code"), CODE, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_python_runs(page, code, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    exec(compile(code, str(page), "exec"), {})


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: getattr(value, "name", str(value)))
def test_commands_are_understood(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, verb, *arguments = shlex.split(line, comments=True)
    for file in (argument for argument in arguments if argument.endswith(".yaml")):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("{}", encoding="utf-8")
    assert verb in VERBS
    if "--print-config" in arguments:  # reads the images
        toy_folder(Path("photos"))
    with contextlib.suppress(SystemExit):  # --help, --print-config
        import_module(f"ccpml.cli.{verb}").parse(arguments)


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))], ids=NAME)
def test_links_lead_somewhere(page):
    for file, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if not file.startswith("http"):
            target = page.parent / file if file else page
            assert target.exists(), file
            assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_the_map_of_the_code_names_files_that_exist():
    page = ROOT / "docs" / "extend.md"
    section = page.read_text(encoding="utf-8").partition("## Map of the code")[2].partition("\n## ")[0]
    paths = [path for path in re.findall(r"`([\w./]+)`", section) if "/" in path or path.endswith(".py")]
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "src" / "ccpml" / path).exists(), path


def test_there_is_something_to_check():
    assert len(CODE) >= 2
    assert len(COMMANDS) >= 8

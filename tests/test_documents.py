"""What README and docs show is run."""

import contextlib
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from ccpml import train
from ccpml.cli import VERBS
from tests.toy import quick_settings, toy_folder

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


CODE = [(page, code) for page in PAGES if page.name != "extend.md" for code in blocks(page, "python")]
COMMANDS = [
    (page, line)
    for page in PAGES
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
    with contextlib.suppress(SystemExit):  # --help, --print-config
        import_module(f"ccpml.cli.{verb}").parse(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_there_is_something_to_check():
    assert len(CODE) >= 2
    assert len(COMMANDS) >= 8

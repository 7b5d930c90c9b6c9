"""The command line owns flags: errors of the library name things, and the hints are added at the end."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import ccpml
from ccpml.cli import main
from ccpml.cli.common.hints import HINTS, describe
from ccpml.data.images.read import BadImage, BadImageError
from ccpml.data.upkeep.check import SkippableImagesError
from tests.toy import QUICK, toy_folder

SOURCE = Path(ccpml.__file__).parent
MODULES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(SOURCE.rglob("*.py"))}
LIBRARY = {file: tree for file, tree in MODULES.items() if SOURCE / "cli" not in file.parents}


def test_no_message_of_the_library_names_a_flag() -> None:
    found = [
        f"{file.relative_to(SOURCE)}:{text.lineno}: {text.value}"
        for file, tree in LIBRARY.items()
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Raise)
        for text in ast.walk(statement)
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and re.search(r"(?<![\w-])--\w", text.value)
        if "pip install" not in text.value
    ]
    assert not found


def test_every_hint_is_for_an_error_that_the_library_raises() -> None:
    classes = {node.name for tree in LIBRARY.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert HINTS.keys() <= classes


def test_a_hint_ends_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").touch()
    assert main(["train", "glyphs", "--run", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(f"ccpml: error: {tmp_path}: ")
    assert error.endswith("; choose another directory with --run\n")
    (tmp_path / "experiment.yaml").touch()
    assert main(["train", "glyphs", "--run", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.endswith("; resume it with `ccpml train --resume <run>`, or choose another directory with --run\n")


def test_unreadable_images_are_a_list_below_the_sentence() -> None:
    bad = [BadImage(row, f"{row}.jpg", "the file is empty") for row in range(12)]
    lines = describe(SkippableImagesError.of(bad, 20, "repair, remove or skip them", Path("list.txt"))).splitlines()
    assert lines[0] == (
        "12 of 20 images cannot be read; repair, remove or skip them; --skip-bad-images leaves them out:"
    )
    assert lines[1] == "  0.jpg: the file is empty"
    assert lines[11:] == ["  and 2 more; all are listed in list.txt"]


def test_control_characters_are_escaped() -> None:
    error = SkippableImagesError(
        "1 of 2 images cannot be read:\n  a\x1b[31m.png: empty", [BadImage(0, "a\x1b[31m.png", "empty")]
    )
    assert describe(ValueError("a\0b\x1b[31m\nc")) == r"a\x00b\x1b[31m c"
    assert describe(error).endswith("\n  a\\x1b[31m.png: empty")


def test_without_torch_the_way_out_is_an_exported_model() -> None:
    message = describe(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert message == (
        "needs torch, which is not installed; install it, or ccpml again with all that it needs; embed, index, "
        "search and serve need no torch with an ONNX file in place of the run"
    )


@pytest.mark.parametrize(
    "words",
    [
        "unable to resize file </torch_7_1_0> to the right size: File too large (27)",
        "unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)",
        "DataLoader worker (pid 5) is killed by signal: Bus error. Workers may be out of shared memory.",
    ],
)
def test_shared_memory_that_is_full_is_named(words: str) -> None:
    """It is small in containers; the words are torch's."""
    expected = "the memory that processes share is full (/dev/shm); allow more, or set --workers=0"
    assert describe(RuntimeError(words)) == expected


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("DataLoader worker (pid 5) is killed by signal: Killed. ", "a process that reads images was killed, as the"),
        ("DataLoader worker (pid(s) 5, 6) exited unexpectedly", "a process that reads images was killed, as the"),
        (
            "Too many open files. Communication with the workers is no longer possible",
            "too many open files; allow more",
        ),
        ("can't start new thread", "no thread can be started; free some memory, or allow more processes"),
    ],
)
def test_a_training_that_the_system_stops_is_named_with_the_way_to_resume(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(_: object, run: Path) -> None:
        run.mkdir()
        (run / "experiment.yaml").touch()
        raise RuntimeError(words)

    monkeypatch.setattr("ccpml.runs.train.train", train)
    path = tmp_path / "run"
    assert main(["train", "groceries", "--run", str(path)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"ccpml: error: {sentence}")
    assert error.endswith(f"; then resume with: ccpml train --resume {path}")


@pytest.mark.parametrize("arguments", [["train", "glyphs", "--seed", "9" * 5000], ["train", f"folder:{'a' * 9000}"]])
def test_words_that_are_longer_than_a_name_are_not_printed_whole(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    error = capsys.readouterr().err
    assert len(error) < 400
    assert "…" in error


def test_long_paths_are_printed_whole() -> None:
    path = "/".join(["a" * 255] * 15)
    assert describe(FileNotFoundError(2, "No such file", path)).startswith(f"{path}: ")


def test_an_image_that_is_lost_after_it_was_checked_is_to_be_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = toy_folder(tmp_path / "toy")
    lost = next(folder.rglob("2.png"))

    def unlinked(*arguments: Any) -> list[None]:
        lost.unlink()
        return [None] * len(arguments[0])

    monkeypatch.setattr("ccpml.data.upkeep.check.unreadable", unlinked)
    flags = [f"--{name}={value}" for name, value in QUICK.items()]
    assert main(["train", f"folder:{folder}", *flags, "--run", str(tmp_path / "run")]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert f"{lost}: cannot be opened (No such file or directory); restore or repair it" in line
    assert describe(BadImageError("too large; reduce it", "a.png")) == "a.png: too large; reduce it"

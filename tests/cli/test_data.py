import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ccpml.cli import main
from tests.data.layouts import make_cub, small_counts
from tests.toy import toy_folder


@pytest.fixture(autouse=True)
def small_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    small_counts(monkeypatch)


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_cub(tmp_path)
    assert main(["data", "check", "cub", "--data-root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"cub in {folder}: 20 training images of 4 classes, 20 test images of 4 classes" in out
    assert "images.txt  sha256 " in out
    assert "complete, as published" in out
    gone = next((folder / "images").rglob("*.jpg"))
    gone.unlink()
    assert main(["data", "check", "cub", "--data-root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 problem:" in out
    assert f"not found: {gone}" in out


def test_check_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = toy_folder(tmp_path / "toy", classes=4, per_class=2)
    assert main(["data", "check", f"folder:{folder}"]) == 0
    assert "8 images of 4 classes\ncomplete: every image can be read" in capsys.readouterr().out


def test_check_names_what_is_ignored_and_ten_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = toy_folder(tmp_path / "toy", classes=4, per_class=2)
    (folder / "group0" / "class00" / "film.mov").write_bytes(b"")
    assert main(["data", "check", f"folder:{folder}"]) == 0
    assert "ignored: 1 file with suffix .mov (" in capsys.readouterr().out
    for number in range(12):
        (folder / "group0" / "class00" / f"empty{number}.jpg").write_bytes(b"")
    assert main(["data", "check", f"folder:{folder}"]) == 1
    out = capsys.readouterr().out
    assert out.count("the file is empty") == 10
    listed_in = folder / ".ccpml-check" / "folder-problems.txt"
    assert f"12 problems:\n  cannot be read: {folder}" in out
    assert out.endswith(f"  and 2 more; all are listed in {listed_in}\n")
    assert listed_in.read_text(encoding="utf-8").count("the file is empty") == 12


def test_check_names_classes_that_look_alike_and_the_size_of_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = toy_folder(tmp_path / "toy", classes=4, per_class=2)
    (folder / "group0" / "class00").rename(folder / "group0" / "Class01")
    assert main(["data", "cache", f"folder:{folder}", "--side", "12"]) == 0
    capsys.readouterr()
    assert main(["data", "check", f"folder:{folder}"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  note: ")]
    assert notes == [
        "  note: classes whose names differ only in case, spaces or invisible characters: 'group0/Class01' and "
        "'group0/class01'",
        "  note: cached with a shorter side of 12; runs that need more read the files",
    ]


def test_check_of_the_groceries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "groceries"]) == 0
    expected = "groceries: 1,944 images of 81 classes\ncomplete: every image can be read\n"
    assert capsys.readouterr().out == expected
    assert main(["data", "cache", "groceries"]) == 2
    assert "there is nothing to cache" in capsys.readouterr().err


def test_cache_and_train_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_cub(tmp_path)
    root = ["--data-root", str(tmp_path)]
    assert main(["data", "cache", "cub", *root, "--side", "36"]) == 0
    assert str(folder / ".ccpml-cache" / "cub") in capsys.readouterr().out
    assert main(["data", "cache", "cub", *root, "--side", "36"]) == 0, "an existing cache is verified and kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["purge"], "command: expected check, fetch or cache, got 'purge'"),
        (["check"], "data: expected a value, got none; see ccpml data check --help"),
        (["check", "bub"], "unknown data 'bub'"),
        (["check", "cub"], "cub: folder not given; pass --data-root or set CCPML_DATA"),
        (["check", "cub", "--data-root", "nowhere"], "--data-root: folder nowhere not found"),
        (["cache", "folder:nowhere"], "folder:nowhere: folder not found"),
        (["cache", "cub", "--data-root", ".", "--side", "0"], "--side: expected at least 1, got 0"),
        (["fetch", "glyphs"], "data: expected one of cub, cars196, sop, inshop, got glyphs"),
        (["fetch", "cub"], "cub: folder not given; pass --data-root or set CCPML_DATA"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_how_to_get_a_benchmark_that_cannot_be_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "inshop", "--data-root", str(tmp_path)]) == 1
    assert "list_eval_partition.txt" in capsys.readouterr().err


def test_ctrl_c_ends_a_check_at_once_and_prints_how_to_resume(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy", classes=60, per_class=100)
    command = [sys.executable, "-m", "ccpml.cli", "data", "check", f"folder:{folder}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        while not (folder / ".ccpml-check").exists() and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=300)
    if process.returncode == 0:
        pytest.skip("all images were checked before the interrupt")
    assert process.returncode == 130
    assert f"resume with: ccpml data check folder:{folder}" in err
    assert "Traceback" not in err


def test_errors_of_the_data_have_hints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--data-root", str(tmp_path)]
    assert main(["data", "check", "cub", *root]) == 1
    assert "cub: not found in" in (error := capsys.readouterr().err)
    assert "pass --data-root" in error
    gone = next((make_cub(tmp_path) / "images").rglob("*.jpg"))
    content = gone.read_bytes()
    gone.unlink()
    assert main(["data", "cache", "cub", *root]) == 1
    assert "--allow-partial" in capsys.readouterr().err
    gone.write_bytes(b"no image")
    assert main(["train", "cub", *root, "--backbone", "small_conv", "--run", str(tmp_path / "run")]) == 1
    assert "--skip-bad-images" in capsys.readouterr().err
    gone.write_bytes(content)
    assert main(["data", "cache", "cub", *root]) == 0
    os.utime(gone)
    assert main(["train", "cub", *root, "--backbone", "small_conv", "--run", str(tmp_path / "run")]) == 1
    assert "`ccpml data cache` builds it again" in capsys.readouterr().err


def test_names_with_control_characters_are_escaped(tmp_path, capsys):
    folder = toy_folder(tmp_path / "toy", classes=2, per_class=2)
    strange = next(folder.glob("*/class01")).rename(folder / "new\nline \x1b[31m")
    (strange / "0.png").write_bytes(b"x")
    (strange / "1.heic").write_bytes(b"x")
    assert main(["data", "check", f"folder:{folder}"]) == 1
    printed = capsys.readouterr().out
    assert "new\\nline \\x1b[31m/0.png: not an image" in printed
    assert "\\x1b[31m/1.heic" in printed
    assert "\x1b" not in printed

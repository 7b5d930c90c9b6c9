"""Pipes, sockets and devices where a file or a folder is expected: said at once, by every reader."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from ccpml.artifacts import path_kind
from ccpml.cli import main
from ccpml.data.images.read import read_header, read_image
from ccpml.data.sources.csv_file import load_csv
from ccpml.data.sources.folder import load_folder
from ccpml.exported.onnx_file import read_description
from ccpml.files import check_readable, read_arrays
from ccpml.models.tensor_file import read_tensors
from ccpml.models.weights import load_weights
from ccpml.serving.collect import find_pictures
from ccpml.serving.items import Picture
from ccpml.serving.pictures import read_picture

NAMES = {"a named pipe": "pipe", "a socket": "socket", "a device": "device"}


@pytest.fixture(params=NAMES)
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A special file, as the target of a link with a usual name; and what it is."""
    kind, link = request.param, tmp_path / "data.csv"
    with socket.socket(socket.AF_UNIX) as listener:
        place = {"a named pipe": tmp_path / "pipe", "a socket": tmp_path / "s", "a device": Path(os.devnull)}[kind]
        if kind == "a named pipe":
            os.mkfifo(place)
        elif kind == "a socket":
            listener.bind(str(place))
        link.symlink_to(place)
        yield link, kind


@pytest.mark.parametrize(
    "read",
    [
        load_csv,
        load_folder,
        lambda path: find_pictures(f"csv:{path}"),
        lambda path: find_pictures(str(path)),
        lambda path: check_readable(path, "restore it"),
        lambda path: read_arrays(path, [], "restore it"),
        read_tensors,
        lambda path: read_image(path, 3),
        read_header,
        lambda path: read_picture(Picture(path)),
        lambda path: load_weights(nn.Linear(1, 1), path.rename(path.with_suffix(".pt"))),
    ],
)
def test_readers_say_what_is_there(special: tuple[Path, str], read: Callable[[Path], object]) -> None:
    path, kind = special
    with pytest.raises(ValueError, match=f"{path.stem}.*{kind}"):
        read(path)


def test_an_image_of_a_csv_file_is_a_file(special: tuple[Path, str]) -> None:
    path, kind = special
    table = path.with_name("table.csv")
    table.write_text(f"path,label\n{path.name},a\n")
    with pytest.raises(ValueError, match=rf"table\.csv, line 2: image .*data\.csv: expected a file, got {kind}"):
        load_csv(table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "csv:{path}"], "csv:{path}: expected a file, got {kind}"),
        (["data", "check", "folder:{path}"], "folder:{path}: expected a folder, got {kind}"),
        (
            ["train", "glyphs", "--weights", "{path}"],
            "weights: expected a file, imagenet or none, got '{path}'",
        ),
        (["embed", "{path}.onnx", "glyphs", "-o", "x.npz"], "{path}.onnx: expected a file, got {kind}; `ccpml export"),
        (["evaluate", "{path}"], "{path}: expected a run directory, got {kind}"),
        (
            ["index", "{path}", "photos", "-o", "x.index"],
            "{path}: expected a run directory or an .onnx",
        ),
        (["search", "{path}", "query.jpg"], "{path}: expected an index, got {kind}"),
    ],
)
def test_verbs_say_what_is_there(
    special: tuple[Path, str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kind = special
    path.with_name(f"{path.name}.onnx").symlink_to(path)
    assert main([argument.format(path=path) for argument in arguments]) == 2
    assert capsys.readouterr().err.startswith(f"ccpml: error: {message.format(path=path, kind=kind)}")


@pytest.mark.parametrize(
    ("verb", "option", "said"),
    [
        ("train", "--config", "lr: expected a finite number > 0, got -1.0"),
        ("benchmark", "--row-settings", "row settings: expected settings by the names of rows"),
        ("serve", "--token-file", "expected at least 16 characters, got 6"),
    ],
)
def test_texts_that_people_write_are_read_from_a_pipe_of_the_shell_but_not_without_end(
    verb: str,
    option: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = "x.index" if verb == "serve" else "glyphs"
    (tmp_path / "x.index").mkdir()
    (tmp_path / "x.index" / "index.sqlite").touch()
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with Path("large").open("wb") as large:
        large.truncate(10**12)
    for name, reason in {
        "pipe": "expected a file, got a named pipe",
        "/dev/zero": "expected a text of at most 4 MB, got more",
        "large": "expected a text of at most 4 MB, got more",
    }.items():
        assert main([verb, data, option, name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"ccpml: error: {option}")
        assert name in error
        assert reason in error
    reader, writer = os.pipe()
    os.write(writer, b"lr: -1\n")
    os.close(writer)
    assert main([verb, data, option, f"/dev/fd/{reader}"]) == 2
    os.close(reader)
    assert said in capsys.readouterr().err


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("broken", "loop"):
        assert path_kind(tmp_path / name) == "a broken link"
        with pytest.raises(ValueError, match=f"{name}: expected a folder, got a broken link"):
            load_folder(tmp_path / name)
    assert path_kind(tmp_path / "none") == path_kind(tmp_path / "loop.txt" / "x") == ""


@pytest.mark.parametrize(
    ("content", "name", "command"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1052136\n", "Git LFS", "git lfs pull"),
        ("/annex/objects/SHA256E-s1052136--4d7a.jpg\n", "git-annex", "git annex get"),
    ],
)
def test_a_pointer_to_another_file_is_told_from_damage(tmp_path, content, name, command):
    """As a clone without `git lfs pull` has it in place of weights and images."""
    file = tmp_path / "best.safetensors"
    file.write_text(content)
    advice = f"a pointer of {name}, not the (file|image); `{command}` fetches it"
    readers = (
        lambda path: check_readable(path, "restore it"),
        lambda path: read_arrays(path, ["a"], "restore it"),
        read_tensors,
        lambda path: read_image(path, 3),
        load_csv,
        read_description,
    )
    for read in readers:
        with pytest.raises(ValueError, match=f"{file}: {advice}"):
            read(file)

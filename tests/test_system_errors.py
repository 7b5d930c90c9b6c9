"""A shortage of the process is not taken for a damaged file, whose removal would lose work."""

import ast
import errno
import importlib
import io
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ccpml
from ccpml import interrupts
from ccpml.cli import main
from ccpml.cli.common.hints import describe
from ccpml.data.images.orientation import jpeg_orientation
from ccpml.data.images.read import BadImageError, read_image
from ccpml.exporting.graph import reason_of
from ccpml.files import check_readable, read_arrays, write_arrays
from ccpml.models.tensor_file import read_tensors, write_tensors
from ccpml.models.weights import load_weights
from ccpml.serving.collect import find_pictures
from ccpml.serving.pictures import read_picture
from ccpml.system_errors import is_shortage, raise_shortage

SOURCE = Path(ccpml.__file__).parent

SHORTAGES = {
    "memory": MemoryError("Unable to allocate 64.0 MiB"),
    "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 67108864 bytes"),
    "onednn": RuntimeError("could not create a primitive"),
    "threads": RuntimeError("can't start new thread"),
    "files": OSError(errno.EMFILE, "Too many open files"),
    "files of torch": RuntimeError("unable to open file <a> in read-only mode: Too many open files (24)"),
    "module": ModuleNotFoundError("No module named 'zipfile'"),
}

HARMLESS = {
    "benchmark/cell_process.py": "ends its process with the error",
    "cli/__init__.py": "makes a sentence of any error",
    "data/dataset.py": "raises the error itself again",
    "exporting/push.py": "names the reason, and what was written is kept",
    "models/pretrained.py": "names the reason, and there is no file yet",
    "models/timm_backbone.py": "names the reason, and there is no file yet",
    "runs/loggers/logger.py": "names the reason, and nothing is removed",
    "runs/processes.py": "raises the error itself again",
    "runs/rank.py": "ends its process with the error",
    "serving/qdrant/connection.py": "names the reason, and nothing is removed",
    "serving/service/app.py": "logs the error; nothing is removed",
    "tuning/study.py": "names the reason, and nothing is removed",
    "tuning/trials.py": "the next heartbeat tries again",
    "tuning/tune.py": "looks at the kind of the error itself",
}
"""Modules that may catch any error without looking for a shortage, and why."""


def test_what_catches_any_error_looks_for_a_shortage() -> None:
    found = set()
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name) and node.type.id == "Exception":
                called = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
                if not called & {"raise_shortage", "is_shortage", "reason_of"}:
                    found.add(file.relative_to(SOURCE).as_posix())
    assert found <= HARMLESS.keys()


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES)
def test_a_shortage_is_raised_as_it_is(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0")
    write_arrays(tmp_path / "a.npz", x=np.zeros(3))
    write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(3)}, {})
    torch.save({"x": torch.zeros(3)}, tmp_path / "a.pth")
    jpeg = (tmp_path / "a.jpg").read_bytes()
    readers: dict[str, Callable[[], object]] = {
        "numpy.load": lambda: read_arrays(tmp_path / "a.npz", ["x"], "remove it"),
        "ccpml.models.tensor_file.safe_open": lambda: read_tensors(tmp_path / "a.safetensors"),
        "torch.load": lambda: load_weights(torch.nn.Linear(1, 1), tmp_path / "a.pth"),
        "ccpml.data.images.read.open_image": lambda: read_image(tmp_path / "a.png", 3),
        "PIL.Image.Image.getexif": lambda: jpeg_orientation(jpeg),
    }
    if isinstance(error, OSError):
        readers["pathlib.Path.open"] = lambda: check_readable(tmp_path / "a.npz", "remove it")
        (picture,) = find_pictures(str(tmp_path / "a.png"))
        readers["ccpml.artifacts._open_at_once"] = lambda: read_picture(picture)
    for name, read in readers.items():
        monkeypatch.setattr(name, fail)
        with pytest.raises(type(error)) as raised:
            read()
        monkeypatch.undo()
        assert raised.value is error, name


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES)
def test_a_shortage_below_an_error_of_torch_is_found(error: Exception) -> None:
    outer = RuntimeError("export failed")
    outer.__cause__ = error
    with pytest.raises(type(error)):
        reason_of(outer)


def test_other_errors_are_no_shortage() -> None:
    for error in (
        ValueError("wrong checksum"),
        OSError("cannot identify"),
        OSError(errno.EIO, "broken"),
        KeyError("x"),
    ):
        assert not is_shortage(error)
        raise_shortage(error)


def test_a_damaged_header_that_asks_for_all_memory_is_damage(tmp_path: Path) -> None:
    file, content = tmp_path / "a.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", content.getvalue())
    intact = file.read_bytes()
    with pytest.raises(MemoryError):  # whoever wrote it meant it
        read_arrays(file, ["x"], "remove it")
    file.write_bytes(intact.replace(b"<f8", b"<f4", 1))
    with pytest.raises(ValueError, match=r"a\.npz: damaged.*; remove it"):
        read_arrays(file, ["x"], "remove it")


def test_a_file_without_permission_is_not_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"last\.ckpt: cannot be read \(Permission denied\); change its permissions$"):
        check_readable(tmp_path / "last.ckpt", "remove it, and start again")


def test_no_reader_has_a_way_out_of_its_own_where_a_permission_is_missing() -> None:
    """`unreadable` has it: to change the permission, and not to remove a file that is whole."""
    own = re.compile(r"cannot be (read|opened) \(\{error[^}]*\}\); (?!change its permissions)")
    files = [file for file in Path(ccpml.__file__).parent.rglob("*.py") if file.name != "system_errors.py"]
    assert [file.name for file in files if own.search(file.read_text(encoding="utf-8"))] == []


def test_an_image_that_is_damaged_is_still_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(BadImageError, match=r"a\.png"):
        read_image(tmp_path / "a.png", 3)


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that fails as code in C does when Ctrl-C comes while it calls Python."""
    monkeypatch.setattr(interrupts, "_interrupts", [])

    def fail(*_: Any, **__: Any) -> Any:
        with pytest.raises(KeyboardInterrupt):
            interrupts.raise_interrupted(signal.SIGINT, None)
        raise ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'")

    return fail


def test_what_follows_from_ctrl_c_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[..., Any]
) -> None:
    file = tmp_path / "weights.safetensors"
    write_tensors(file, {"x": torch.ones(2)}, {})
    monkeypatch.setattr("ccpml.models.tensor_file.safe_open", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        read_tensors(file)


def test_an_error_that_follows_from_ctrl_c_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.import_module("ccpml.cli.data"), "run", ctrl_c)
    assert main(["data"]) == 130
    assert capsys.readouterr().err == "ccpml: interrupted\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("could not create a primitive", "out of memory"),
        ("could not execute a primitive", "out of memory"),
        ("could not create a memory object", "out of memory"),
        ("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)", "out of memory"),
        ("std::bad_alloc", "out of memory"),
        ("libfaiss.so: failed to map segment from shared object", "out of memory"),
        (
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 2500 bytes. Error code 12",
            "out of memory: an array of 2.5 kB does not fit",
        ),
        ("CUDA out of memory. Tried to allocate 1.5 GiB. GPU 0", "out of memory: an array of 1.5 GiB does not fit"),
        (
            "Failed to allocate memory for requested buffer of size 4194304",
            "out of memory: an array of 4.2 MB does",
        ),
    ],
)
def test_words_of_allocators_are_one_sentence(text: str, sentence: str) -> None:
    message = describe((ImportError if "segment" in text else RuntimeError)(text))
    assert message.startswith(sentence)
    assert message.endswith(
        "; free some memory, or choose a smaller image_size, batch, embedding_dim or number of proxies"
    )


def test_other_words_of_onednn_stay() -> None:
    text = "could not create a primitive descriptor for a convolution forward propagation primitive"
    assert describe(RuntimeError(text)) == text
    assert describe(RuntimeError("can't start new thread")).startswith("no thread can be started; ")

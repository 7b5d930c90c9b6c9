"""Targets: names, and what is checked before any work."""

from pathlib import Path

import pytest

from ccpml import extras
from ccpml.exporting.targets import (
    FORMATS,
    Format,
    TargetExistsError,
    card_of,
    check_target,
    default_target,
)
from ccpml.extras import MissingExtraError


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_free_target_with_its_ending_is_accepted(file_format: Format, tmp_path: Path) -> None:
    target = default_target(tmp_path, file_format)
    check_target(target, file_format)
    assert target == tmp_path / "export" / f"{tmp_path.name}{FORMATS[file_format]}"
    assert card_of(target, file_format).suffix == ".md"


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "nowhere")
    (tmp_path / "card.onnx.md").touch()
    for name in ("folder", "link", "card"):
        with pytest.raises(TargetExistsError, match=f"{name}.onnx.*: already exists"):
            check_target(tmp_path / f"{name}.onnx", "onnx")


def test_wrong_endings_formats_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"target: expected a file that ends in .onnx, got mugs.pt2"):
        check_target(Path("mugs.pt2"), "onnx")
    with pytest.raises(ValueError, match=r"format: expected one of onnx, pt2, safetensors, hub, got 'tflite'"):
        check_target(Path("mugs"), "tflite")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"format: expected one of onnx, pt2, safetensors, hub, got 'tflite'"):
        default_target(Path("mugs"), "tflite")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"file is not a writable folder"):
        check_target(tmp_path / "file" / "mugs.pt2", "pt2")


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs onnx, onnxscript, onnxruntime, not installed; pip "):
        check_target(tmp_path / "mugs.onnx", "onnx")
    check_target(tmp_path / "mugs.pt2", "pt2")

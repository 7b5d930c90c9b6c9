"""Formats, where they are written, and what they need. Imports no torch."""

from pathlib import Path
from typing import Final, Literal

from ccpml.extras import require_extra
from ccpml.system_errors import is_writable

__all__ = ["FORMATS", "Format", "TargetExistsError", "card_of", "check_target", "default_target"]

Format = Literal["onnx", "pt2", "safetensors", "hub"]

FORMATS: Final[dict[str, str]] = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors", "hub": ""}
"""Formats, and how their files end; the format ``hub`` is a folder."""

_ONNX_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")


class TargetExistsError(FileExistsError):
    """Something exists where an export would be written."""


def default_target(run: Path, file_format: Format) -> Path:
    """Return where a run is exported to: ``<run>/export/<name of the run>``, with the ending of the format.

    Example:
        >>> default_target(Path("/runs/photos"), "onnx").as_posix()
        '/runs/photos/export/photos.onnx'
    """
    return run / "export" / f"{run.resolve().name}{_ending(file_format)}"


def card_of(target: Path, file_format: Format) -> Path:
    """Return the file of the model card: beside a file, with ``.md`` appended, or ``README.md`` in the folder."""
    return target / "README.md" if file_format == "hub" else target.with_name(f"{target.name}.md")


def check_target(target: Path, file_format: Format) -> None:
    """Check that a format can be written to a place, before any work.

    Raises:
        TargetExistsError: If something exists there, or where its model card would be.
        MissingExtraError: If packages of the format are not installed.
        ValueError: If the format is unknown, the name does not end as its files do, or the folder is not writable.
    """
    ending = _ending(file_format)
    if ending and target.suffix != ending:
        raise ValueError(f"target: expected a file that ends in {ending}, got {target}")
    for place in (target, card_of(target, file_format)):
        if place.exists() or place.is_symlink():
            raise TargetExistsError(f"{place}: already exists")
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not is_writable(folder):
        raise ValueError(f"target: {folder} is not a writable folder")
    if file_format == "onnx":
        require_extra("format onnx", _ONNX_PACKAGES, "export")


def _ending(file_format: Format) -> str:
    if not isinstance(file_format, str) or file_format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {file_format!r}")
    return FORMATS[file_format]

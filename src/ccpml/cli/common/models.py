"""Models of verbs that embed images: a run directory, or a run that was exported to an ONNX file."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ccpml.artifacts import mismatch, not_found
from ccpml.cli.common.options import UsageError

if TYPE_CHECKING:
    from ccpml.serving import Embedder, PictureIndex

__all__ = ["MODEL_HELP", "check_model", "find_model", "is_exported", "is_model", "load_model", "load_model_of"]

MODEL_HELP: Final = "run directory, or an .onnx file of `ccpml export`, which needs no torch"


def is_exported(path: Path) -> bool:
    """Whether a path is named as an ONNX file; the same as `ccpml.exported.is_onnx`, which imports more."""
    return path.suffix.lower() == ".onnx"


def is_model(name: str) -> bool:
    """Whether a word of the command line names a model that is there."""
    path = Path(name)
    return (path / "experiment.yaml").is_file() or (is_exported(path) and path.is_file())


def check_model(path: Path) -> Path:
    """Check that a path is a run directory, or an ONNX file that can be loaded here, and return it."""
    if not is_exported(path) or path.is_dir():
        if not (path / "experiment.yaml").is_file():
            raise UsageError(mismatch(path, "a run directory or an .onnx file", "experiment.yaml"))
        return path
    if not path.is_file():
        raise UsageError(f"{path}: {not_found(path)}; `ccpml export <run> --format onnx` writes one")
    if find_spec("onnxruntime") is None:
        raise UsageError(f"{path}: needs onnxruntime, which is not installed; pip install onnxruntime")
    return path


def find_model(index: "PictureIndex", given: Path | None) -> Path:
    """Return the model of an index: one that is given, or else the one that it was made with."""
    if given is None and not index.model_path.exists():
        raise UsageError(
            f"{index}: the model that it was made with, {index.model_path}, is not found; pass --run if it has moved"
        )
    return check_model(given or index.model_path)


def load_model(path: Path) -> "Embedder":
    """Load the model of a path that `check_model` has returned, on the device where it computes."""
    if is_exported(path):
        from ccpml.exported import ExportedModel

        return ExportedModel(path)
    from ccpml.runs.inference import load_embedder

    return load_embedder(path)


def load_model_of(index: str | Path | None, path: Path) -> "Embedder":
    """Load the model of an index in a directory: that of a path, or the ensemble that begins with it."""
    from ccpml.serving.ensemble import EnsembleEmbedder, MemberNotFoundError, find_members

    try:
        members = [path] if index is None else find_members(Path(index), path)
    except MemberNotFoundError as error:
        raise UsageError(str(error)) from error
    if any(member.resolve() == path.resolve() for member in members[1:]):
        expected = f"the first model of {index}, or none if it is where it was"
        raise UsageError(f"--run: expected {expected}, got {path}, another model of it; ensemble.json has its place")
    models = [load_model(check_model(member)) for member in members]
    return EnsembleEmbedder(models) if len(models) > 1 else models[0]

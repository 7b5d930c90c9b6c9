"""Published ImageNet weights: the files in torch's hub cache, downloaded into it where they are missing."""

import hashlib
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import torch.hub

from ccpml.backbones import find_backbone

__all__ = ["imagenet_weights"]

_PATIENCE = 30.0  # seconds without an answer


def imagenet_weights(backbone: str, url: str | None = None) -> Path:
    """Find the published ImageNet weights of a backbone, or download them.

    They lie in torch's hub cache, ``$TORCH_HOME/hub/checkpoints`` or else ``~/.cache/torch/hub/checkpoints``, where
    other programs share them. A file counts only if its SHA-256 begins as its name ends; a damaged one is replaced. A
    download shows itself on standard error, and becomes the file when it is whole and right.

    Args:
        backbone: ``bn_inception`` or ``resnet50``.
        url: Address of the file, ``.../<name>-<beginning of its SHA-256>.pth``, instead of the published one.

    Returns:
        The file, for [`load_weights`][ccpml.models.load_weights].

    Raises:
        ValueError: If there are none, or they are not there and cannot be downloaded.

    Example:
        ```python
        load_weights(BNInception(), imagenet_weights("bn_inception"))
        ```
    """
    address = url or find_backbone(backbone).imagenet
    if not address.startswith("http"):
        raise ValueError(f"weights: there are no ImageNet weights of {backbone}; give a file, or none")
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    begins = path.stem.rpartition("-")[2]
    problem = ""
    try:
        if path.exists():
            if _sha256(path).startswith(begins):
                return path
            problem = f"{path} is damaged (its SHA-256 does not begin with {begins}), and "
        _download(address, path, begins)
    except (OSError, HTTPException, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise ValueError(
            f"weights: {problem}{address} cannot be downloaded to {path} ({reason}): fetch it where there is a "
            "network and put it there, or name your copy as the weights"
        ) from error
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, begins: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url} to {path}", file=sys.stderr)
    with _patience():
        torch.hub.download_url_to_file(url, str(path), begins, progress=sys.stderr.isatty())


@contextmanager
def _patience() -> Iterator[None]:
    """Let a silent server fail: torch's download itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

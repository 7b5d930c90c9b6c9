"""Published ImageNet weights: from an installed package, or downloaded into torch's hub cache."""

import sys
from pathlib import Path

import torch.hub
from filelock import FileLock

from ccpml.backbones import find_backbone
from ccpml.download import download, file_digest
from ccpml.models.packaged import packaged_weights

__all__ = ["imagenet_weights"]


def imagenet_weights(backbone: str, url: str | None = None) -> Path:
    """Return the file of the published ImageNet weights of a backbone, after downloading it if necessary.

    Those of ``efficientnet_lite0`` are a file of an installed package, used only if its SHA-256 is the one known here;
    nothing of the package is imported. Any other file is in torch's hub cache, ``$TORCH_HOME/hub/checkpoints`` or else
    ``~/.cache/torch/hub/checkpoints``, which other programs share. It is used only if its SHA-256 begins with the
    digits at the end of its name; a damaged file is replaced. An interrupted download resumes.
    [`load_weights`][ccpml.models.load_weights] loads the file.

    Args:
        backbone: ``efficientnet_lite0``, ``bn_inception`` or ``resnet50``.
        url: Address ``.../<name>-<first digits of the SHA-256>.pth`` to use instead of the published one.

    Raises:
        ValueError: If no weights are published for the backbone, or they cannot be downloaded, or
            the package is not installed or damaged.

    Example:
        ```python
        load_weights(EfficientNetLite0(), imagenet_weights("efficientnet_lite0"))
        ```
    """
    address = url or find_backbone(backbone).imagenet
    if address.startswith("package:"):
        return packaged_weights(address)
    if not address.startswith("http"):
        raise ValueError(f"weights: no ImageNet weights are published for {backbone}; pass a file, or none")
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    begins = path.stem.rpartition("-")[2]
    problem = ""
    try:
        if path.exists():
            if file_digest(path).startswith(begins):
                return path
            problem = f"{path} is damaged (its SHA-256 does not begin with {begins}), and "
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # other ranks and trials start at the same time
            if not (path.is_file() and file_digest(path).startswith(begins)):
                print(f"downloading {address} to {path}", file=sys.stderr)
                part = path.with_name(f"{path.name}.part")
                download(address, part)
                if not (digest := file_digest(part)).startswith(begins):
                    part.unlink()
                    raise ValueError(f"SHA-256: expected {begins}…, got {digest}")
                part.replace(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"weights: {problem}{address} cannot be downloaded to {path} ({error}); download it on a machine with "
            "a network connection and put it there, pass your copy as the weights, or choose efficientnet_lite0, whose "
            "weights are installed with ccpml"
        ) from error
    return path

"""Upload an exported folder to the Hugging Face hub."""

import re
from pathlib import Path
from typing import Final

from ccpml.extras import require_extra

__all__ = ["PushError", "check_repository", "push"]


class PushError(OSError):
    """A folder could not be uploaded; it is still on the disk."""


_LONGEST: Final = 96
_PART: Final = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"


def check_repository(name: str) -> None:
    """Check that a name is ``user/name``, and that the client of the hub is installed.

    Raises:
        MissingExtraError: If it is not.
        ValueError: If the name is not that of a repository.
    """
    require_extra("push", ["huggingface_hub"], "hub")
    if not re.fullmatch(f"{_PART}/{_PART}", name, re.ASCII) or "--" in name or ".." in name or len(name) > _LONGEST:
        raise ValueError(f"expected user/name, of letters, digits, and single - and . within, got {name}")


def push(folder: Path, name: str) -> str:
    """Upload a folder as a model, and return its address; a new repository is private.

    Raises:
        PushError: If it cannot be uploaded.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        found = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Exported by ccpml")
    except Exception as error:  # the hub's client and its libraries raise many kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PushError(
            f"{name}: not uploaded ({reason}); the model is in {folder}, and `hf upload {name} {folder}` uploads it"
        ) from error
    return str(found)

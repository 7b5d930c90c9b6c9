"""The service: an index behind HTTP, with bounds on what a client can ask for. Needs the extra ``serve``."""

from typing import TYPE_CHECKING

from ccpml.extras import MissingExtraError, require_extra
from ccpml.serving.embedder import Embedder
from ccpml.serving.interface import PictureIndex
from ccpml.serving.service.settings import ServiceSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["MissingExtraError", "ServiceSettings", "create_app"]


def create_app(index: PictureIndex, embedder: Embedder, settings: ServiceSettings | None = None) -> "FastAPI":
    """Return the service as an ASGI application; ``GET /`` is its page, ``GET /openapi.json`` describes its routes.

    Args:
        index: The index, opened with its model.
        embedder: The model.
        settings: Bounds and permissions; the defaults read only, and answer requests to loopback addresses alone.

    Raises:
        MissingExtraError: If fastapi or python-multipart is not installed.
        OtherModelError: If the model is not that of the index.
        ValueError: If an argument is of another type, or pictures can be added to an index opened without its model.

    Example:
        ```python
        run = load_run("runs/photos")
        app = create_app(Index.open("shop.index", run), run)
        ```
    """
    require_extra("the service", ["fastapi", "uvicorn", "python_multipart"], "serve")
    from ccpml.serving.service.app import build_app

    if not hasattr(index, "check_model"):
        raise ValueError(f"index: expected an index, as Index.open returns, got {index!r}")
    if not isinstance(settings, ServiceSettings | None):
        raise ValueError(f"settings: expected ServiceSettings, got {settings!r}")
    index.check_model(embedder)
    index.check()
    settings = settings or ServiceSettings()
    if settings.writable:
        index.embed([])  # which needs the model that it was opened with
    return build_app(index, embedder, settings)

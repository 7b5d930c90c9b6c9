"""The application: routes, page, and how errors are answered."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from ccpml.files import WriteError
from ccpml.serving.embedder import Embedder
from ccpml.serving.errors import NotAnIndexError, QdrantError
from ccpml.serving.interface import PictureIndex
from ccpml.serving.service.drift import reference_distances
from ccpml.serving.service.explain import explain_router
from ccpml.serving.service.forms import sentence_of
from ccpml.serving.service.guard import Guard
from ccpml.serving.service.page import read_page
from ccpml.serving.service.pool import WorkPool
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.routes import router
from ccpml.serving.service.service import Service
from ccpml.serving.service.settings import ServiceSettings
from ccpml.system_errors import is_shortage, message_of, shortage_in_words

__all__ = ["build_app"]

_LOG: Final = logging.getLogger("uvicorn.error")


def build_app(index: PictureIndex, embedder: Embedder, settings: ServiceSettings) -> FastAPI:
    """Return the application; see `ccpml.serving.service.create_app`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool.start()
        reader = threading.Thread(target=_learn_distances, args=(app.state.service,), daemon=True)
        reader.start()
        yield
        app.state.pool.close()
        reader.join()

    app = FastAPI(
        title="ccpml", summary="Search pictures by pictures.", docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.service = Service(index, embedder, settings)
    app.state.pool = WorkPool(settings.workers, settings.queue)
    app.include_router(router)
    app.include_router(explain_router())
    app.add_middleware(Guard, settings=settings, metrics=app.state.service.metrics)
    _add_page(app)
    _add_handlers(app)
    description = _describe(app, settings)
    app.openapi = lambda: description  # type: ignore[method-assign]  # FastAPI's own way to change it
    return app


def _learn_distances(service: Service) -> None:
    """Measure distances within the index, to compare those of queries with; without them, no drift is reported."""
    try:
        service.drift.set_reference(reference_distances(service.index))
    except Exception as error:  # a damaged index shows in its answers
        _LOG.error("distances within the index: %s", error)


def _add_page(app: FastAPI) -> None:
    """Add the page, which is read once."""
    content, policy = read_page()
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}

    @app.get("/", response_class=Response, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)


def _add_handlers(app: FastAPI) -> None:
    """Answer every error with one sentence. The handlers are coroutines, as there may be no thread for them."""

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": sentence_of(error.errors())}, 422)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one route of the path alone
            matching = [route for route in router.routes if route.matches(request.scope)[0] is not Match.NONE]
            methods = {method for route in matching for method in getattr(route, "methods", None) or ()}
            headers["Allow"] = ", ".join(sorted(methods)) or headers.get("Allow", "GET")
        return JSONResponse({"detail": str(error.detail).lower()}, error.status_code, headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return JSONResponse({"detail": "the client has gone"}, 499)

    @app.exception_handler(WriteError)
    async def not_written(request: Request, error: WriteError) -> JSONResponse:
        _LOG.error("%s", error)
        return JSONResponse({"detail": "the disk of the service is full, or cannot be written to"}, 507)

    @app.exception_handler(QdrantError)
    async def no_store(request: Request, error: QdrantError) -> JSONResponse:
        _LOG.error("%s", error)
        return JSONResponse({"detail": "the store of the index does not answer; try again later"}, 503)

    @app.exception_handler(NotAnIndexError)
    async def not_read(request: Request, error: NotAnIndexError) -> JSONResponse:
        _LOG.error("%s", error)
        return JSONResponse({"detail": "the index cannot be read"}, 503)

    @app.exception_handler(MemoryError)
    @app.exception_handler(OSError)
    @app.exception_handler(RuntimeError)
    async def short(request: Request, error: Exception) -> JSONResponse:
        if not is_shortage(error):
            raise error
        _LOG.error("%s", shortage_in_words(error) or message_of(error))
        detail = "the service lacks memory, threads or open files; try again later"
        return JSONResponse({"detail": detail}, 503, {"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the service failed; its log says why"}, 500)


def _describe(app: FastAPI, settings: ServiceSettings) -> dict[str, Any]:
    """Return the OpenAPI description: that of the routes, with the bounds and the token of the service."""
    found: dict[str, Any] = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    for operation in (operation for methods in found["paths"].values() for operation in methods.values()):
        for body in operation.get("requestBody", {}).get("content", {}).values():
            fields = body["schema"].get("properties", {})
            if "k" in fields:
                fields["k"]["maximum"] = settings.max_k
                fields["k"]["default"] = min(fields["k"]["default"], settings.max_k)
            if "maxItems" in fields.get("picture", {}):
                fields["picture"]["maxItems"] = min(fields["picture"]["maxItems"], settings.max_pictures)
    if settings.token is not None:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in found["paths"].items():
            if path != "/health":
                for operation in methods.values():
                    operation["security"] = [{"token": []}]
    return found

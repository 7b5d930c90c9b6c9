"""The routes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.params import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from ccpml.serving.service.forms import read_form
from ccpml.serving.service.pool import WorkPool
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.schemas import Id, Info, Problem, Result, SearchFields, StoredItem
from ccpml.serving.service.service import Answer, Question, Service, model_name, read_metadata

__all__ = ["router"]

router = APIRouter()

_REFUSED: Final = {
    401: "the token is missing or wrong",
    403: "not allowed here",
    404: "not found",
    409: "already there",
    413: "too many bytes, pixels, pictures or fields",
    415: "the body is of another type",
    422: "the request is wrong",
    429: "too many requests",
    503: "busy",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of the responses to refused requests."""
    return {status: {"model": Problem, "description": _REFUSED[status]} for status in statuses}


def form_of(model: type[BaseModel], pictures: str, json_too: bool = False) -> dict[str, Any]:
    """Return the description of a request body with fields and pictures."""
    schema = model.model_json_schema()
    fields = schema["properties"]
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": pictures}
    form = {"type": "object", "properties": {"picture": files, **fields}, "additionalProperties": False}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if json_too:
        content["application/json"] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}


class AddFields(BaseModel):
    """A picture to add."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field("", max_length=200, description="name of its class", examples=["mug"])
    metadata: str = Field("", max_length=10_000, description="a JSON object", examples=['{"price": 12.5}'])


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _work(request: Request, work: Callable[[], Any]) -> Any:
    pool: WorkPool = request.app.state.pool
    return await pool.run(work)


@router.get("/api/info", responses=refusals(401, 429), tags=["search"])
def info(request: Request) -> Info:
    """Describe what is searched, and what is allowed."""
    service = _service(request)
    settings, summary = service.settings, service.summary()
    return Info(
        items=summary.items,
        labels=summary.labels,
        fields=["label", "width", "height", *summary.columns],
        examples=summary.examples,
        embedding_dim=service.index.embedding_dim,
        model=model_name(service.embedder.path),
        max_k=settings.max_k,
        max_bytes=settings.max_bytes,
        max_pictures=settings.max_pictures,
        certificate=None,
        writable=settings.writable,
        needs_token=settings.token is not None,
        feedback=settings.feedback,
        explain=False,
    )


@router.post(
    "/api/search",
    responses=refusals(401, 403, 404, 413, 415, 422, 429, 503),
    openapi_extra=form_of(SearchFields, "one thing, in one or more pictures", json_too=True),
    tags=["search"],
)
async def search(request: Request) -> Result:
    """Find pictures that show the same, by one or more pictures of one thing, or by an item of the index."""
    start = time.perf_counter()
    service = _service(request)
    fields, pictures = await read_form(request, SearchFields, service.settings)
    if (fields.id is None) == (not pictures):
        raise RefusedError(422, "query: expected either pictures or an id")
    if fields.k > service.settings.max_k:
        raise RefusedError(422, f"k: expected at most {service.settings.max_k}, got {fields.k}")
    if fields.precision is not None:
        raise RefusedError(422, "precision: the run has no certificate; `ccpml calibrate` writes one")
    question = Question(pictures, fields.id, fields.k, fields.where, fields.max_distance, fields.hide_duplicates)
    answer = await _work(request, partial(service.search, question))
    return _result(answer, fields.id, time.perf_counter() - start)


def _result(answer: Answer, key: int | None, seconds: float) -> Result:
    hits = [
        {
            **StoredItem.fields_of(hit.item),
            "rank": rank,
            "distance": hit.distance,
            "precision": None,
            "duplicate": twin,
        }
        for rank, (hit, twin) in enumerate(answer.hits, 1)
    ]
    query = {"id": key, "hash": answer.digest, "width": answer.width, "height": answer.height}
    return Result.model_validate(
        {"query": query, "hits": hits, "seconds": seconds, "answered": answer.answered, "note": answer.note}
    )


@router.get("/api/items/{id}", responses=refusals(401, 404, 422, 429), tags=["items"])
def item(request: Request, id: Annotated[Id, PathParameter()]) -> StoredItem:  # noqa: A002  # the name in the path
    """Describe an item."""
    return StoredItem.model_validate(StoredItem.fields_of(_service(request).item(id)))


@router.get(
    "/api/items/{id}/thumbnail",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}},
        304: {"description": "not changed"},
        **refusals(401, 404, 422, 429),
    },
    tags=["items"],
)
def thumbnail(request: Request, id: Annotated[Id, PathParameter()]) -> Response:  # noqa: A002  # the name in the path
    """Return a small picture of an item, a JPEG of at most 256 pixels."""
    content = _service(request).thumbnail(id)
    headers = {"Cache-Control": "private, max-age=86400", "ETag": f'"{id}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/jpeg", headers=headers)


@router.post(
    "/api/items",
    status_code=201,
    responses=refusals(401, 403, 409, 413, 415, 422, 429, 503),
    openapi_extra=form_of(AddFields, "the picture"),
    tags=["items"],
)
async def add(request: Request) -> StoredItem:
    """Add a picture, which is kept in the directory of the index under the SHA-256 of its content."""
    service = _service(request)
    _check_writable(service)
    fields, pictures = await read_form(request, AddFields, service.settings)
    if len(pictures) != 1:
        raise RefusedError(422, f"picture: expected one file, got {len(pictures)}")
    metadata = read_metadata(fields.metadata)
    added = await _work(request, partial(service.add, pictures[0], fields.label, metadata))
    return StoredItem.model_validate(StoredItem.fields_of(added))


@router.delete("/api/items/{id}", status_code=204, responses=refusals(401, 403, 404, 422, 429, 503), tags=["items"])
async def remove(request: Request, id: Annotated[Id, PathParameter()]) -> None:  # noqa: A002  # the name in the path
    """Remove an item."""
    service = _service(request)
    _check_writable(service)
    await _work(request, partial(service.remove, id))


def _check_writable(service: Service) -> None:
    if not service.settings.writable:
        raise RefusedError(403, "the index is read-only here; start the service with --writable")

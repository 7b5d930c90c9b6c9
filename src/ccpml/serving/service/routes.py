"""The routes."""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.params import Path as PathParameter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from ccpml.serving.errors import QdrantError
from ccpml.serving.filters.tree import name_of_key
from ccpml.serving.items import UNKEPT
from ccpml.serving.service.forms import read_form
from ccpml.serving.service.metrics import gauge
from ccpml.serving.service.pool import WorkPool
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.schemas import (
    AddFields,
    Certified,
    Drifted,
    Feedback,
    Health,
    Id,
    Info,
    Level,
    Problem,
    Recorded,
    Result,
    SearchFields,
    StoredItem,
)
from ccpml.serving.service.service import Answer, Question, Service
from ccpml.serving.service.settings import MAX_PICTURES

__all__ = ["refusals", "router", "service_of"]

T = TypeVar("T")

router = APIRouter()

_REFUSED: Final = {
    401: "the token is missing or wrong",
    403: "not allowed here",
    409: "the header X-Index names another index",
    404: "not found",
    408: "the body took too long",
    413: "too many bytes or pixels",
    415: "the body is of another type",
    421: "the header Host names another service",
    422: "the request is wrong",
    429: "too many requests",
    503: "busy; the header Retry-After says when to try again",
    507: "the disk is full, or a bound of what is stored is reached",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of the responses to refused requests."""
    return {status: {"model": Problem, "description": _REFUSED[status]} for status in statuses}


def form_of(model: type[BaseModel], pictures: str, most: int) -> dict[str, Any]:
    """Return the description of a request body with up to ``most`` pictures and fields; an id stands for pictures."""
    schema = model.model_json_schema()
    fields = schema["properties"]
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": file, "minItems": 1, "maxItems": most, "description": pictures}
    form = {"type": "object", "properties": {"picture": files, **fields}, "additionalProperties": False}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if "id" in fields:
        form["oneOf"] = [{"required": ["picture"]}, {"required": ["id"]}]
        content["application/json"] = {"schema": {**schema, "required": ["id"]}}
    else:
        form["required"] = ["picture"]
    return {"requestBody": {"required": True, "content": content}}


def json_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the description of a request body in JSON."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def service_of(request: Request) -> Service:
    """Return the service; a request made for another index, whose ids are other pictures here, is refused."""
    service = _service(request)
    if request.headers.get("x-index", service.index.build) != service.index.build:
        raise RefusedError(409, "the service has another index now; search again")
    return service


async def _work(request: Request, work: Callable[[], T]) -> T:
    """Do work in the pool; drop it if the client goes before it has begun."""
    pool: WorkPool = request.app.state.pool
    task = asyncio.ensure_future(pool.run(work))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RefusedError(499, "the client has gone")
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.get("/api/info", responses=refusals(401, 429), tags=["search"])
def info(request: Request) -> Info:
    """Describe what is searched, and what is allowed."""
    service = _service(request)
    settings, summary = service.settings, service.summary()
    return Info(
        index=service.index.build,
        items=summary.items,
        labels=summary.labels,
        fields=["label", "width", "height", *map(name_of_key, summary.columns)],
        examples=summary.examples,
        embedding_dim=service.index.embedding_dim,
        model=" + ".join(run.path.name for run in getattr(service.embedder, "runs", [service.embedder])),
        max_k=settings.max_k,
        max_bytes=settings.max_bytes,
        max_pictures=settings.max_pictures,
        certificate=_certified(service),
        writable=settings.writable,
        needs_token=settings.token is not None,
        feedback=settings.feedback,
        explain=True,
    )


@router.post(
    "/api/search",
    responses=refusals(401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
    openapi_extra=form_of(SearchFields, "one thing, in one or more pictures", most=MAX_PICTURES),
    tags=["search"],
)
async def search(request: Request) -> Result:
    """Find pictures that show the same, by one or more pictures of one thing, or by an item of the index."""
    start = time.perf_counter()
    service = service_of(request)
    fields, pictures = await read_form(request, SearchFields, service.settings)
    if (fields.id is None) == (not pictures):
        raise RefusedError(422, "query: expected either pictures or an id")
    most = service.settings.max_k
    if fields.k > most and "k" in fields.model_fields_set:
        raise RefusedError(422, f"k: expected 1 to {most}, got {fields.k}")
    question = Question(pictures, **{**fields.model_dump(), "k": min(fields.k, most)})
    answer = await _work(request, partial(service.search, question))
    return _result(answer, fields.id, time.perf_counter() - start)


def _result(answer: Answer, key: int | None, seconds: float) -> Result:
    hits = [
        {
            **StoredItem.fields_of(hit.item),
            "rank": rank,
            "distance": hit.distance,
            "precision": precision,
            "duplicate": twin,
        }
        for rank, (hit, precision, twin) in enumerate(answer.hits, 1)
    ]
    query = {"id": key, "hash": answer.digest, "width": answer.width, "height": answer.height}
    return Result.model_validate(
        {"query": query, "hits": hits, "seconds": seconds, "answered": answer.answered, "note": answer.note}
    )


def _certified(service: Service) -> Certified | None:
    found = service.certificate
    if found is None:
        return None
    levels = [Level(precision=precision, distance=found.distances[precision]) for precision in found.precisions]
    return Certified(confidence=found.confidence, answers=found.answers, precisions=levels)


@router.get("/api/items/{id}", responses=refusals(401, 404, 409, 422, 429), tags=["items"])
def item(request: Request, id: Annotated[Id, PathParameter()]) -> StoredItem:  # noqa: A002  # the name in the path
    """Describe an item."""
    return StoredItem.model_validate(StoredItem.fields_of(service_of(request).item(id)))


@router.get(
    "/api/items/{id}/thumbnail",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}},
        304: {"description": "not changed"},
        **refusals(401, 404, 409, 422, 429),
    },
    tags=["items"],
)
def thumbnail(request: Request, id: Annotated[Id, PathParameter()]) -> Response:  # noqa: A002  # the name in the path
    """Return a small picture of an item, a JPEG of at most 256 pixels."""
    content = service_of(request).thumbnail(id)
    # Another index may be served at this address next, with other pictures for the same ids: a browser has to ask.
    headers = {"Cache-Control": "private, no-cache", "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/jpeg", headers=headers)


@router.post(
    "/api/items",
    status_code=201,
    responses=refusals(401, 403, 408, 409, 413, 415, 422, 429, 503),
    openapi_extra=form_of(AddFields, "the picture", most=1),
    tags=["items"],
)
async def add(request: Request) -> StoredItem:
    """Add a picture, which is kept in the directory of the index under the SHA-256 of its content."""
    service = service_of(request)
    _check_writable(service)
    fields, pictures = await read_form(request, AddFields, service.settings)
    if len(pictures) != 1:
        raise RefusedError(422, f"picture: expected one file, got {len(pictures)}")
    if "\0" in fields.label:
        raise RefusedError(422, "label: expected text without NUL")
    metadata = _metadata(fields.metadata)
    added = await _work(request, partial(service.add, pictures[0], fields.label, metadata))
    return StoredItem.model_validate(StoredItem.fields_of(added))


@router.delete(
    "/api/items/{id}", status_code=204, responses=refusals(401, 403, 404, 409, 422, 429, 503), tags=["items"]
)
async def remove(request: Request, id: Annotated[Id, PathParameter()]) -> None:  # noqa: A002  # the name in the path
    """Remove an item."""
    service = service_of(request)
    _check_writable(service)
    await _work(request, partial(service.remove, id))


def _check_writable(service: Service) -> None:
    if not service.settings.writable:
        raise RefusedError(403, "the index is read-only here, as the service was not started as writable")


def _metadata(text: str) -> dict[str, str | int | float | bool | None]:
    """Return metadata from a JSON object of plain values."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(map(_is_plain, value.values())):
        raise RefusedError(422, "metadata: expected a JSON object of text, finite numbers, true, false and null")
    if "" in value:
        raise RefusedError(422, "metadata: expected a name for each value, got an empty one")
    if any(map(UNKEPT.search, value)) or any(isinstance(each, str) and "\0" in each for each in value.values()):
        raise RefusedError(422, "metadata: expected text that UTF-8 can write, got NUL or half of a character")
    return value


def _is_plain(value: object) -> bool:
    """Whether a value can be stored and compared: text, a number of 64 bits, true, false or null."""
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None or isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


@router.post(
    "/api/feedback",
    status_code=201,
    responses=refusals(401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 507),
    openapi_extra=json_of(Feedback),
    tags=["feedback"],
)
async def feedback(request: Request) -> Recorded:
    """Record whether a hit is right. If it is, the picture that was searched for is kept in the index's directory."""
    service = service_of(request)
    if not service.settings.feedback:
        raise RefusedError(403, "verdicts are not recorded here, as the service was started without feedback")
    fields, _ = await read_form(request, Feedback, service.settings)
    query = fields.query_hash if fields.query_id is None else fields.query_id
    if query is None or (fields.query_hash is not None and fields.query_id is not None):
        raise RefusedError(422, "query: expected either query_hash or query_id")
    count = await _work(request, partial(service.record, query, fields.id, fields.verdict))
    return Recorded(verdicts=count)


@router.get("/api/drift", responses=refusals(401, 429), tags=["state"])
def drift(request: Request) -> Drifted:
    """Compare what is searched for with what is in the index."""
    service = _service(request)
    searches, unanswered = service.metrics.searches.total(), service.metrics.unanswered.total()
    counts = {"searches": int(searches), "unanswered": int(unanswered)}
    return Drifted.model_validate({**service.drift.report()._asdict(), **counts})


@router.get("/health", responses=refusals(421, 503), tags=["state"])
def health(request: Request) -> Health:
    """Report whether searches are answered."""
    service = _service(request)
    try:
        service.index.check()
        return Health(status="ready", items=len(service.index), generation=service.generation())
    except (OSError, ValueError, QdrantError) as error:
        raise RefusedError(503, "the index cannot be read") from error


@router.get("/metrics", response_class=PlainTextResponse, responses=refusals(401, 429), tags=["state"])
def metrics(request: Request) -> PlainTextResponse:
    """Return the counters in the text format of Prometheus."""
    service, pool = _service(request), request.app.state.pool
    report = service.drift.report()
    gauges = [
        gauge("ccpml_items", "Pictures in the index.", len(service.index)),
        gauge("ccpml_generation", "Number of changes of the index.", service.generation()),
        gauge("ccpml_queue", "Pieces of work that wait or are under way.", pool.pending),
        gauge("ccpml_drift_statistic", "Kolmogorov-Smirnov statistic of distances.", report.statistic or 0.0),
        gauge("ccpml_drift", "Whether queries come from elsewhere than the pictures of the index.", report.drifting),
    ]
    return PlainTextResponse(service.metrics.text(gauges), media_type="text/plain; version=0.0.4; charset=utf-8")

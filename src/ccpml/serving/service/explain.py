"""The route that explains a pair: maps of the regions of two pictures that their distance rests on."""

import asyncio
import base64
import io
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from ccpml.artifacts import read_file
from ccpml.data.images.read import BadImageError, read_image
from ccpml.serving.explain import draw_map, explain_pair, peak, shrink
from ccpml.serving.items import Item
from ccpml.serving.pictures import content_hash
from ccpml.serving.service.forms import read_form
from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.routes import refusals, service_of
from ccpml.serving.service.schemas import Id
from ccpml.serving.service.service import Service
from ccpml.serving.service.uploads import check_upload

__all__ = ["explain_router"]

_MAX_FILE_BYTES: Final = 100_000_000  # of an item's picture; of a larger one, the thumbnail is measured


def _no_empty(value: object) -> object:
    """Return None for an empty form field."""
    return None if value == "" else value


class ExplainFields(BaseModel):
    """A pair: a picture or an item, and an item."""

    model_config = ConfigDict(extra="forbid")

    query_id: Annotated[Id | SkipJsonSchema[None], BeforeValidator(_no_empty)] = Field(
        None, description="the item that was searched for"
    )
    id: Id = Field(description="the hit")


class Explanation(BaseModel):
    """Maps of a pair. Pictures and maps are data URLs, and of the same shape."""

    query: str = Field(description="map of the query, a PNG to lay over its picture")
    item: str = Field(description="map of the item")
    query_picture: str = Field(description="the query as it was measured, a JPEG")
    item_picture: str = Field(description="the item as it was measured, a JPEG")
    query_peak: str = Field(description="where the map is largest; empty if nowhere", examples=["top left"])
    item_peak: str
    distance: float = Field(description="distance of the pair")
    largest: float = Field(description="largest change of the distance by covering a region; the full color of a map")
    source: Literal["file", "thumbnail"] = Field(description="which picture of the item was measured")


def explain_router() -> APIRouter:
    """Return the route ``POST /api/explain``. One pair is measured at a time, as it takes a worker for seconds."""
    router, turn = APIRouter(), asyncio.Semaphore(1)

    @router.post(
        "/api/explain",
        responses=refusals(401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
        openapi_extra=_body(),
        tags=["search"],
    )
    async def explain(request: Request) -> Explanation:
        """Measure which regions of two pictures their distance rests on, by covering one after the other."""
        service = service_of(request)
        fields, pictures = await read_form(request, ExplainFields, service.settings)
        if len(pictures) + (fields.query_id is not None) != 1:
            raise RefusedError(422, "query: expected either one picture or a query_id")
        async with turn:
            if await request.is_disconnected():
                raise RefusedError(499, "the client has gone")
            explained: Explanation = await request.app.state.pool.run(partial(_explain, service, fields, pictures))
            return explained

    return router


def _body() -> dict[str, Any]:
    """Return the description of the request body: a picture or the id of an item, and the id of a hit."""
    schema = ExplainFields.model_json_schema()
    file = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1, "maxItems": 1}
    form = {
        **schema,
        "properties": {"picture": {**file, "description": "the picture that was searched for"}, **schema["properties"]},
        "oneOf": [{"required": ["picture"]}, {"required": ["query_id"]}],
    }
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": {**schema, "required": ["id", "query_id"]}},
    }
    return {"requestBody": {"required": True, "content": content}}


def _explain(service: Service, fields: ExplainFields, pictures: list[bytes]) -> Explanation:
    hit = service.item(fields.id)
    if fields.query_id is None:
        check_upload(pictures[0], service.settings.max_pixels)
        query = _decoded(pictures[0])
    else:
        query, _ = _picture_of(service, service.item(fields.query_id))
    item, source = _picture_of(service, hit)
    maps = explain_pair(service.embedder, query, item)
    largest = maps.largest
    return Explanation(
        query=_url(draw_map(maps.query, largest, query.shape), "png"),
        item=_url(draw_map(maps.item, largest, item.shape), "png"),
        query_picture=_url(_jpeg(query), "jpeg"),
        item_picture=_url(_jpeg(item), "jpeg"),
        query_peak=peak(maps.query),
        item_peak=peak(maps.item),
        distance=maps.distance,
        largest=largest,
        source=source,
    )


def _picture_of(service: Service, item: Item) -> tuple[NDArray[np.uint8], Literal["file", "thumbnail"]]:
    """Return the pixels of an item, of its file if that is still the same."""
    file = Path(item.path)
    try:
        if file.is_file() and file.stat().st_size <= _MAX_FILE_BYTES:
            content = read_file(file)
            if content_hash(content) == item.content_hash:
                check_upload(content, service.settings.max_pixels)
                return _decoded(content), "file"
    except (OSError, RefusedError):
        pass  # the thumbnail is there whatever has become of the file
    return _decoded(service.thumbnail(item.id)), "thumbnail"


def _decoded(content: bytes) -> NDArray[np.uint8]:
    try:
        return shrink(read_image(content, channels=3))
    except BadImageError as error:
        raise RefusedError(422, f"picture: {error.reason}") from error


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=85)
    return content.getvalue()


def _url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

"""Reading of request bodies: multipart forms with pictures, or JSON."""

import json
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ccpml.serving.service.refused import RefusedError
from ccpml.serving.service.settings import ServiceSettings

__all__ = ["read_form", "sentence_of"]

_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 16_384
_MAX_JSON_BYTES = 65_536

M = TypeVar("M", bound=BaseModel)


async def read_form(request: Request, model: type[M], settings: ServiceSettings) -> tuple[M, list[bytes]]:
    """Return the fields of a request and the contents of its files named ``picture``.

    Args:
        request: A request whose body is multipart/form-data or, without pictures, application/json.
        model: Type of the fields.
        settings: Bounds.

    Raises:
        RefusedError: If the body is something else, or a field is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _checked(model, await _json(request)), []
    if kind != "multipart/form-data":
        raise RefusedError(415, "body: expected multipart/form-data or application/json")
    try:
        async with request.form(
            max_files=settings.max_pictures, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
        ) as form:
            fields, pictures = dict[str, object](), list[bytes]()
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name != "picture":
                        raise RefusedError(
                            422, f"{_shown(name)}: expected a field, got a file; files are named picture"
                        )
                    pictures.append(await value.read())
                elif name in fields:
                    raise RefusedError(422, f"{_shown(name)}: given twice")
                else:
                    fields[name] = value
    except HTTPException as error:  # the limits of the parser, and broken bodies
        raise RefusedError(422, f"body: {str(error.detail).rstrip('.')}") from error
    return _checked(model, fields), pictures


async def _json(request: Request) -> object:
    body = await request.body()
    if len(body) > _MAX_JSON_BYTES:
        raise RefusedError(413, f"body: expected at most {_MAX_JSON_BYTES:,} bytes of JSON")
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(422, "body: not valid JSON") from error


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _checked(model: type[M], values: object) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RefusedError(422, sentence_of(error.errors(include_url=False, include_context=False))) from error


def sentence_of(errors: object) -> str:
    """Return one sentence for errors of pydantic: the first, and where it is."""
    assert isinstance(errors, list | tuple)
    first = errors[0]
    where = next((str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"}), "")
    return f"{_shown(where) or 'body'}: {str(first['msg'])[:1].lower()}{str(first['msg'])[1:]}"


def _shown(name: str) -> str:
    """Return the name of a field as it can stand in a sentence."""
    return "".join(character if character.isprintable() else "?" for character in name[:40])

"""Reading of request bodies: multipart forms with pictures, or JSON."""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

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
_OF_NUMBERS: Final = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"})
_EXPECTED: Final = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "an integer"),
    "int_parsing_size": "a smaller integer",
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "string_type": "text",
    "missing": "a value",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "an object"),
}

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
    if name := next(iter(request.query_params), None):
        raise RefusedError(422, f"{_shown(name)}: expected in the body of the request, got it in the address")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _checked(model, await _json(request), settings), []
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
                elif name == "picture":
                    raise RefusedError(422, "picture: expected a file, got text")
                elif name in fields:
                    raise RefusedError(422, f"{_shown(name)}: given twice")
                else:
                    fields[name] = value
    except HTTPException as error:  # the limits of the parser, and broken bodies
        raise RefusedError(422, f"body: {str(error.detail).rstrip('.')}") from error
    return _checked(model, fields, settings), pictures


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


def _checked(model: type[M], values: object, settings: ServiceSettings) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        properties = model.model_json_schema().get("properties", {})
        if "k" in properties:
            properties["k"]["maximum"] = settings.max_k
        raise RefusedError(422, sentence_of(error.errors(include_url=False), properties)) from error


def sentence_of(errors: object, properties: Mapping[str, Any] | None = None) -> str:
    """Return one sentence for errors of pydantic: where the first is, what was expected, and what was found.

    Args:
        errors: As pydantic lists them.
        properties: The JSON schemas of the fields, by name.
    """
    assert isinstance(errors, list | tuple)
    first, known = errors[0], properties or {}
    where = next((str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"}), "")
    if first["type"] == "extra_forbidden":
        if where == "picture":
            return "picture: expected a file of a multipart/form-data request, got JSON"
        return f"{_shown(where)}: unknown field; known are {', '.join(known) or 'none'}"
    expected = _expected(first["type"], first.get("ctx", {}), known.get(where, {}))
    if expected is None:
        return f"{_shown(where) or 'body'}: {str(first['msg'])[:1].lower()}{str(first['msg'])[1:]}"
    quoted = first["type"] not in _OF_NUMBERS
    found = "nothing" if first["type"] == "missing" else _found(first.get("input"), quoted)
    if first["type"] == "string_too_long":
        found = str(len(first["input"]))
    return f"{_shown(where) or 'body'}: expected {expected}, got {found}"


def _expected(kind: str, context: Mapping[str, Any], field: Mapping[str, Any]) -> str | None:
    """Return what was expected where there is an error of a kind; None if the kind is not known here."""
    if kind in _OF_NUMBERS:
        low, high = field.get("minimum"), field.get("maximum")
        if low is not None and high is not None:
            return f"{low:g} to {high}"
        if "exclusiveMinimum" in field and "exclusiveMaximum" in field:
            return f"a number between {field['exclusiveMinimum']:g} and {field['exclusiveMaximum']:g}"
        words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        bounds = [f"{words[name]} {context[name]}" for name in words if name in context]
        return bounds[0] if bounds else "a finite number"
    if kind == "string_too_long":
        return f"at most {context['max_length']} characters"
    if kind == "literal_error":
        return str(context["expected"])
    return _EXPECTED.get(kind)


def _found(value: object, quoted: bool) -> str:
    """Return a value as it can stand in a sentence."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return f"'{_shown(value)}'" if isinstance(value, str) and quoted else _shown(str(value))


def _shown(name: str) -> str:
    """Return the name of a field as it can stand in a sentence."""
    return "".join(character if character.isprintable() else "?" for character in name[:40])

"""The tree of a filter as a filter of qdrant, which is true for the same items."""

import re
from typing import TYPE_CHECKING, Final

from ccpml.serving.filters.tree import (
    And,
    Compare,
    Field,
    Filter,
    FilterError,
    IsNull,
    Like,
    Node,
    Not,
    OneOf,
    Or,
    Value,
    in_all_forms,
)
from ccpml.serving.qdrant.points import fold

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["qdrant_filter"]

_EXACT: Final = 2**53
"""Bound of the integers that qdrant, which compares numbers as float64, tells apart."""

_RANGES: Final = {"=": ("gte", "lte"), "<": ("lt",), "<=": ("lte",), ">": ("gt",), ">=": ("gte",)}
_SHAPE: Final = re.compile(r"(?P<before>%*)(?P<text>(?:[^%_\\]|\\.)*)(?P<after>%*)", re.DOTALL)


def qdrant_filter(where: Filter) -> "models.Filter":
    """Return a filter of qdrant that passes the points of the items that a filter passes.

    Raises:
        FilterError: If qdrant has no such condition: an order of texts, a pattern other than ``'text'``, ``'text%'``
            and ``'%text%'``, an integer beyond 2⁵³, or a key with a quote or a backslash.
    """
    return _convert(in_all_forms(where.root))


def _convert(node: Node) -> "models.Filter":
    from qdrant_client import models

    match node:
        case And(operands):
            found = models.Filter(must=[_convert(operand) for operand in operands])
        case Or(operands):
            found = models.Filter(should=[_convert(operand) for operand in operands])
        case Not(operand):
            found = models.Filter(must_not=[_convert(operand)])
        case IsNull(field):
            found = _is_null(field)
        case Like(field, pattern):
            found = _like(field, pattern)
        case Compare(field, operator, value):
            found = _compare(field, operator, value)
        case OneOf(field, values):
            found = models.Filter(should=[_compare(field, "=", value) for value in values])
    return found


def _is_null(field: Field) -> "models.Filter":
    from qdrant_client import models

    if field.is_metadata:
        return models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key=_key(field)))])
    return _compare(field, "=", "") if field.name == "label" else _never()


def _compare(field: Field, operator: str, value: Value) -> "models.Filter":
    from qdrant_client import models

    if not field.accepts(value) or (isinstance(value, bool) and not field.is_metadata):
        return _never()
    if isinstance(value, bool | str):
        if operator != "=":
            raise FilterError(f"filter: qdrant orders no texts; expected = or != with {field.name}, got {operator}")
        match = models.MatchValue(value=value)
        return models.Filter(must=[models.FieldCondition(key=_key(field), match=match)])
    if isinstance(value, int) and abs(value) > _EXACT:
        raise FilterError(f"filter: qdrant compares integers up to 2^53; expected one with {field.name}, got {value}")
    bounds = models.Range(**dict.fromkeys(_RANGES[operator], float(value)))
    return models.Filter(must=[models.FieldCondition(key=_key(field), range=bounds)])


def _like(field: Field, pattern: str) -> "models.Filter":
    from qdrant_client import models

    if not field.accepts(""):
        return _never()
    shape = _SHAPE.fullmatch(pattern)
    if shape is None or (shape["before"] and not shape["after"] and shape["text"]):
        raise FilterError(
            f"filter: qdrant has few patterns; expected 'text', 'text%' or '%text%' with {field.name}, got '{pattern}'"
        )
    text = fold(re.sub(r"\\(.)", r"\1", shape["text"], flags=re.DOTALL))
    match: models.Match
    if shape["before"] and text:
        match = models.MatchSubstring(substring=text)
    elif shape["before"] or shape["after"]:
        match = models.MatchPrefix(prefix=text)  # all texts, if it is empty
    else:
        match = models.MatchValue(value=text)
    return models.Filter(must=[models.FieldCondition(key=f"folded.{_key(field)}", match=match)])


def _never() -> "models.Filter":
    from qdrant_client import models

    return models.Filter(must=[models.HasIdCondition(has_id=[])])


def _key(field: Field) -> str:
    """Return the path of a field in the payload of a point."""
    if not field.is_metadata:
        return field.name
    if '"' in field.name or "\\" in field.name or not field.name:
        raise FilterError(f"filter: qdrant has no keys with a quote or a backslash, got {field.name}")
    return f'metadata."{field.name}"'

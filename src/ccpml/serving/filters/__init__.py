"""Filters of a search: a small language, its tree, and the tree as SQL with bound parameters."""

from ccpml.serving.filters.tree import (
    FIELDS,
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
    Sql,
    UnknownFieldError,
    Value,
    unknown_field,
)

__all__ = [
    "FIELDS",
    "And",
    "Compare",
    "Field",
    "Filter",
    "FilterError",
    "IsNull",
    "Like",
    "Node",
    "Not",
    "OneOf",
    "Or",
    "Sql",
    "UnknownFieldError",
    "Value",
    "unknown_field",
]

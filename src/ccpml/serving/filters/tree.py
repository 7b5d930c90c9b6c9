"""The tree of a filter, and the tree as SQL with bound parameters."""

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

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
    "in_all_forms",
    "name_of_key",
    "unknown_field",
]

FIELDS: Final[Mapping[str, type]] = MappingProxyType(
    {"id": int, "path": str, "label": str, "width": int, "height": int}
)
"""Fields that each item has; any other name is a key of its metadata."""

MAX_LISTED: Final = 20
"""Number of fields that an error lists."""

Value: TypeAlias = str | int | float | bool
Comparison: TypeAlias = Literal["=", "<", "<=", ">", ">="]


class FilterError(ValueError):
    """A filter cannot be understood; the message says what was expected at which place."""


class UnknownFieldError(FilterError):
    """A filter names a field that no item has."""


class Sql(NamedTuple):
    """A condition on the table of items, with ``?`` for each parameter."""

    text: str
    parameters: tuple[str | int | float, ...]


@dataclass(frozen=True)
class Field:
    """A field of an item: one of `FIELDS`, or a key of its metadata."""

    name: str
    is_metadata: bool

    def accepts(self, value: Value) -> bool:
        """Whether values of this field can have the type of a value; those of metadata can have any."""
        return self.is_metadata or isinstance(value, str) == (FIELDS[self.name] is str)


@dataclass(frozen=True)
class Compare:
    """``field = value``, or another comparison; false where the field is absent, null or of another type."""

    field: Field
    operator: Comparison
    value: Value


@dataclass(frozen=True)
class OneOf:
    """``field in (…)``: whether the field equals one of the values."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Like:
    r"""``field like pattern``: ``%`` is any text, ``_`` any character, ``\`` before them the character itself.

    The case of the letters A to Z does not count. ``field contains text`` is a pattern too.
    """

    field: Field
    pattern: str


@dataclass(frozen=True)
class IsNull:
    """``field is null``: whether an item has no value in this field; an empty label is none."""

    field: Field


@dataclass(frozen=True)
class Not:
    """The opposite: true wherever the operand is false."""

    operand: "Node"


@dataclass(frozen=True)
class And:
    """Whether all operands are true."""

    operands: "tuple[Node, ...]"


@dataclass(frozen=True)
class Or:
    """Whether an operand is true."""

    operands: "tuple[Node, ...]"


Node: TypeAlias = Compare | OneOf | Like | IsNull | Not | And | Or


@dataclass(frozen=True)
class Filter:
    r"""A condition on the items of an index.

    | filter | passes |
    |---|---|
    | `label = 'mug'`, `price < 20` | values that compare so: `=`, `!=`, `<`, `<=`, `>`, `>=` |
    | `color in ('red', 'blue')`, `color not in (…)` | one of several values; none of them |
    | `path like '%/shop/_.jpg'`, `not like` | a pattern: `%` is any text, `_` a character; the case of A–Z is ignored |
    | `label contains 'mug'`, `not contains` | a part of a text; the case of A–Z is ignored |
    | `price is null`, `price is not null` | items without a value, or with one |
    | `and`, `or`, `not`, `( )` | `not` binds closest, `or` least |

    Fields are id, path, label, width, height and the keys of metadata. A key with another character than letters,
    digits and ``_``, or equal to a word of the language, is quoted; ``metadata.id`` is the key ``id`` of metadata.
    Values are texts in single or double quotes (a quote within is doubled, or has a backslash before it, as has a
    backslash; ``\n``, ``\t``), numbers, ``true`` and ``false``.

    Each condition is true or false. A comparison with a field that is absent, null or of another type is false:
    ``price < 'a'`` passes no item whose price is a number. ``!=`` and all with ``not`` are the exact opposite, and
    pass items without the field; ``color != 'red' and color is not null`` does not. Texts are ordered by code points.

    Example:
        >>> Filter.parse("label = 'mug' and price < 20").root.operands[1]
        Compare(field=Field(name='price', is_metadata=True), operator='<', value=20)
    """

    root: Node

    def __post_init__(self) -> None:
        if not isinstance(self.root, Node):
            raise FilterError(f"root: expected the tree of a filter, got {self.root!r}; Filter.parse takes a text")

    @classmethod
    def parse(cls, text: str) -> "Filter":
        """Parse a filter.

        Raises:
            FilterError: If it is not one, or too long or too deep; the message names the place.
        """
        from ccpml.serving.filters.parser import parse

        if not isinstance(text, str):
            raise FilterError(f"filter: expected a text, such as \"label = 'mug'\", got {text!r}")
        return cls(parse(text))

    def fields(self) -> list[Field]:
        """Return the fields that are used, each once, in order."""
        return list(dict.fromkeys(_fields(self.root)))

    def sql(self) -> Sql:
        """Return the condition in the SQL of SQLite; values and keys are parameters.

        It holds for a table ``items`` with the columns `FIELDS`, and a table ``fields`` of metadata with the columns
        ``key``, ``type``, ``value`` (``atom`` of SQLite's ``json_each``) and ``id`` of the item, without nulls.

        Example:
            >>> Filter.parse("label = 'mug' or not id > 7").sql()
            Sql(text='(label = ? OR (NOT id > ?))', parameters=('mug', 7))
        """
        return _sql(in_all_forms(self.root))


def name_of_key(key: str) -> str:
    """Return the name by which a filter finds a key of metadata.

    Example:
        >>> name_of_key("price"), name_of_key("id")
        ('price', 'metadata.id')
    """
    return f"metadata.{key}" if key in FIELDS or key.startswith("metadata.") else key


def unknown_field(field: Field, keys: Collection[str]) -> UnknownFieldError:
    """Return the error about a field that no item has.

    Args:
        field: The field.
        keys: Keys of metadata that items have.
    """
    listed = [*FIELDS, *sorted(map(name_of_key, keys))]
    more = f", and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return UnknownFieldError(
        f"{field.name}: unknown field; the index has {', '.join(listed[:MAX_LISTED])}{more}; text is written in quotes"
    )


def in_all_forms(node: Node) -> Node:
    """Return a tree in which a text equals, and matches, each form that Unicode has for it.

    Some systems decompose the letters of file names, which are labels.

    Example:
        >>> in_all_forms(Like(Field("label", False), "\u00e9%")).operands[1].pattern == "e\u0301%"
        True
    """
    match node:
        case And(operands) | Or(operands):
            return type(node)(tuple(map(in_all_forms, operands)))
        case Not(operand):
            return Not(in_all_forms(operand))
        case Like(field, pattern):
            patterns = [Like(field, form) for form in _forms(pattern)]
            return patterns[0] if len(patterns) == 1 else Or(tuple(patterns))
        case Compare(field, "=", str(value)) if len(_forms(value)) > 1:
            return OneOf(field, (*_forms(value),))
        case OneOf(field, values):
            forms = (_forms(value) if isinstance(value, str) else [value] for value in values)
            return OneOf(field, tuple(each for own in forms for each in own))
    return node


def _forms(text: str) -> list[str]:
    return list(dict.fromkeys((text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))))


def _fields(node: Node) -> Iterator[Field]:
    match node:
        case And(operands) | Or(operands):
            for operand in operands:
                yield from _fields(operand)
        case Not(operand):
            yield from _fields(operand)
        case _:
            yield node.field


def _sql(node: Node) -> Sql:
    match node:
        case And(operands):
            return _joined(" AND ", [_sql(operand) for operand in operands])
        case Or(operands):
            return _joined(" OR ", [_sql(operand) for operand in operands])
        case Not(operand):
            return _opposite(_sql(operand))
        case IsNull(field):
            absent = _opposite(_on_metadata(field, "true", ()))
            return absent if field.is_metadata else Sql("label = ''" if field.name == "label" else "0", ())
        case _:
            return _sql_of_comparison(node)


def _sql_of_comparison(node: Compare | OneOf | Like) -> Sql:
    match node:
        case Like(field, pattern):
            return _on_values(field, pattern, r"{} LIKE ? ESCAPE '\'", (pattern,))
        case Compare(field, operator, value):
            return _on_values(field, value, f"{{}} {operator} ?", (value,))
        case OneOf(field, values):
            groups = dict[str, list[Value]]()  # by type
            for value in values:
                groups.setdefault(_json_types(value), []).append(value)
            parts = [
                _on_values(field, group[0], f"{{}} IN ({', '.join('?' * len(group))})", tuple(group))
                for group in groups.values()
            ]
            return _joined(" OR ", parts)


def _joined(word: str, parts: list[Sql]) -> Sql:
    return Sql(f"({word.join(part.text for part in parts)})", sum((part.parameters for part in parts), ()))


def _opposite(part: Sql) -> Sql:
    return Sql(f"(NOT {part.text})", part.parameters)


def _on_values(field: Field, example: Value, condition: str, parameters: tuple[Value, ...]) -> Sql:
    """Return a condition on the value of a field, ``{}``, which is false for values of another type than an example."""
    if field.is_metadata:
        return _on_metadata(field, f"type IN ({_json_types(example)}) AND {condition.format('value')}", parameters)
    if not field.accepts(example) or isinstance(example, bool):
        return Sql("0", ())
    return Sql(condition.format(field.name), parameters)  # the name of a column: one of FIELDS


def _on_metadata(field: Field, condition: str, parameters: tuple[Value, ...]) -> Sql:
    text = f"id IN (SELECT id FROM fields WHERE key = ? AND {condition})"
    return Sql(text, (field.name, *parameters))


def _json_types(value: Value) -> str:
    """Return SQLite's names of the types of JSON that can equal a value."""
    if isinstance(value, bool):
        return "'true', 'false'"
    return "'text'" if isinstance(value, str) else "'integer', 'real'"

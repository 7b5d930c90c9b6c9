"""Filters against an evaluator in Python, on a table in SQLite."""

import json
import re
import sqlite3
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccpml.serving.filters.parser import MAX_DEPTH
from ccpml.serving.filters.tree import (
    FIELDS,
    And,
    Compare,
    Field,
    Filter,
    FilterError,
    IsNull,
    Like,
    Not,
    OneOf,
    Or,
    name_of_key,
    unknown_field,
)
from ccpml.serving.storage.schema import FIELDS_OF_METADATA

KEYS = ["price", "color", 'a"b', "it's", "", "a\\b", "$.x", "größe"]
TEXTS = st.text(st.sampled_from("aAbB%_\\'\"`é\n ß"), max_size=4)
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, -1.5, 1e30, 2**62, -(2**63), 7.0]))
VALUES = st.one_of(TEXTS, NUMBERS, st.booleans())
FIELD = st.one_of(
    st.sampled_from([Field(name, is_metadata=False) for name in FIELDS]),
    st.sampled_from([Field(name, is_metadata=True) for name in KEYS]),
)
PATTERNS = TEXTS.filter(lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0)
LEAVES = st.one_of(
    st.builds(Compare, FIELD, st.sampled_from(["=", "<", "<=", ">", ">="]), st.one_of(TEXTS, NUMBERS)),
    st.builds(Compare, FIELD, st.just("="), st.booleans()),
    st.builds(OneOf, FIELD, st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.builds(Like, FIELD, PATTERNS),
    st.builds(IsNull, FIELD),
)


def groups(nodes):
    operands = st.lists(nodes, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, nodes), st.builds(And, operands), st.builds(Or, operands))


NODES = st.recursive(LEAVES, groups, max_leaves=6)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {
            "path": TEXTS,
            "label": TEXTS,
            "width": st.integers(0, 3),
            "height": st.integers(0, 3),
            "metadata": st.dictionaries(st.sampled_from(KEYS), st.one_of(st.none(), VALUES), max_size=4),
        }
    ),
    min_size=1,
    max_size=6,
)


def evaluate(node, item):
    """The meaning of a filter, written from its documentation."""
    match node:
        case And(operands):
            return all(evaluate(operand, item) for operand in operands)
        case Or(operands):
            return any(evaluate(operand, item) for operand in operands)
        case Not(operand):
            return not evaluate(operand, item)
    field = node.field
    found = item["metadata"].get(field.name) if field.is_metadata else item[field.name]

    def comparable(value):
        kinds = [str if isinstance(v, str) else bool if isinstance(v, bool) else float for v in (found, value)]
        return found is not None and kinds[0] == kinds[1]

    match node:
        case IsNull(_):
            return found is None or (field == Field("label", False) and found == "")
        case OneOf(_, values):
            return any(comparable(value) and found == value for value in values)
        case Compare(_, operator, value):
            if not comparable(value):
                return False
            left, right = found, value
            return {
                "=": lambda: left == right,
                "<": lambda: left < right,
                "<=": lambda: left <= right,
                ">": lambda: left > right,
                ">=": lambda: left >= right,
            }[operator]()
        case Like(_, pattern):
            parts = re.findall(r"\\.|.", pattern, re.DOTALL)
            regex = "".join({"%": ".*", "_": "."}.get(part) or fold(re.escape(part[-1])) for part in parts)
            return isinstance(found, str) and re.fullmatch(regex, found, re.DOTALL) is not None
    raise AssertionError(node)


def fold(escaped):
    return f"[{escaped.lower()}{escaped.upper()}]" if re.fullmatch("[a-zA-Z]", escaped) else escaped


def table(items):
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, path, label, metadata TEXT, width INTEGER, height INTEGER)")
    db.executemany(
        "INSERT INTO items VALUES (:id, :path, :label, :metadata, :width, :height)",
        [{**item, "metadata": json.dumps(item["metadata"], ensure_ascii=item["id"] % 2 > 0)} for item in items],
    )
    db.execute(f"CREATE VIEW fields AS {FIELDS_OF_METADATA.replace('AND NOT removed', '')}")
    return db


def passing(condition, db):
    text, parameters = condition.sql()
    return [key for (key,) in db.execute(f"SELECT id FROM items WHERE {text} ORDER BY id", parameters)]


@settings(max_examples=150, deadline=None)
@given(NODES, ITEMS)
def test_sql_selects_what_the_definition_selects(node, items):
    items = [{"id": number, **item} for number, item in enumerate(items, 1)]
    expected = [item["id"] for item in items if evaluate(node, item)]
    assert passing(Filter(node), table(items)) == expected


@pytest.mark.parametrize("label", ["caf\u00e9", "cafe\u0301"])
@pytest.mark.parametrize("form", ["caf\u00e9", "cafe\u0301"])
def test_texts_match_in_any_form_of_unicode(label, form):
    db = table([{"id": 1, "path": "", "label": label, "metadata": {"place": label}, "width": 0, "height": 0}])
    for passes in (f"= '{form}'", f"in ('x', '{form}')", f"like '{form}%'", f"contains '{form[2:]}'"):
        for field in ("label", "place"):
            assert passing(Filter.parse(f"{field} {passes}"), db) == [1]
            assert passing(Filter.parse(f"not {field} {passes}"), db) == []


def quote(text, mark):
    if mark == "\\":
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return mark + text.replace("\\", "\\\\").replace(mark, 2 * mark) + mark


def write(node, draw):
    """The text of a tree, in one of its spellings."""
    match node:
        case And(operands):
            return f" {draw(st.sampled_from(['and', 'AND']))}\n".join(f"({write(o, draw)})" for o in operands)
        case Or(operands):
            return " or ".join(f"({write(o, draw)})" for o in operands)
        case Not(operand):
            return f"not({write(operand, draw)})"
    field = node.field
    name = quote(field.name, draw(st.sampled_from("'\"`"))) if field.is_metadata else field.name
    if re.fullmatch("[a-zß-ÿ]+", field.name) and draw(st.booleans()):
        name = f"metadata.{field.name}" if field.is_metadata else field.name

    def value(value):
        if isinstance(value, bool):
            return str(value).lower()
        return quote(value, draw(st.sampled_from("'\"\\"))) if isinstance(value, str) else repr(value)

    match node:
        case IsNull(_):
            return f"{name} is null"
        case OneOf(_, values):
            return f"{name} in ({', '.join(map(value, values))})"
        case Compare(_, operator, other):
            return f"{name}{operator}{value(other)}"
        case Like(_, pattern):
            return f"{name} like {value(pattern)}"


@settings(max_examples=80, deadline=None)
@given(NODES, st.data())
def test_a_written_filter_is_parsed_to_its_tree(node, data):
    assert Filter.parse(write(node, data.draw)).root == node


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "and", "not", "(", ")", "'x'", "=", "5", "in", ",", "is", "null", "'", "like", ";"]))
)
def test_any_text_is_a_filter_or_refused(words):
    with suppress(FilterError):
        assert Filter.parse(" ".join(words)).sql().text.count("?") <= len(words)


def test_precedence_and_spellings():
    a, b, c = (Compare(Field(name, True), "=", 1) for name in "abc")
    assert Filter.parse("a=1 or b=1 and not c=1").root == Or((a, And((b, Not(c)))))
    assert Filter.parse("(a=1 or b==1) AND NOT c = 1.0").root == And((Or((a, b)), Not(Compare(c.field, "=", 1.0))))
    assert Filter.parse("a <> 1").root == Filter.parse("a != 1").root == Not(a)
    assert Filter.parse("a is not null").root == Filter.parse("a != null").root == Not(IsNull(a.field))
    assert Filter.parse(r"a not contains '5%_\\'").root == Not(Like(a.field, r"%5\%\_\\%"))
    assert Filter.parse("'id' = 1 and metadata.id = 1").fields() == [Field("id", False), Field("id", True)]
    assert Filter.parse("a = 99999999999999999999").root.value == 1e20


@pytest.mark.parametrize(
    "text",
    [
        "label = 'x'; DROP TABLE items; --'",
        "label = 'x' UNION SELECT 1",
        "1=1",
        "label = label",
        "id in (SELECT id FROM items)",
        "id = 1 -- comment",
        "id = 1 /* comment */",
        "json_extract(metadata, '$.x') = 1",
        "label = 'x' or 1",
        "id = ?",
        "items.id = :x",
    ],
)
def test_sql_is_no_filter(text):
    with pytest.raises(FilterError):
        Filter.parse(text)


@pytest.mark.parametrize("hostile", ["' OR 1=1 --", '") OR 1=1 --', "x'); DROP TABLE items; --", "?", "\\' OR ''='"])
def test_hostile_texts_and_keys_are_values(hostile):
    db = table([{"id": 1, "path": hostile, "label": "a", "width": 1, "height": 1, "metadata": {hostile: "b"}}, {
        "id": 2, "path": "p", "label": "b", "width": 1, "height": 1, "metadata": {"k": 1}}])  # fmt: skip
    assert passing(Filter.parse(f"path = {quote(hostile, chr(34))}"), db) == [1]
    assert passing(Filter.parse(f"{quote(hostile, chr(39))} = 'b'"), db) == [1]
    assert passing(Filter.parse(f"label like {quote(hostile, chr(34))}"), db) == []
    condition = Filter.parse(f"{quote(hostile, '`')} in ({quote(hostile, chr(39))}, 1)").sql()
    assert hostile == "?" or hostile not in condition.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "filter: expected a field, got nothing at the end"),
        ("label", "filter: expected =, !=, <, <=, >, >=, in, like, contains or is after label, got nothing at the end"),
        (
            "label 'mug'",
            "filter: expected =, !=, <, <=, >, >=, in, like, contains or is after label, got 'mug' at character 7",
        ),
        ("label = mug", "filter: expected a value after =, got mug at character 9; text is written in quotes: 'mug'"),
        ("label = 'mug", "filter: expected a closing ' for the text that begins at character 9"),
        ("price < 20€", "filter: expected a field, a value or an operator, got € at character 11; .*"),
        ("price < 20 label = 'a'", "filter: expected and, or, or the end, got label at character 12"),
        ("(price < 20", r"filter: expected \), got nothing at the end"),
        ("price < true", "filter: expected a number or a text after <, got a truth value at character 9"),
        ("price < null", "filter: expected a value after <, got null at character 9; `is null` asks for missing ones"),
        ("color in ()", r"filter: expected a value after \(, got \) at character 11"),
        ("color not = 5", "filter: expected in, like or contains after not, got = at character 11"),
        ("path like 5", "filter: expected a text in quotes after like, got 5 at character 11"),
        (r"path = 'C:\photos'", r"filter: .* got \\p in the text at character 8; a backslash is written twice"),
        (r"path like 'a\\'", "filter: .* after the last backslash of the pattern at character 11"),
        ("and = 5", "filter: expected a field, got and at character 1"),
        ("price < 1e999", "filter: expected a finite number, got 1e999 at character 9"),
        ("path = 'a\0'", "filter: expected text in UTF-8 at character 8, got other bytes"),
        ("path = 'a\udcff'", "filter: expected text in UTF-8 at character 8, got other bytes"),
        ("(" * 50 + "id=1" + ")" * 50, f"filter: expected at most {MAX_DEPTH} levels, got more at character 17"),
        ("id=1 or " * 300 + "id=1", "filter: expected at most 200 conditions, got more"),
        ("id in (" + "1," * 10_000 + "1)", "filter: expected at most 20,000 characters, got 20,009"),
    ],
)
def test_errors_name_the_place(text, message):
    with pytest.raises(FilterError, match=f"^{message}$"):
        Filter.parse(text)


def test_the_largest_filters_are_within_the_limits_of_sqlite():
    db = table([{"id": 1, "path": "a", "label": "a", "width": 1, "height": 1, "metadata": {"a": 1}}])
    assert passing(Filter.parse(" and ".join(["a=1"] * 200)), db) == [1]
    assert passing(Filter.parse("not " * MAX_DEPTH + "a=2"), db) == [1]
    nested = "(id=1 and not (" * 4 + "('it''s' in (1, 'x') or a is null)" + "))" * 4
    assert passing(Filter.parse(nested), db) == []
    assert passing(Filter.parse("(id=2 or " * MAX_DEPTH + "a=1" + ")" * MAX_DEPTH), db) == [1]
    assert passing(Filter.parse("a in (" + "1," * 9_000 + "1)"), db) == [1]


@pytest.mark.parametrize("key", ["price", "id", "width", "metadata.price", "list price", "label", "metadata"])
def test_the_listed_name_of_a_key_finds_it(key):
    (name,) = [part for part in str(unknown_field(Field("labl", True), [key])).split(", ") if key in part][-1:]
    name = name.partition(";")[0]
    assert name == name_of_key(key)
    assert Filter.parse(f"`{name}` is null").root.field == Field(key, True)


def test_an_unknown_field_is_named_with_those_of_the_index():
    (field,) = Filter.parse("labl = 'mug'").fields()
    assert str(unknown_field(field, ["price", "color"])) == (
        "labl: unknown field; the index has id, path, label, width, height, color, price; text is written in quotes"
    )
    assert "and 10 more" in str(unknown_field(field, [f"k{n}" for n in range(25)]))

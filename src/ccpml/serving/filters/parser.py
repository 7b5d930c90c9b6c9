"""The parser of filters: text to words, words to a tree."""

import math
import re
from typing import Final, NamedTuple, NoReturn, cast

from ccpml.serving.filters.tree import (
    FIELDS,
    And,
    Compare,
    Comparison,
    Field,
    FilterError,
    IsNull,
    Like,
    Node,
    Not,
    OneOf,
    Or,
    Value,
)

__all__ = ["parse"]

MAX_CHARACTERS: Final = 20_000
MAX_CONDITIONS: Final = 200
MAX_DEPTH: Final = 15  # SQLite's parser has room for 100 open symbols, about four a level
"""Limits of a filter: its text, its comparisons, and its parentheses and ``not`` within each other."""

_WORDS: Final = frozenset({"and", "or", "not", "in", "like", "contains", "is", "null", "true", "false"})
_OPERATORS: Final = "=, !=, <, <=, >, >=, in, like, contains or is"
_ESCAPES: Final = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"', "`": "`"}
_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<word>[^\W\d]\w*(?:\.\w+)*)
    | (?P<quoted>'(?:[^'\\]|''|\\.)*' | "(?:[^"\\]|""|\\.)*" | `(?:[^`\\]|``|\\.)*`)
    | (?P<sign><=|>=|!=|<>|==|[=<>(),])
    )""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str  # a name of a group above; "end" after the last
    text: str
    place: int  # in characters, from 1

    @property
    def word(self) -> str:
        """The word of the language or the sign that this is; empty for fields and values."""
        if self.kind == "sign":
            return self.text
        lower = self.text.lower()
        return lower if self.kind == "word" and lower in _WORDS else ""


def parse(text: str) -> Node:
    """Parse a filter; see `ccpml.serving.filters.Filter`.

    Raises:
        FilterError: If it is not one.
    """
    if len(text) > MAX_CHARACTERS:
        raise FilterError(f"filter: expected at most {MAX_CHARACTERS:,} characters, got {len(text):,}")
    return _Parser(_tokens(text)).parse()


def _tokens(text: str) -> list[_Token]:
    tokens, position = list[_Token](), 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            _refuse_character(text, position)
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1))
        position = match.end()
    return [*tokens, _Token("end", "", end + 1)]


def _refuse_character(text: str, position: int) -> NoReturn:
    position += len(text[position:]) - len(text[position:].lstrip())
    found = text[position]
    if found in "'\"`":
        raise FilterError(f"filter: expected a closing {found} for the text that begins at character {position + 1}")
    word = re.match(r"[^\s(),=<>!]*", text[position:])
    shown = _shown(word[0] if word and word[0] else found)
    raise FilterError(
        f"filter: expected a field, a value or an operator, got {shown} at character {position + 1}; text and unusual "
        "names are written in quotes"
    )


def _shown(text: str) -> str:
    """Return a piece of the filter for a message, shortened."""
    printable = "".join(c if c.isprintable() else "�" for c in text)
    return printable if len(printable) <= 40 else f"{printable[:39]}…"


def _unquote(token: _Token) -> str:
    def unescape(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]  # a doubled quote
        if match[1] not in _ESCAPES:
            raise FilterError(
                f"filter: expected \\\\, \\n, \\t or a quote after the backslash, got {_shown(match[0])} in the text at"
                f" character {token.place}; a backslash is written twice"
            )
        return _ESCAPES[match[1]]

    result = re.sub(r"\\(.)|" + 2 * token.text[0], unescape, token.text[1:-1], flags=re.DOTALL)
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in result):
        raise FilterError(f"filter: expected text in UTF-8 at character {token.place}, got other bytes")
    return result


class _Parser:
    """A parser by recursive descent: one method for each rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._conditions = 0

    def parse(self) -> Node:
        node = self._any_of(0)
        if self._token.kind != "end":
            self._refuse("and, or, or the end")
        return node

    def _any_of(self, depth: int) -> Node:
        operands = [self._all_of(depth)]
        while self._accept("or"):
            operands.append(self._all_of(depth))
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _all_of(self, depth: int) -> Node:
        operands = [self._operand(depth)]
        while self._accept("and"):
            operands.append(self._operand(depth))
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _operand(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise FilterError(f"filter: expected at most {MAX_DEPTH} levels, got more at character {self._token.place}")
        if self._accept("not"):
            return Not(self._operand(depth + 1))
        if self._accept("("):
            node = self._any_of(depth + 1)
            self._expect(")")
            return node
        return self._condition()

    def _condition(self) -> Node:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"filter: expected at most {MAX_CONDITIONS} conditions, got more")
        field = self._field()
        if self._accept("is"):
            negated = self._accept("not")
            self._expect("null")
            return _negated(IsNull(field), negated)
        negated = self._accept("not")
        if self._accept("in"):
            return _negated(OneOf(field, self._values()), negated)
        if self._accept("like"):
            return _negated(Like(field, self._pattern()), negated)
        if self._accept("contains"):
            literal = re.sub(r"([\\%_])", r"\\\1", self._text("contains"))
            return _negated(Like(field, f"%{literal}%"), negated)
        if negated:
            self._refuse("in, like or contains", "not")
        return self._comparison(field)

    def _comparison(self, field: Field) -> Node:
        operator = {"==": "=", "<>": "!="}.get(self._token.text, self._token.text)
        if self._token.kind != "sign" or operator not in {"=", "!=", "<", "<=", ">", ">="}:
            self._refuse(_OPERATORS, _shown(field.name))
        self._next += 1
        if operator in {"=", "!="} and self._accept("null"):
            return _negated(IsNull(field), operator == "!=")
        place, value = self._token.place, self._value(operator)
        if operator not in {"=", "!="} and isinstance(value, bool):
            raise FilterError(
                f"filter: expected a number or a text after {operator}, got a truth value at character {place}"
            )
        kind = cast(Comparison, "=" if operator == "!=" else operator)
        return _negated(Compare(field, kind, value), operator == "!=")

    def _field(self) -> Field:
        token = self._token
        if token.kind not in {"word", "quoted"} or token.word:
            self._refuse("a field")
        self._next += 1
        name = _unquote(token) if token.kind == "quoted" else token.text
        return Field(name.removeprefix("metadata."), is_metadata=name not in FIELDS)

    def _values(self) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._value("(")]
        while self._accept(","):
            values.append(self._value(","))
        self._expect(")")
        return tuple(values)

    def _pattern(self) -> str:
        place, pattern = self._token.place, self._text("like")
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise FilterError(
                f"filter: expected a character after the last backslash of the pattern at character {place}"
            )
        return pattern

    def _text(self, after: str) -> str:
        if self._token.kind != "quoted" or self._token.text[0] == "`":
            self._refuse("a text in quotes", after)
        self._next += 1
        return _unquote(self._tokens[self._next - 1])

    def _value(self, after: str) -> Value:
        token = self._token
        if token.kind == "number":
            self._next += 1
            return _number(token)
        if token.word in {"true", "false"}:
            self._next += 1
            return token.word == "true"
        if token.word == "null":
            self._refuse("a value", after, way_out="`is null` asks for missing ones")
        if token.kind == "word":
            self._refuse("a value", after, way_out=f"text is written in quotes: '{_shown(token.text)}'")
        if token.kind != "quoted" or token.text[0] == "`":
            self._refuse("a value", after)
        return self._text(after)

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _accept(self, word: str) -> bool:
        """Consume the next token if it is a word or sign."""
        found = self._token.word == word
        self._next += found
        return found

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            self._refuse(word)

    def _refuse(self, expected: str, after: str = "", way_out: str = "") -> NoReturn:
        token = self._token
        got = "nothing" if token.kind == "end" else _shown(token.text)
        place = "the end" if token.kind == "end" else f"character {token.place}"
        raise FilterError(
            f"filter: expected {expected}{f' after {after}' if after else ''}, got {got} at {place}"
            f"{f'; {way_out}' if way_out else ''}"
        )


def _negated(node: Node, negated: bool) -> Node:
    return Not(node) if negated else node


def _number(token: _Token) -> int | float:
    try:
        whole = int(token.text) if len(token.text) < 40 else 2**63
        if -(2**63) <= whole < 2**63:
            return whole
    except ValueError:
        pass
    value = float(token.text)
    if not math.isfinite(value):
        raise FilterError(f"filter: expected a finite number, got {_shown(token.text)} at character {token.place}")
    return value

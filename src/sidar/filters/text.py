"""A filter in one line: ``price 10 TO 50 AND brand IN ["Lenovo", "HP"] AND NOT in_stock = false``.

    filter    = all { OR all }
    all       = part { AND part }
    part      = NOT part | "(" filter ")" | AT LEAST n OF "(" filter { "," filter } ")" | "*"
              | HAS_ID list | key test | JSON object of a condition
    test      = (= | != | < | <= | > | >=) value | [NOT] IN list | UNDER list
              | IS [NOT] (NULL | EMPTY) | value TO value | ("[" | "{") value TO value ("]" | "}")

It compiles to the tree of :mod:`sidar.filters.tree`. Bounds in brackets belong to the range, bounds
in braces do not, as in Lucene. ``!=`` and ``NOT IN`` want a value that is another one, ``NOT`` also
holds for items without a value.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from pydantic import ValidationError

from sidar.filters.condition import Condition, FilterError
from sidar.filters.conditions import DatetimeRange, HasId, IsEmpty, IsNull, Match, Range
from sidar.filters.tree import MAX_DEPTH, Filter, MinShould, check_size, read_json

#: Longest text that is read.
MAX_TEXT = 16_384
KEYWORDS = frozenset(
    ("AND", "OR", "NOT", "IN", "UNDER", "IS", "NULL", "EMPTY", "TO", "AT", "LEAST", "OF", "HAS_ID")
) | {"TRUE", "FALSE"}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<quoted>`(?:[^`]|``)+`)
  | (?P<date>\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:?\d\d)?)?(?![\w-]))
  | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
  | (?P<word>[^\W\d][\w.\-]*)
  | (?P<sign><=|>=|!=|[=<>()\[\]{},*])
    )""",
    re.VERBOSE,
)
#: A key that needs no quotes, unless it is a keyword.
BARE = re.compile(r"[^\W\d][\w.\-]*")
#: Bounds by sign.
COMPARE = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
Node = Filter | Condition


class _Token(NamedTuple):
    kind: str  # string, quoted, date, number, word, sign, end
    text: str
    at: int  # column, from 0


def read_text(text: str) -> Filter:
    """Return the filter of ``text``; :class:`FilterError` points at the column (from 1)."""
    if len(text) > MAX_TEXT:
        raise FilterError(f"the filter has {len(text):,} characters; at most {MAX_TEXT:,}")
    check_size(text)
    if not text.strip():
        return Filter()
    parser = _Parser(text)
    node = parser.whole()
    made = node if isinstance(node, Filter) else Filter(must=(node,))
    check_size(made.to_json())
    return made


class _Parser:
    """Recursive descent, one method per rule; ``next`` is the token to be read."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.next = self._scan()

    # ------------------------------------------------------------------ tokens

    def _scan(self) -> _Token:
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            rest = self.text[self.at :]
            at = self.at + len(rest) - len(rest.lstrip())
            if not rest.strip():
                return _Token("end", "", len(self.text))
            what = (
                "a text that does not end" if rest.lstrip()[0] in '"`' else repr(rest.lstrip()[0])
            )
            raise self.error(f'cannot read {what}; quote texts: "…"', at)
        kind = match.lastgroup or ""
        return _Token(kind, match.group(kind), match.start(kind))

    def take(self) -> _Token:
        token = self.next
        self.at = token.at + len(token.text)
        self.next = self._scan()
        return token

    def error(self, message: str, at: int | None = None) -> FilterError:
        return FilterError(f"column {(self.next.at if at is None else at) + 1}: {message}")

    def got(self) -> str:
        return "the end" if self.next.kind == "end" else repr(self.next.text)

    def is_word(self, word: str) -> bool:
        return self.next.kind == "word" and self.next.text.upper() == word

    def take_word(self, word: str) -> bool:
        """Take the keyword if it is the next token."""
        found = self.is_word(word)
        if found:
            self.take()
        return found

    def want_word(self, word: str) -> None:
        if not self.take_word(word):
            raise self.error(f"want {word}, got {self.got()}")

    def take_sign(self, sign: str) -> bool:
        found = self.next.kind == "sign" and self.next.text == sign
        if found:
            self.take()
        return found

    def want_sign(self, sign: str) -> None:
        if not self.take_sign(sign):
            raise self.error(f"want {sign!r}, got {self.got()}")

    # ------------------------------------------------------------------ rules

    def whole(self) -> Node:
        node = self.any_of()
        if self.next.kind != "end":
            raise self.error(f"want AND, OR or the end, got {self.got()}")
        return node

    def any_of(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"the filter is nested more than {MAX_DEPTH} deep")
        parts = [self.all_of()]
        while self.take_word("OR"):
            parts.append(self.all_of())
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Filter(should=tuple(parts))

    def all_of(self) -> Node:
        must: list[Node] = []
        must_not: list[Node] = []
        while True:
            negated = False
            while self.take_word("NOT"):
                negated = not negated
            (must_not if negated else must).append(self.part())
            if not self.take_word("AND"):
                break
        if len(must) == 1 and not must_not:
            return must[0]
        return Filter(must=tuple(must), must_not=tuple(must_not))

    def part(self) -> Node:
        if self.take_sign("("):
            node = self.any_of()
            self.want_sign(")")
            return node
        if self.take_sign("*"):
            return Filter()
        if self.next.kind == "sign" and self.next.text == "{":
            return self.json_condition()
        if self.take_word("AT"):
            return self.at_least()
        if self.take_word("HAS_ID"):
            return self.condition(HasId, has_id=self.list_of_values())
        return self.test()

    def json_condition(self) -> Node:
        at = self.next.at
        try:
            value, end = json.JSONDecoder().raw_decode(self.text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise self.error(f"no JSON object of a condition ({error})", at) from None
        self.at = end
        self.next = self._scan()
        try:
            return read_json({"must": [value]}).must[0]
        except FilterError as error:
            raise self.error(str(error).removeprefix("must[0]").lstrip(".: "), at) from None

    def at_least(self) -> Filter:
        self.want_word("LEAST")
        at = self.next.at
        count = self.value()
        self.want_word("OF")
        self.want_sign("(")
        parts = [self.any_of()]
        while self.take_sign(","):
            parts.append(self.any_of())
        self.want_sign(")")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(parts):
            raise self.error(f"want a number from 1 to {len(parts)} after AT LEAST", at)
        return Filter(min_should=MinShould(conditions=tuple(parts), min_count=count))

    def test(self) -> Node:
        key, at = self.key(), self.next.at
        if self.take_word("IS"):
            return self.is_state(key)
        if self.take_word("UNDER"):
            return self.condition(Match, at, key=key, match={"prefix": self.list_of_values()})
        negated = self.take_word("NOT")
        if self.take_word("IN"):
            how = "except" if negated else "any"
            return self.condition(Match, at, key=key, match={how: self.list_of_values()})
        if negated:
            raise self.error(f"want IN after NOT, got {self.got()}")
        if self.next.kind == "sign" and self.next.text in ("=", "!=", *COMPARE):
            return self.comparison(key, self.take())
        return self.interval(key)

    def is_state(self, key: str) -> Node:
        negated = self.take_word("NOT")
        body = {"key": key}
        node: Condition
        if self.take_word("NULL"):
            node = self.condition(IsNull, is_null=body)
        elif self.take_word("EMPTY"):
            node = self.condition(IsEmpty, is_empty=body)
        else:
            raise self.error(f"want NULL or EMPTY after IS, got {self.got()}")
        return Filter(must_not=(node,)) if negated else node

    def comparison(self, key: str, sign: _Token) -> Condition:
        value = self.value()
        if sign.text == "=":
            return self.condition(Match, sign.at, key=key, match={"value": value})
        if sign.text == "!=":
            return self.condition(Match, sign.at, key=key, match={"except": [value]})
        return self.bounded(key, {COMPARE[sign.text]: value}, sign.at)

    def interval(self, key: str) -> Condition:
        at = self.next.at
        opening = self.next.text if self.next.kind == "sign" else ""
        if opening not in ("", "[", "{"):
            raise self.error(
                f"want a comparison, IN, UNDER, IS or a range after {key}, got {self.got()}"
            )
        if not opening and self.next.kind in ("word", "end"):
            raise self.error(
                f"want a comparison, IN, UNDER, IS or a range after {key}, got {self.got()}"
            )
        if opening:
            self.take()
        low = self.value()
        self.want_word("TO")
        high = self.value()
        closing = "]"
        if opening:
            closing = self.next.text
            if closing not in ("]", "}"):
                raise self.error(f"want ']' or '}}' after the range, got {self.got()}")
            self.take()
        bounds = {"gt" if opening == "{" else "gte": low, "lt" if closing == "}" else "lte": high}
        return self.bounded(key, bounds, at)

    def bounded(self, key: str, bounds: dict[str, Any], at: int) -> Condition:
        """A range of numbers, or of times where the bounds are texts."""
        texts = {isinstance(value, str) for value in bounds.values()}
        if any(isinstance(value, bool) for value in bounds.values()) or len(texts) > 1:
            raise self.error("want two numbers or two dates as bounds", at)
        if texts == {True}:
            return self.condition(DatetimeRange, at, key=key, datetime_range=bounds)
        return self.condition(Range, at, key=key, range=bounds)

    def condition(self, kind: type[Condition], at: int | None = None, **fields: Any) -> Condition:
        place = self.next.at if at is None else at
        try:
            return kind.model_validate(fields)
        except ValidationError as error:
            raise self.error(error.errors()[0]["msg"], place) from None

    # ------------------------------------------------------------------ values

    def key(self) -> str:
        token = self.next
        if token.kind == "quoted":
            self.take()
            return token.text[1:-1].replace("``", "`")
        if token.kind != "word" or token.text.upper() in KEYWORDS:
            raise self.error(f"want the name of a column, got {self.got()}")
        self.take()
        return token.text

    def list_of_values(self) -> list[Any]:
        if not self.take_sign("["):
            return [self.value()]
        if self.take_sign("]"):
            return []
        values = [self.value()]
        while self.take_sign(","):
            values.append(self.value())
        self.want_sign("]")
        return values

    def value(self) -> Any:
        token = self.next
        if token.kind == "string":
            self.take()
            try:
                return json.loads(token.text)
            except json.JSONDecodeError:
                raise self.error(f"{token.text} is no JSON string", token.at) from None
        if token.kind == "number":
            self.take()
            return json.loads(_no_leading_zeros(token.text))
        if token.kind == "word" and token.text.upper() in ("TRUE", "FALSE"):
            self.take()
            return token.text.upper() == "TRUE"
        if token.kind == "date" or (token.kind == "word" and token.text.upper() not in KEYWORDS):
            self.take()
            return token.text
        raise self.error(f"want a value, got {self.got()}")


def _no_leading_zeros(number: str) -> str:
    """JSON has no 007."""
    return re.sub(r"^(-?)0+(?=\d)", r"\1", number)

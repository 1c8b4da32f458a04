"""A filter written in the one-line form of :mod:`sidar.filters.text`."""

from __future__ import annotations

import json
from typing import Any

from sidar.filters.condition import Condition
from sidar.filters.conditions import DatetimeRange, HasId, IsEmpty, IsNull, Match, Range
from sidar.filters.text import BARE, COMPARE, KEYWORDS, Node
from sidar.filters.tree import Filter


def to_text(wanted: Filter) -> str:
    """Return a filter in one line; ``read_text`` of it allows the same items."""
    return _join(wanted)[0]


def _join(node: Node) -> tuple[str, bool]:
    """Return the text of a node, and whether it is one part that needs no parentheses."""
    if not isinstance(node, Filter):
        return _condition(node), True
    inside = (*node.must, *node.should)
    if len(inside) == 1 and not node.must_not and node.min_should is None:
        return _join(inside[0])
    parts = [_part(inner) for inner in node.must]
    if len(node.should) == 1:
        parts.append(_part(node.should[0]))
    elif node.should:
        parts.append("(" + " OR ".join(_part(inner) for inner in node.should) + ")")
    if node.min_should is not None:
        group = ", ".join(_join(inner)[0] for inner in node.min_should.conditions)
        parts.append(f"AT LEAST {node.min_should.min_count} OF ({group})")
    is_single = len(parts) == 1 and not node.must_not
    parts += [f"NOT {_part(inner)}" for inner in node.must_not]
    return (" AND ".join(parts), is_single) if parts else ("*", True)


def _part(node: Node) -> str:
    text, is_single = _join(node)
    return text if is_single else f"({text})"


def _condition(condition: Condition) -> str:
    if isinstance(condition, Match):
        return f"{_key(condition.key)} {_match(condition)}"
    if isinstance(condition, Range):
        return f"{_key(condition.key)} {_bounds(condition.range.model_dump())}"
    if isinstance(condition, DatetimeRange):
        bounds = condition.datetime_range.model_dump(mode="json")
        return f"{_key(condition.key)} {_bounds(bounds)}"
    if isinstance(condition, IsNull):
        return f"{_key(condition.is_null.key)} IS NULL"
    if isinstance(condition, IsEmpty):
        return f"{_key(condition.is_empty.key)} IS EMPTY"
    if isinstance(condition, HasId):
        return f"HAS_ID {_json(condition.has_id)}"
    return _json(condition.model_dump(mode="json", by_alias=True, exclude_defaults=True))


def _match(condition: Match) -> str:
    body = condition.match
    if body.any is not None:
        return f"IN {_json(body.any)}"
    if body.prefix is not None:
        return f"UNDER {_json(body.prefix)}"
    if body.except_ is not None:
        one = len(body.except_) == 1
        return f"!= {_json(body.except_[0])}" if one else f"NOT IN {_json(body.except_)}"
    return f"= {_json(body.value)}"


def _bounds(bounds: dict[str, Any]) -> str:
    given = {name: _json(value) for name, value in bounds.items() if value is not None}
    if len(given) == 1:
        ((name, value),) = given.items()
        sign = next(sign for sign, bound in COMPARE.items() if bound == name)
        return f"{sign} {value}"
    low, high = given.get("gte", given.get("gt")), given.get("lte", given.get("lt"))
    if {"gte", "lte"} <= given.keys():
        return f"{low} TO {high}"
    opening, closing = "{" if "gt" in given else "[", "}" if "lt" in given else "]"
    return f"{opening}{low} TO {high}{closing}"


def _key(key: str) -> str:
    if BARE.fullmatch(key) and key.upper() not in KEYWORDS:
        return key
    return "`" + key.replace("`", "``") + "`"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

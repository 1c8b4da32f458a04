"""A request filter as JSON: conditions under ``must``, ``should``, ``must_not``, ``min_should``.

The shape is Qdrant's. All four hold together; a list that is left out, or is empty, asks for
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    SerializeAsAny,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sidar.extensions import FILTERS
from sidar.filters.condition import Condition, FilterError
from sidar.filters.conditions import DatetimeRange, HasId, IsEmpty, IsNull, Match, Range

#: Largest nesting of a filter, conditions in it, and values in all its lists together.
MAX_DEPTH, MAX_CONDITIONS, MAX_VALUES = 16, 256, 10_000
_BUILT_IN = {
    "match": Match,
    "range": Range,
    "datetime_range": DatetimeRange,
    "is_null": IsNull,
    "is_empty": IsEmpty,
    "has_id": HasId,
}
_LISTS = ("must", "should", "must_not")
_GROUPS = (*_LISTS, "min_should")


def _of_plugin(value: Any) -> Condition:
    """Read a condition that a plug-in brings: the object with a field of its name."""
    if isinstance(value, Condition):
        return value
    fields = list(value) if isinstance(value, Mapping) else []
    for field in fields:
        if field not in _GROUPS and field in FILTERS:
            return FILTERS[field].model_validate(value)
    named = [field for field in fields if field != "key"]
    if not named:
        raise PydanticCustomError(
            "condition",
            "want a condition such as {example}, or a filter of must, should, must_not, min_should",
            {"example": '{"key": "brand", "match": {"value": "Acme"}}'},
        )
    text = FILTERS.unknown(str(named[0])[:60], sorted([*FILTERS.names(), *_GROUPS]))
    raise PydanticCustomError("condition", "condition {text}", {"text": text})


def _kind(value: Any) -> str:
    """Return which of the union's types ``value`` is meant to be."""
    for name, cls in _BUILT_IN.items():
        if isinstance(value, cls) or (isinstance(value, Mapping) and name in value):
            return name
    fields = set(value) if isinstance(value, Mapping) else set()
    is_group = isinstance(value, Mapping) and (not fields or fields & set(_GROUPS))
    return "filter" if isinstance(value, Filter) or is_group else "plugin"


OfPlugin = Annotated[
    SerializeAsAny[Condition],
    PlainValidator(_of_plugin),
    WithJsonSchema(
        {
            "title": "OfPlugin",
            "type": "object",
            "description": "A condition of a plug-in: the object with a field of its name.",
            # the schemas of a node exclude each other: every other one needs one of these fields
            "minProperties": 1,
            "not": {"anyOf": [{"required": [field]} for field in (*_BUILT_IN, *_GROUPS)]},
        }
    ),
]
Node = Annotated[
    Annotated[Match, Tag("match")]
    | Annotated[Range, Tag("range")]
    | Annotated[DatetimeRange, Tag("datetime_range")]
    | Annotated[IsNull, Tag("is_null")]
    | Annotated[IsEmpty, Tag("is_empty")]
    | Annotated[HasId, Tag("has_id")]
    | Annotated["Filter", Tag("filter")]
    | Annotated[OfPlugin, Tag("plugin")],
    Discriminator(_kind),
]


class MinShould(BaseModel):
    """At least ``min_count`` of the conditions hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conditions: tuple[Node, ...] = Field(min_length=1)
    min_count: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_count(self) -> MinShould:
        if self.min_count > len(self.conditions):
            raise PydanticCustomError(
                "min_count",
                "min_count is {count}, which {n} conditions can never reach",
                {"count": self.min_count, "n": len(self.conditions)},
            )
        return self


class Filter(BaseModel):
    """Which items a search may return; an empty one allows all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    must: tuple[Node, ...] = Field((), description="All of these hold.")
    should: tuple[Node, ...] = Field((), description="At least one of these holds.")
    must_not: tuple[Node, ...] = Field((), description="None of these holds.")
    min_should: MinShould | None = Field(None, description="At least some of these hold.")

    @property
    def is_empty(self) -> bool:
        """Whether it asks for nothing."""
        return not (self.must or self.should or self.must_not or self.min_should)

    def to_json(self) -> dict[str, Any]:
        """Return the filter as JSON, without what was not given."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    @property
    def key(self) -> str:
        """Text that is the same for filters of the same JSON."""
        return key_of(self)


def key_of(node: Filter | Condition) -> str:
    """Return text that is the same for nodes of the same JSON."""
    fields = node.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(fields, sort_keys=True)


def read_json(value: Mapping[str, Any]) -> Filter:
    """Return the filter of a JSON object; :class:`FilterError` names the place of what is wrong."""
    check_size(value)
    try:
        return Filter.model_validate(value)
    except ValidationError as error:
        raise FilterError("; ".join(_in_words(error))) from None


def _in_words(error: ValidationError) -> Iterator[str]:
    """Yield a line for each problem: ``must[0].range.gte: …``."""
    for problem in error.errors():
        where = ""
        # pydantic names the chosen type between a place in a list and the field
        after_place = False
        for part in problem["loc"]:
            if isinstance(part, int):
                where += f"[{part}]"
                after_place = True
                continue
            if not after_place:
                where += f".{part}" if where else part
            after_place = False
        yield f"{where}: {problem['msg']}" if where else problem["msg"]


def check_size(value: Any) -> None:
    """Raise :class:`FilterError` for a filter that is nested too deeply or too large.

    It walks without recursion: a hostile one is deeper than Python's stack.
    """
    open_nodes: list[tuple[Any, int]] = [(value, 1)]
    conditions = values = 0
    while open_nodes:
        node, depth = open_nodes.pop()
        if depth > 4 * MAX_DEPTH:  # a level of the filter is at most four of the JSON
            raise FilterError(f"the filter is nested more than {MAX_DEPTH} deep")
        if isinstance(node, Mapping):
            conditions += 1
            open_nodes += [(inner, depth + 1) for inner in node.values()]
        elif isinstance(node, (list, tuple)):
            open_nodes += [(inner, depth + 1) for inner in node]
        else:
            values += 1
        texts = node if isinstance(node, Mapping) else (node,)
        if any(isinstance(text, str) and not _is_unicode(text) for text in texts):
            raise FilterError("a text of the filter is no valid Unicode")
        if values > MAX_VALUES or conditions > 4 * MAX_CONDITIONS:
            raise FilterError(
                f"the filter is too large: at most {MAX_CONDITIONS} conditions and "
                f"{MAX_VALUES:,} values"
            )
    depth, conditions = size_of(value)
    if depth > MAX_DEPTH:
        raise FilterError(f"the filter is nested {depth} deep; at most {MAX_DEPTH}")
    if conditions > MAX_CONDITIONS:
        raise FilterError(f"the filter has {conditions:,} conditions; at most {MAX_CONDITIONS}")


def _is_unicode(text: str) -> bool:
    """JSON can escape half a character, which no answer could repeat."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def size_of(value: Any) -> tuple[int, int]:
    """Return the nesting of a filter's JSON, and how many conditions it has."""
    deepest = conditions = 0
    open_nodes: list[tuple[Any, int]] = [(value, 1)]
    while open_nodes:
        node, depth = open_nodes.pop()
        deepest = max(deepest, depth)
        if not isinstance(node, Mapping) or not set(node) & set(_GROUPS):
            conditions += isinstance(node, Mapping) and bool(node)
            continue
        inner = [node.get(name) for name in _LISTS]
        group = node.get("min_should")
        inner.append(group.get("conditions") if isinstance(group, Mapping) else None)
        for nodes in inner:
            if isinstance(nodes, (list, tuple)):
                open_nodes += [(one, depth + 1) for one in nodes]
    return deepest, conditions

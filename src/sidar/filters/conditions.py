"""The conditions that Sidar brings, in the JSON shape of Qdrant's filters.

A null value fails every condition but ``is_null`` and ``is_empty``; a list satisfies a condition if
any of its elements does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sidar.filters.columns import Column, Columns, Elements, to_microseconds
from sidar.filters.condition import Condition, FilterError, register_filter

#: A value of a column; a float is finite.
Value = StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictStr
Key = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="A catalogue column (brand, price, …) or attributes.<name>.",
    ),
]


class _Body(BaseModel):
    """A part of a condition: only fields that were given count."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MatchBody(_Body):
    """One of: a value, several of which one must be there, values to leave out, or the start of a
    path.
    """

    value: Value | None = Field(None, description="The value of the item, exactly.")
    any: tuple[Value, ...] | None = Field(None, description="One of these values.")
    except_: tuple[Value, ...] | None = Field(
        None, alias="except", description="A value, and none of these."
    )
    prefix: tuple[StrictStr, ...] | None = Field(
        None, description='First steps of a path: ["Home", "Kitchen"] holds for all below it.'
    )

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="after")
    def _check_one(self) -> MatchBody:
        parts = (self.value, self.any, self.except_, self.prefix)
        given = sum(part is not None for part in parts)
        if given != 1:
            raise PydanticCustomError(
                "match", "give one of value, any, except and prefix, not {given}", {"given": given}
            )
        if self.prefix is not None and not self.prefix:
            raise PydanticCustomError("match", "prefix needs at least one step of the path")
        return self


@register_filter("match")
class Match(Condition):
    """The item has this value, one of these, another than these, or a path that begins so."""

    key: Key
    match: MatchBody

    def mask(self, columns: Columns) -> np.ndarray:
        column = columns.column(self.key)
        body = self.match
        if body.prefix is not None:
            return column.rows(_below(column, body.prefix))
        if body.except_ is not None:
            return column.rows(_others(column, body.except_))
        values = body.any if body.any is not None else (body.value,)
        return column.rows(_equal(column, values))


class RangeBody(_Body):
    """Bounds of a number: gt or gte, lt or lte."""

    gt: float | None = Field(None, allow_inf_nan=False)
    gte: float | None = Field(None, allow_inf_nan=False)
    lt: float | None = Field(None, allow_inf_nan=False)
    lte: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_bounds(self) -> RangeBody:
        _check_bounds(self)
        return self


@register_filter("range")
class Range(Condition):
    """A number within bounds."""

    key: Key
    range: RangeBody

    def mask(self, columns: Columns) -> np.ndarray:
        column = columns.column(self.key)
        column.needs(column.numbers, "numbers", "match and datetime_range read other values")
        return column.rows(_within(column, column.numbers, self.range.model_dump()))


class DatetimeBody(_Body):
    """Bounds of a time, ISO 8601: gt or gte, lt or lte; UTC where no zone is named."""

    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_numbers(cls, data: Any) -> Any:
        """A number could be seconds, milliseconds or a day."""
        numbers = isinstance(data, dict) and any(isinstance(v, (int, float)) for v in data.values())
        if numbers:
            raise PydanticCustomError("time", 'want an ISO 8601 date or time, such as "2026-01-31"')
        return data

    @model_validator(mode="after")
    def _check_bounds(self) -> DatetimeBody:
        _check_bounds(self)
        return self


@register_filter("datetime_range")
class DatetimeRange(Condition):
    """A time within bounds; texts that are ISO 8601 dates are times."""

    key: Key
    datetime_range: DatetimeBody

    def mask(self, columns: Columns) -> np.ndarray:
        column = columns.column(self.key)
        column.needs(column.moments, "times", "range is for numbers, match for texts")
        bounds = {
            name: None if moment is None else to_microseconds(moment)
            for name, moment in self.datetime_range.model_dump().items()
        }
        return column.rows(_within(column, column.moments, bounds))


class KeyBody(_Body):
    """A column."""

    key: Key


@register_filter("is_null")
class IsNull(Condition):
    """The item has no value."""

    is_null: KeyBody

    def mask(self, columns: Columns) -> np.ndarray:
        column = columns.column(self.is_null.key)
        return column.rows(column.null)


@register_filter("is_empty")
class IsEmpty(Condition):
    """The item has no value, an empty list or an empty text."""

    is_empty: KeyBody

    def mask(self, columns: Columns) -> np.ndarray:
        column = columns.column(self.is_empty.key)
        return column.rows(column.empty)


@register_filter("has_id")
class HasId(Condition):
    """The item is one of these; ids that the catalogue lacks are none."""

    has_id: tuple[StrictStr, ...]

    def mask(self, columns: Columns) -> np.ndarray:
        return columns.ids(self.has_id)


def _check_bounds(body: RangeBody | DatetimeBody) -> None:
    given = {name for name, value in body.model_dump().items() if value is not None}
    if not given:
        raise PydanticCustomError("bounds", "give at least one of gt, gte, lt and lte")
    for pair in ({"gt", "gte"}, {"lt", "lte"}):
        if pair <= given:
            raise PydanticCustomError(
                "bounds", "give {names}, not both", {"names": " or ".join(sorted(pair))}
            )


def _within(column: Column, elements: Elements | None, bounds: dict[str, Any]) -> np.ndarray:
    """Return (U,) bool: one element satisfies all bounds."""
    tests = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}

    def holds(values: np.ndarray) -> np.ndarray:
        inside = np.ones(len(values), bool)
        for name, bound in bounds.items():
            if bound is not None:
                inside &= tests[name](values, bound)
        return inside

    return column.where(elements, holds)


def _typed(column: Column, values: Sequence[Any]) -> list[tuple[Elements | None, list[Any]]]:
    """Return ``values`` by the elements of their type; :class:`FilterError` where the column has
    none of a type.
    """
    kinds = (
        (column.booleans, "booleans", [v for v in values if isinstance(v, bool)]),
        (column.texts, "text", [v for v in values if isinstance(v, str)]),
        (
            column.numbers,
            "numbers",
            [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)],
        ),
    )
    for elements, kind, wanted in kinds:
        if wanted and elements is None and column.kinds:
            advice = "datetime_range reads times" if column.times else f"got {wanted[0]!r}"
            column.needs(elements, kind, advice)
    return [(elements, wanted) for elements, _, wanted in kinds]


def _equal(column: Column, values: Sequence[Any]) -> np.ndarray:
    """Return (U,) bool: one element is one of ``values``."""
    slots = np.zeros(len(column.null), bool)
    for elements, wanted in _typed(column, values):
        if wanted:
            slots |= column.where(elements, partial(_is_in, wanted))
    return slots


def _others(column: Column, values: Sequence[Any]) -> np.ndarray:
    """Return (U,) bool: one element is none of ``values``."""
    slots = np.zeros(len(column.null), bool)
    for elements, wanted in _typed(column, values):
        slots |= column.where(elements, partial(_is_not_in, wanted))
    return slots | column.where(column.times, lambda found: np.ones(len(found), bool))


def _is_in(wanted: list[Any], found: np.ndarray) -> np.ndarray:
    """Return (m,) bool: where ``found`` is one of ``wanted``, values of the same type."""
    if not wanted:
        return np.zeros(len(found), bool)
    if found.dtype != object:
        return np.isin(found, wanted)
    if len(wanted) == 1:
        return np.asarray(found == wanted[0], bool)
    chosen = set(wanted)
    return np.fromiter((value in chosen for value in found), bool, len(found))


def _is_not_in(wanted: list[Any], found: np.ndarray) -> np.ndarray:
    return ~_is_in(wanted, found)


def _below(column: Column, prefix: tuple[str, ...]) -> np.ndarray:
    """Return (U,) bool: slots whose list begins with ``prefix``."""
    if not len(column.paths):
        if column.kinds:
            raise FilterError(f"{column.key} holds no paths (lists of text), which prefix reads")
        return np.zeros(len(column.null), bool)
    depth = len(prefix)
    starts = (path is not None and path[:depth] == prefix for path in column.paths)
    return np.fromiter(starts, bool, len(column.paths))

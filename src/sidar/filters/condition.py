"""A condition on items: the part of a request filter that plug-ins may add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from sidar.extensions import FILTERS, check_class, check_name

if TYPE_CHECKING:
    import numpy as np

    from sidar.filters.columns import Columns


class FilterError(ValueError):
    """A filter cannot be read, or asks for what the catalogue does not have."""


class Condition(BaseModel, ABC):
    """A condition as JSON has it: an object with one field that has the condition's name.

    ``{"key": "price", "range": {"gte": 10}}`` is a condition called ``range``. One of your own is a
    subclass that declares that field (docs/extending.md).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def mask(self, columns: Columns) -> np.ndarray:
        """Return (N,) bool: the catalogue rows where the condition holds.

        ``columns.column(key)`` reads a column; :class:`FilterError` says what cannot be asked.
        """


T = TypeVar("T", bound=type[Condition])


def register_filter(name: str) -> Callable[[T], T]:
    """Return a class decorator: a filter's JSON object with the field ``name`` is this condition.

    ``TypeError`` where the class is no :class:`Condition`, or does not declare that field.
    """
    check_name(name, "register_filter")

    def add(cls: T) -> T:
        check_class(cls, Condition, "register_filter")
        fields: dict[str, FieldInfo] = cls.__pydantic_fields__
        if name not in fields:
            raise TypeError(
                f"{cls.__name__} must declare the field {name!r}: a condition is the JSON object "
                "that has the field of its name"
            )
        FILTERS.add(name, cls, cls.__module__)
        return cls

    return add

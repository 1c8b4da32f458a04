"""What the user reads of a wrong ``sidar.yaml``: one line per fault, in words of the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticCustomError


def no_option(name: str, options: Iterable[str]) -> str:
    """Return what to tell where ``name`` is none of a section's ``options``."""
    known = list(options)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"there is no such option; did you mean {near[0]}?"
    return "there is no such option" + (f"; want one of {', '.join(known)}" if known else "")


def plugin_fault(key: str, says: str, deeper: bool = False) -> PydanticCustomError:
    """Return an error of the option ``key`` of a section; ``deeper``: ``says`` begins with a path
    below it.
    """
    return PydanticCustomError(
        "plugin_option", "{says}", {"key": key, "says": says, "deeper": deeper}
    )


def fault_lines(faults: Iterable[Mapping[str, Any]], model: type[BaseModel]) -> list[str]:
    """Return one line per fault of a config that ``model`` reads.

    Unknown options come first: a misspelt ``plugins`` is why parts are not known further down.
    """
    ordered = sorted(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    return [_line(fault, model) for fault in ordered]


def _line(fault: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Return one fault with the path of its option."""
    path = ".".join(map(str, fault["loc"]))
    kind, says, value = fault["type"], fault["msg"], fault.get("input")
    if kind == "plugin_option":
        key, deeper = fault["ctx"]["key"], fault["ctx"]["deeper"]
        return f"{path}{'.' if path else ''}{key}{'.' if deeper else ': '}{says}"
    if kind == "extra_forbidden":
        section = _section(model, fault["loc"])
        says = no_option(str(fault["loc"][-1]), section.model_fields if section else ())
    elif kind == "value_error":
        says = says.removeprefix("Value error, ")
        if not path:  # of the whole file: the message names its options
            return says
    elif kind == "string_type" and isinstance(value, (bool, int, float, date)):
        says += f"; YAML reads it as {value!r}: quote it"
    elif kind == "list_type" and isinstance(value, str):
        says += f"; write [{value}]"
    return f"{path or 'config'}: {says}"


def _section(model: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the section that holds the option at ``path``; None where several could."""
    section: type[BaseModel] | None = model
    for step in path[:-1]:
        field = section.model_fields.get(str(step)) if section else None
        if field is None:  # the number of an entry, or which alternative was tried
            continue
        inside = _models(field.annotation)
        section = inside[0] if len(inside) == 1 else None
    return section


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections inside a type such as ``list[EvalSet] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]

"""Category paths and attributes from the shapes in which catalogues hold them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

#: Keys under which a category object may hold its name, the first that is there.
NAME_KEYS = (
    "name",
    "title",
    "label",
    "category_name",
    "categoryName",
    "display_name",
    "value",
    "text",
)
#: Separators that catalogues use, in the order in which they are suggested.
SEPARATORS = (
    " > ",
    " >> ",
    " / ",
    " | ",
    " » ",
    " › ",
    " -> ",
    " :: ",
    ">>",
    ">",
    "|",
    "/",
    "›",
    "»",
    "\\",
    ";",
    ":",
    ",",
)
_LEVEL = re.compile(r"(?:lvl|level|l|cat|category)[ _-]?(\d+)(?:[ _-]?name)?", re.IGNORECASE)
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_ARRAY = re.compile(r"^array\((\[.*\])(?:,\s*dtype=[^)]*)?\)$", re.DOTALL)


def category_path(text: str, separator: str) -> list[str] | None:
    """Return the path that a list or an object, written as JSON or as Python, stands for; None
    where there is none.

    A list of names is the path.  Of several paths (a list of lists, or names that hold the
    separator) the longest counts, the last of equally long ones.  Objects count by their name
    (:data:`NAME_KEYS`) or their levels (``lvl0``, ``lvl1`` …).
    """
    value = parsed(text)
    return None if value is None else _path(value, separator)


def attributes_json(text: str) -> str | None:
    """Return attributes as a JSON object: from JSON or Python, an object or a list of names with
    values; else None.
    """
    value = parsed(text)
    if isinstance(value, list):
        value = _pairs(value)
    if not isinstance(value, dict):
        return None
    return json.dumps(value, ensure_ascii=False, default=str)


def parsed(text: str) -> Any:
    """Return the list or object that ``text`` writes as JSON, Python, or as numpy prints it; None
    where it does not.
    """
    text = _ARRAY.sub(r"\1", text.strip())
    value: Any = None
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    except RecursionError:
        return None
    if (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], str)
        and text[:1] == "["
        and "," not in text
    ):
        printed = [single or double for single, double in _QUOTED.findall(text)]
        if len(printed) > 1:  # numpy's ['a' 'b'] is one name to Python
            value = printed
    if isinstance(value, (tuple, set, frozenset)):
        value = list(value)
    return value if isinstance(value, (list, dict)) else None


def suggested_separator(texts: Iterable[str]) -> str:
    """Return the first separator that at least half of ``texts`` hold; empty where
    there is none.
    """
    texts = list(texts)
    for separator in SEPARATORS:
        if 2 * sum(separator in text for text in texts) >= max(len(texts), 1):
            return separator
    return ""


def _path(value: Any, separator: str) -> list[str] | None:
    if isinstance(value, str):
        return (
            [part.strip() for part in value.split(separator) if part.strip()]
            if separator
            else [value]
        )
    if isinstance(value, bool) or value is None or value != value:  # the last: NaN
        return []
    if isinstance(value, (int, float)):
        return [str(int(value)) if float(value).is_integer() else str(value)]
    if isinstance(value, dict):
        return _object_path(value, separator)
    parts = [_path(element, separator) for element in value]
    if any(part is None for part in parts):
        return None
    paths = [part for part in parts if part]
    nested = any(isinstance(element, (list, tuple)) for element in value)
    if nested or any(len(path) > 1 for path in paths):
        return max(reversed(paths), key=len, default=[])
    return [name for path in paths for name in path]


def _object_path(value: dict, separator: str) -> list[str] | None:
    levels = {int(match[1]): value[key] for key in value if (match := _LEVEL.fullmatch(str(key)))}
    if levels:
        return _path([levels[level] for level in sorted(levels)], separator)
    for key in NAME_KEYS:
        if isinstance(value.get(key), (str, int, float)):
            return _path(value[key], separator)
    for inner in value.values():  # {"categories": [...]}, or a language: {"en": "Lamps"}
        if len(value) == 1:
            return _path(inner, separator)
    return None


def _pairs(value: list) -> dict | None:
    """Return ``[{"name": "color", "value": "red"}, …]`` or a list of objects as one object; None
    for anything else.
    """
    merged: dict = {}
    for entry in value:
        if not isinstance(entry, dict):
            return None
        names = [
            entry[key]
            for key in ("name", "key", "attribute", "label", "code")
            if isinstance(entry.get(key), str)
        ]
        if names and "value" in entry:
            entry = {names[0]: entry["value"]}
        for key, inner in entry.items():
            if key in merged:
                known = merged[key] if isinstance(merged[key], list) else [merged[key]]
                inner = [*known, inner]
            merged[key] = inner
    return merged

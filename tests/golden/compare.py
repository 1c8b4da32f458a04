"""How a recording is compared with what the code does today."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from golden.kept import RECORDED
from golden.observe import machine

#: Largest difference of a score that a search returns.
SCORE = 1e-5
#: Largest difference of a figure of the toy run.
FIGURE = 1e-4


@cache
def recorded(name: str) -> Any:
    """Return a recording that is kept as JSON."""
    return json.loads((RECORDED / f"{name}.json").read_text())


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """Return a recording that is kept as ``npz``."""
    with np.load(RECORDED / f"{name}.npz") as file:
        return dict(file)


def here() -> bool:
    """Return whether processor, torch and NumPy are those of the recording."""
    return machine() == recorded("machine")


def as_json(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    return json.loads(json.dumps(value))


def check_close(now: Any, before: Any, where: str, *, atol: float, rtol: float = 0.0) -> None:
    """Fail where shapes differ, or numbers by more than ``atol + rtol · |before|``."""
    now, before = np.asarray(now), np.asarray(before)
    assert now.shape == before.shape, f"{where}: shape {now.shape}, recorded {before.shape}"
    if before.dtype.kind in "bi":
        np.testing.assert_array_equal(now, before, err_msg=where)
    else:
        np.testing.assert_allclose(now, before, atol=atol, rtol=rtol, err_msg=where)


def check_numbers(now: Any, before: Any, where: str, *, atol: float, rtol: float = 0.0) -> None:
    """Fail where two JSON values differ: numbers closely, everything else exactly."""
    now, before = dict(leaves(now)), dict(leaves(before))
    assert sorted(now) == sorted(before), f"{where}: {sorted(set(now) ^ set(before))}"
    for path, value in before.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            check_close(now[path], value, f"{where}{path}", atol=atol, rtol=rtol)
        else:
            assert now[path] == value, f"{where}{path}: {now[path]!r}, recorded {value!r}"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(path, leaf)`` of nested dicts and lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        yield f"{path}/length", len(value)
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{number}")
    else:
        yield path, value


def differences(
    now: Mapping[str, Any], before: Mapping[str, Any], new: frozenset[str] = frozenset()
) -> list[str]:
    """Return what differs between two maps, key by key; keys in ``new`` may have come."""
    found = [f"{key} is gone" for key in before.keys() - now.keys()]
    found += [f"{key} is new" for key in now.keys() - before.keys() - new]
    found += [
        f"{key}: {now[key]!r}, recorded {before[key]!r}"
        for key in before.keys() & now.keys()
        if now[key] != before[key]
    ]
    return sorted(found)

"""What the recordings hold of the surface: the command line and the keys of ``sidar.yaml``.

The functions of this module, ``answers.py`` and ``toyrun.py`` return plain values. ``record.py``
writes them, and the tests compare them with what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from golden import entry

Json = dict[str, Any]


def machine() -> Json:
    """Return what bits of floating-point results depend on: processor, torch, NumPy."""
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    )
    facts = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    cpu = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    return {"cpu": cpu, "torch": torch.__version__, "numpy": np.__version__}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside, as the recordings were made."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------- command line


def commands() -> dict[str, Json]:
    """Return ``{command: {"help": …, "parameters": {name: …}}}`` of commands and groups."""
    found: dict[str, Json] = {}
    _walk("sidar", typer.main.get_command(entry.app), found)
    return found


def _walk(path: str, command: Any, found: dict[str, Json]) -> None:
    parameters = {}
    for parameter in command.params:
        if parameter.name != "help":
            about = _parameter(parameter)
            parameters[about.pop("name")] = about
    found[path] = {"help": command.help, "parameters": parameters}
    for name, inner in getattr(command, "commands", {}).items():
        _walk(f"{path} {name}", inner, found)


def _parameter(parameter: Any) -> Json:
    """Return a parameter: its longest name, kind, names, type, default and help."""
    options = parameter.param_type_name == "option"
    default, annotation = parameter.default, parameter.type_descriptor.annotation
    return {
        "name": max(parameter.opts, key=len) if options else parameter.name,
        "kind": parameter.param_type_name,
        "names": [*parameter.opts, *parameter.secondary_opts] if options else [],
        "type": getattr(annotation, "__name__", str(annotation)),
        "flag": bool(getattr(parameter, "is_flag", False)),
        "many": bool(parameter.multiple or parameter.nargs != 1),
        "required": bool(parameter.required),
        "default": default
        if default is None or isinstance(default, (bool, int, float))
        else str(default),
        "help": parameter.help,
    }


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Run ``sidar`` in this process; return exit code, standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["sidar", *map(str, arguments)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            entry.main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    return int(code or 0), out.getvalue(), err.getvalue()


# ---------------------------------------------------------------------- sidar.yaml


def yaml_keys() -> dict[str, Json]:
    """Return ``{path of a YAML key: {"type", "default", "limits", "description"}}`` from ``sidar
    init --schema``.

    A list of sections is written ``evaluate.sets[]``.
    """
    code, text, _ = call("init", "--schema")
    assert code == 0
    schema = json.loads(text)
    keys: dict[str, Json] = {}
    _section("", schema, schema["$defs"], keys)
    return keys


def _section(prefix: str, section: Json, definitions: Json, keys: dict[str, Json]) -> None:
    for name, about in section["properties"].items():
        path = prefix + name
        spoken = _shape(about, definitions, path, keys)
        limits = {k: v for k, v in about.items() if k not in _NO_LIMITS}
        keys[path] = {
            "type": spoken,
            "required": name in section.get("required", ()),
            "default": about.get("default"),
            "limits": limits,
            "description": about.get("description"),
        }


_NO_LIMITS = {
    "$ref",
    "anyOf",
    "type",
    "title",
    "default",
    "description",
    "items",
    "enum",
    "const",
    "properties",
}
_NO_LIMITS |= {"propertyNames", "additionalProperties"}


def _shape(about: Json, definitions: Json, path: str, keys: dict[str, Json]) -> str:
    """Return the type of a value in words, and enter the keys of sections below it."""
    if "$ref" in about:
        inner = definitions[about["$ref"].rsplit("/", 1)[-1]]
        _section(f"{path}.", inner, definitions, keys)
        return "section" if inner.get("additionalProperties") is False else "open section"
    if "anyOf" in about:
        return " | ".join(_shape(one, definitions, path, keys) for one in about["anyOf"])
    if "const" in about:
        return json.dumps(about["const"])
    if "enum" in about:
        return " | ".join(map(json.dumps, about["enum"]))
    if about["type"] == "array":
        return f"list of {_shape(about['items'], definitions, f'{path}[]', keys)}"
    if about["type"] == "object":
        names = about.get("propertyNames")
        name = "text" if names is None else _shape(names, definitions, path, keys)
        value = about.get("additionalProperties")
        if isinstance(value, dict):
            return f"map of {name} to {_shape(value, definitions, path, keys)}"
        return f"map of {name} to anything"
    exclusive = {k: v for k, v in about.items() if k not in _NO_LIMITS}
    return about["type"] + (
        f" {json.dumps(exclusive)}" if exclusive and path.endswith("[]") else ""
    )

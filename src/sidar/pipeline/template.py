"""The commented ``sidar.yaml`` that ``sidar init`` writes, and its JSON Schema: both come from the config classes."""

from __future__ import annotations

import json
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sidar.config import Config

HEADER = """\
# Sidar: one file describes a run. Delete what you do not change; every line below is a default.
# Relative paths are relative to this file. `sidar run -c sidar.yaml key.sub=value` overrides from the shell.
# Run `sidar run --dry-run` to see what would run and why.
"""


def json_schema() -> str:
    """The JSON Schema of sidar.yaml, for editors."""
    return json.dumps(Config.model_json_schema(), indent=1)


def commented_yaml() -> str:
    """A YAML file with every option, its default and its description."""
    return HEADER + "\n".join(_lines(Config(), 0)) + "\n"


def _lines(part: BaseModel, indent: int) -> list[str]:
    pad, lines = "  " * indent, []
    for name, field in type(part).model_fields.items():
        value: Any = getattr(part, name)
        if isinstance(value, BaseModel):
            doc = (type(value).__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{pad}{name}:  # {doc}", *_lines(value, indent + 1)]
            continue
        if value is PydanticUndefined:
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
        comment = f"  # {field.description}" if field.description else ""
        lines.append(f"{pad}{name}: {text}{comment}")
    return lines

"""The commented ``sidar.yaml`` that ``sidar init`` writes, and its JSON Schema: both come from the config classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sidar.config import Config

HEADER = """\
# Sidar: one file describes a run. Delete what you do not change; every line below is a default.
# `sidar init --full` writes every option there is.
# Relative paths are relative to this file. `sidar run -c sidar.yaml key.sub=value` overrides from the shell.
# Run `sidar run --dry-run` to see what would run and why.
"""

#: The options that people change; `sidar init` writes these, `sidar init --full` all.
USUAL = (
    *("name", "threads", "catalogue.path", "catalogue.columns", "catalogue.category_separator"),
    *("events.path", "events.format", "events.columns", "events.actions", "events.first_position"),
    *("users.path", "users.profile", "privacy.salt", "split.unit", "split.test_days", "split.valid_days"),
    *("embed.model", "lm.backbone", "sft.steps", "align.steps", "preference.negatives", "evaluate.sets"),
)
#: What stands below an option whose default shows nothing of its form.
EXAMPLES = {
    "catalogue.columns": "{item_id: sku, title: name}",
    "events.columns": "{item_id: sku, query: search_term}",
    "events.actions": "{view: impression, buy: order}  # without a column of actions every row is a click",
    "evaluate.sets": "[{name: judged, queries: queries.tsv, qrels: qrels.tsv}]  # query_id, query; "
    "query_id, item_id, grade",
}


def json_schema() -> str:
    """The JSON Schema of sidar.yaml, for editors."""
    return json.dumps(Config.model_json_schema(), indent=1)


def commented_yaml(full: bool = False) -> str:
    """A YAML file with the usual options, or with every one, their defaults and descriptions."""
    return HEADER + "\n".join(_lines(Config(), 0, "", None if full else USUAL)) + "\n"


def _lines(part: BaseModel, indent: int, prefix: str, wanted: Sequence[str] | None) -> list[str]:
    """Lines of ``part``, whose keys begin with ``prefix``; ``wanted`` are the keys to write, None = all."""
    pad = "  " * indent
    lines: list[str] = []
    for name, field in type(part).model_fields.items():
        value: Any = getattr(part, name)
        key = prefix + name
        if isinstance(value, BaseModel):
            doc = (type(value).__doc__ or "").strip().splitlines()[0]
            inner = _lines(value, indent + 1, f"{key}.", wanted)
            lines += ["", f"{pad}{name}:  # {doc}", *inner] if inner else []
            continue
        if value is PydanticUndefined or (wanted is not None and key not in wanted):
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
        comment = f"  # {field.description}" if field.description else ""
        lines.append(f"{pad}{name}: {text}{comment}")
        if key in EXAMPLES:
            lines.append(f"{pad}# {name}: {EXAMPLES[key]}")
    return lines

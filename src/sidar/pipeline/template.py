"""The commented ``sidar.yaml`` that ``sidar init`` writes, and its JSON Schema: both come from the
config classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sidar.config import (
    AlignConfig,
    Config,
    EvaluateConfig,
    Extensible,
    RewardsConfig,
    SidConfig,
)
from sidar.extensions import CHANNELS, Registry, load_plugins
from sidar.types import Json

HEADER = """\
# Sidar: one file describes a run. Delete what you do not change; every line below is a default.
# `sidar init --full` writes every option there is.
# Relative paths are relative to this file. `sidar run -c sidar.yaml key.sub=value` \
overrides from the shell.
# Run `sidar run --dry-run` to see what would run and why.
"""

#: The options that people change; `sidar init` writes these, `sidar init --full` all.
USUAL = (
    *("name", "threads", "catalogue.path", "catalogue.columns", "catalogue.category_separator"),
    *("events.path", "events.format", "events.columns", "events.actions", "events.first_position"),
    *(
        "users.path",
        "users.profile",
        "privacy.salt",
        "split.unit",
        "split.test_days",
        "split.valid_days",
    ),
    *(
        "embed.model",
        "lm.backbone",
        "sft.steps",
        "align.steps",
        "preference.negatives",
        "evaluate.sets",
    ),
)
#: What stands below an option whose default shows nothing of its form.
EXAMPLES = {
    "catalogue.columns": "{item_id: sku, title: name}",
    "events.columns": "{item_id: sku, query: search_term}",
    "events.actions": (
        "{view: impression, buy: order}  # without a column of actions every row is a click"
    ),
    "evaluate.sets": "[{name: judged, queries: queries.tsv, qrels: qrels.tsv}]  # query_id, query; "
    "query_id, item_id, grade",
}
#: Sections in which plug-ins have sections of their own.
SECTIONS: dict[str, type[Extensible]] = {
    "sid": SidConfig,
    "align": AlignConfig,
    "align.rewards": RewardsConfig,
    "evaluate": EvaluateConfig,
}


def json_schema(plugins: Sequence[str] = ()) -> str:
    """Return the JSON Schema of sidar.yaml, for editors, with the options of installed and given
    plug-ins.
    """
    load_plugins(plugins)
    schema = Config.model_json_schema()
    for section in SECTIONS.values():
        described = schema["$defs"][section.__name__]
        described["additionalProperties"] = False
        for name, options in plugin_options(section.registry).items():
            described["properties"][name] = _schema_of(options, schema)
    if CHANNELS.external():
        channels: Json = {name: {"type": "object"} for name in CHANNELS.external()}
        for name, options in plugin_options(CHANNELS).items():
            channels[name] = _schema_of(options, schema)
        schema["properties"]["channels"] |= {
            "properties": channels,
            "additionalProperties": False,
        }
    return json.dumps(schema, indent=1)


def _schema_of(options: type[BaseModel], schema: Json) -> Json:
    """Return the schema of a part's options; its definitions go into ``schema``."""
    described = options.model_json_schema(ref_template="#/$defs/{model}")
    schema["$defs"] |= described.pop("$defs", {})
    return described


def plugin_options(registry: Registry[Any]) -> dict[str, type[BaseModel]]:
    """Return the options that plug-ins bring, by the name of their part."""
    found = {name: registry.options(name) for name in registry.external()}
    return {name: options for name, options in found.items() if options is not None}


def commented_yaml(
    full: bool = False, plugins: Sequence[str] = (), folder: Path | None = None
) -> str:
    """Return a YAML file with the usual options, or with every one, their defaults and
    descriptions.

    ``plugins`` are imported, and their options written with either; paths of files are written
    relative to ``folder``, where the YAML file will stand.
    """
    load_plugins(plugins)
    cfg = Config().model_copy(
        update={"plugins": [_seen_from(folder, plugin) for plugin in plugins]}
    )
    wanted = None if full else (*USUAL, *(["plugins", *_plugin_keys()] if plugins else []))
    return HEADER + "\n".join(_lines(cfg, 0, "", wanted)) + "\n"


def _seen_from(folder: Path | None, plugin: str) -> str:
    """Return the path of a plug-in's file as it is seen from ``folder``; other plug-ins and whole
    paths as given.
    """
    if folder is None or not plugin.endswith(".py") or Path(plugin).is_absolute():
        return plugin
    return Path(os.path.relpath(plugin, folder)).as_posix()


def _plugin_keys() -> list[str]:
    """Return the options that name and set the parts of plug-ins, such as ``sid.method`` and
    ``sid.mine.size``.
    """
    keys = ["channels"] if CHANNELS.external() else []
    for name, section in SECTIONS.items():
        if section.registry.external():
            keys.append(section.registry.key)
        for part, options in plugin_options(section.registry).items():
            keys += [f"{name}.{part}.{option}" for option in options.model_fields]
    return keys


def _example(key: str) -> str | None:
    """Return what stands below an option; of channels, those that there are with their options."""
    if key != "channels" or not CHANNELS.external():
        return EXAMPLES.get(key)
    channels: Json = {name: {} for name in CHANNELS.external()}
    for name, options in plugin_options(CHANNELS).items():
        channels[name] = _defaults(options).model_dump(mode="json", warnings=False)
    return yaml.safe_dump(channels, default_flow_style=True, width=10_000).strip()


def _summary(section: type[BaseModel]) -> str:
    """Return the first paragraph of a section's docstring as one line."""
    return " ".join((section.__doc__ or "").strip().partition("\n\n")[0].split())


def _defaults(options: type[BaseModel]) -> BaseModel:
    """Return the defaults of a part's options; null stands where the user has to say something."""
    required = [name for name, field in options.model_fields.items() if field.is_required()]
    return options.model_construct(None, **dict.fromkeys(required)) if required else options()


def _choice(section: Extensible, name: str) -> str:
    """Return what to write at the option that names parts to choose the part ``name``."""
    option = section.registry.key.rpartition(".")[2]
    chooses_several = isinstance(getattr(section, option, None), list)
    return f"[{name}]" if chooses_several else name


def _lines(part: BaseModel, indent: int, prefix: str, wanted: Sequence[str] | None) -> list[str]:
    """Lines of ``part``, whose keys begin with ``prefix``; ``wanted`` are the keys to write, None =
    all.
    """
    pad = "  " * indent
    lines: list[str] = []
    values = {name: getattr(part, name) for name in type(part).model_fields}
    of_plugins = plugin_options(part.registry) if isinstance(part, Extensible) else {}
    values |= {name: _defaults(options) for name, options in of_plugins.items()}
    for name, value in values.items():
        field = type(part).model_fields.get(name)
        key = prefix + name
        if isinstance(value, BaseModel):
            doc = _summary(type(value)) or f"Options of {name}."
            if isinstance(part, Extensible) and name in of_plugins:
                doc = f"{doc.rstrip('.')}. Chosen by {part.registry.key}: {_choice(part, name)}."
            inner = _lines(value, indent + 1, f"{key}.", wanted)
            lines += ["", f"{pad}{name}:  # {doc}", *inner] if inner else []
            continue
        if value is PydanticUndefined or (wanted is not None and key not in wanted):
            continue
        text = (
            yaml.safe_dump(value, default_flow_style=True, width=10_000)
            .strip()
            .removesuffix("\n...")
            .strip()
        )
        comment = f"  # {field.description}" if field is not None and field.description else ""
        lines.append(f"{pad}{name}: {text}{comment}")
        if (example := _example(key)) is not None:
            lines.append(f"{pad}# {name}: {example}")
    return lines

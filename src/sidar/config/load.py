"""Reading ``sidar.yaml`` with overrides: ``key.sub=value`` on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sidar.config.faults import fault_lines
from sidar.config.whole import Config


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: keys are text (``0:``, ``yes:``, dates), so are names of columns and
    actions.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Read keys as they are written, and everything below ``columns``, ``actions`` and
        ``profile``.
        """
        for i, (key, value) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key = _as_text(key)
                node.value[i] = key, _texts(value) if _is_text(key.value) else value
        return super().construct_mapping(node, deep)


def _is_text(key: str) -> bool:
    """Return whether an option maps or lists names of the user's own."""
    return key in ("columns", "actions", "profile")


def _as_text(node: yaml.ScalarNode) -> yaml.ScalarNode:
    return yaml.ScalarNode(
        "tag:yaml.org,2002:str", node.value, node.start_mark, node.end_mark, node.style
    )


def _texts(node: yaml.Node) -> yaml.Node:
    """Return a mapping or list with its scalars as they are written; empty ones and null stay
    nothing.
    """
    if isinstance(node, yaml.MappingNode):
        node.value = [(key, _texts(value)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        node.value = [_texts(value) for value in node.value]
    elif isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null":
        return _as_text(node)
    return node


def load_config(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """Read a config file and apply ``key.sub=value`` overrides (values are YAML).

    Relative paths, those in overrides too, are taken from the file's folder, or the working folder
    without a file. Raises ``ValueError`` with one line per wrong field, naming the field and what
    it wants.
    """
    raw: dict[str, Any] = {}
    base = Path.cwd()
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"config file {file} does not exist; write one with `sidar init`")
        try:
            raw = yaml.load(file.read_text(), _Loader) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is not valid YAML: {error}") from error
        if not isinstance(raw, dict):
            raise ValueError(f"{file} must hold a mapping of sections, got {type(raw).__name__}")
        base = file.resolve().parent
    for override in overrides or []:
        key, sep, value = override.partition("=")
        if not sep:
            raise ValueError(f"override {override!r} is not key=value")
        node = raw
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"override {override!r}: {part} is not a section")
        try:
            if _is_text(last) or (parents and _is_text(parents[-1])):
                value = (
                    json.dumps(last) + ": " + value
                    if _is_text(last)
                    else f"columns: {{{json.dumps(last)}: {value}}}"
                )
                value_read = yaml.load(value, _Loader)
                node[last] = value_read[last] if _is_text(last) else value_read["columns"][last]
            else:
                node[last] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"override {override!r}: {value!r} is not a YAML value") from error
    _drop_retired(raw)
    if isinstance(raw.get("plugins"), list):  # before they are imported, unlike all other paths
        raw["plugins"] = [_plugin_path(plugin, base) for plugin in raw["plugins"]]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = fault_lines(error.errors(), Config)
        raise ValueError(f"{path or 'config'}: " + "; ".join(lines)) from error
    _anchor(config, base)
    return config


def _plugin_path(plugin: Any, base: Path) -> Any:
    """Return the path of a plug-in's file under ``base``; a module's name as it is."""
    return str(base / plugin) if isinstance(plugin, str) and plugin.endswith(".py") else plugin


#: Options that older versions had, and what to do instead; they are left out with this notice.
RETIRED = {
    (
        "decode",
        "item_beam",
    ): "tables, tuning and bundle search with one width, decode.beam; for one more row of a "
    "wider beam set evaluate.wide_beam",
    ("decode", "search_beam"): "tables, tuning and bundle search with one width, decode.beam",
}


def _drop_retired(raw: dict[str, Any]) -> None:
    """Remove options of older versions from ``raw`` and say on the error stream
    what replaces them.
    """
    for (section, key), instead in RETIRED.items():
        part = raw.get(section)
        if isinstance(part, dict) and key in part:
            del part[key]
            print(
                f"note: {section}.{key} is no longer an option and is left out: {instead}",
                file=sys.stderr,
            )


#: Names of encoders and backbones that are never folders, whatever lies beside the file
#: (``hashing:64`` likewise).
BUILT_IN = ("minilm", "hashing", "embedded")


def _anchor(config: Config, base: Path) -> None:
    """Make the file's relative paths relative to ``base``; a model is a name unless its folder is
    there.
    """
    anchored = [
        (config, "runs"),
        (config.catalogue, "path"),
        (config.events, "path"),
        (config.users, "path"),
    ]
    anchored += [(config.sid.table, "path"), (config, "warm_start"), (config.memory, "key_file")]
    anchored += [(config.serve, "store"), (config.serve, "answers_log")]
    anchored += [(held, "queries") for held in config.data.held_out or []]
    for part, name in [
        *anchored,
        *((s, n) for s in config.evaluate.sets for n in ("queries", "qrels")),
    ]:
        value = getattr(part, name)
        # a store may be the URL of a server
        if value and "://" not in value and not Path(value).is_absolute():
            setattr(part, name, str(base / value))
    config.serve.bundles = {
        name: folder if Path(folder).is_absolute() else str(base / folder)
        for name, folder in config.serve.bundles.items()
    }
    for part, name in ((config.embed, "model"), (config.lm, "backbone")):
        value = getattr(part, name)
        named = value.partition(":")[0] in BUILT_IN
        if value and not named and not Path(value).is_absolute() and (base / value).exists():
            setattr(part, name, str(base / value))

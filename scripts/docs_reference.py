"""Write the reference pages of the documentation site from the code, as a hook of mkdocs.

A page says where its generated part belongs by a line such as ``<!-- from the code: cli -->``.
Nothing generated is committed: on GitHub the page shows its introduction only.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parent.parent
MARK = re.compile(r"^<!-- from the code: (\w+) -->$", re.MULTILINE)
#: A link to a file: text, path, anchor.
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
#: Roles of Sphinx in docstrings, which Markdown does not know.
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(<code>)~?")

Schema = dict[str, Any]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the marks of a page by what the code says (called by mkdocs).

    Links to files of the repository outside of ``docs`` become their text: the site has no such
    page.
    """
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def on_site(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        return match[0] if target.is_relative_to(ROOT / "docs") else match[1]

    return LINK.sub(on_site, MARK.sub(lambda match: PARTS[match[1]](), markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Leave out what a docstring says to Sphinx alone (called by mkdocs)."""
    return ROLE.sub(r"\1", html)


# ---------------------------------------------------------------------- commands


def cli_reference() -> str:
    """Return every command with its usage, arguments and options."""
    from sidar.cli import app

    sections = [_command_section(*named) for named in commands(typer.main.get_command(app))]
    return "\n".join(sections)


def commands(group: Any, before: str = "sidar") -> Iterator[tuple[str, Any]]:
    """Yield (name as typed, command) of a group, those of its groups included."""
    for name, command in group.commands.items():
        path = f"{before} {name}"
        if hasattr(command, "commands"):
            yield from commands(command, path)
        else:
            yield path, command


def _command_section(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = " ".join([name, *(_argument(param) for param in arguments), "[options]"])
    rows = [(f"`{_argument(param)}`", _default(param), param.help) for param in arguments]
    rows += [(_flags(param), _default(param), param.help) for param in options]
    return f"### {name}\n\n{_prose(command.help)}\n\n```console\n$ {usage}\n```\n\n" + _table(
        ("argument or option", "default", "meaning"), rows
    )


def _argument(param: Any) -> str:
    dots = " …" if param.nargs == -1 else ""
    name = f"{param.name.upper()}{dots}"
    return name if param.required else f"[{name}]"


def _flags(param: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))


def _default(param: Any) -> str:
    value = param.default
    if param.required:
        return "required"
    if value is None or callable(value) or type(value).__name__ == "Sentinel":
        return ""
    return "off" if value is False else "on" if value is True else f"`{value}`"


# ---------------------------------------------------------------------- JSON Schemas


def yaml_reference() -> str:
    """Return every option of ``sidar.yaml``, section by section."""
    from sidar.config import Config

    schema = Config.model_json_schema()
    plain, sections = [], []
    for name, option in schema["properties"].items():
        part = _object(option, schema)
        if part is None:
            plain.append((name, option))
        else:
            sections.append(_yaml_section(name, part, schema, level=3))
    top = _fields_table(plain, "option")
    return f"### At the top of the file\n\n{top}\n" + "\n".join(sections)


def _yaml_section(name: str, part: Schema, root: Schema, level: int) -> str:
    plain, inner = [], []
    for key, option in part["properties"].items():
        nested = _object(option, root)
        if nested is None or "anyOf" in option:
            plain.append((key, option))
        if nested is not None:
            inner.append(_yaml_section(f"{name}.{key}", nested, root, level=4))
        for entry in _entries(option, root):
            title = f"{'#' * 4} Entries of {name}.{key}"
            table = _fields_table(list(entry["properties"].items()), "key")
            inner.append(f"{title}\n\n{_prose(entry.get('description'))}\n\n{table}")
    text = f"{'#' * level} {name}\n\n{_prose(part.get('description'))}\n\n"
    return text + _fields_table(plain, "option") + "\n" + "\n".join(inner)


def http_reference() -> str:
    """Return the routes of the server with their fields, from its OpenAPI description."""
    from sidar.serve import create_app

    api = create_app(lambda: {}).openapi()
    routes = [
        _route(method, path, about, api)
        for path, methods in api["paths"].items()
        for method, about in methods.items()
    ]
    validation = {"HTTPValidationError", "ValidationError"}
    schemas = [
        f"### {name}\n\n{_prose(schema.get('description'))}\n\n"
        + _fields_table(list(schema["properties"].items()), "field", schema.get("required"))
        for name, schema in api["components"]["schemas"].items()
        if name not in validation and "properties" in schema
    ]
    return "## Routes\n\n" + "\n".join(routes) + "\n## Bodies\n\n" + "\n".join(schemas)


def _route(method: str, path: str, about: Schema, api: Schema) -> str:
    lines = [f"### {method.upper()} {path}", "", about.get("summary", ""), ""]
    lines += [_prose(about.get("description")), ""]
    body = about.get("requestBody", {}).get("content", {}).get("application/json", {})
    rows = []
    if body:
        lines += [f"Body: {_schema_type(body['schema'])}. Examples:", ""]
        for example in _resolved(body["schema"], api).get("examples", []):
            lines += ["```json", json.dumps(example), "```", ""]
    for status, answer in about["responses"].items():
        content = answer.get("content", {}).get("application/json", {}).get("schema", {})
        rows.append((status, _schema_type(content), answer.get("description")))
    return "\n".join(lines) + "\n" + _table(("status", "body", "meaning"), rows)


def _fields_table(
    fields: Sequence[tuple[str, Schema]],
    header: str,
    required: Sequence[str] | None = None,
) -> str:
    rows = []
    for name, field in fields:
        default = "" if "default" not in field else f"`{_yaml_value(field['default'])}`"
        if required and name in required:
            default = "required"
        rows.append((f"`{name}`", _schema_type(field), default, field.get("description")))
    return _table((header, "type", "default", "meaning"), rows) if rows else ""


def _yaml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _schema_type(field: Schema) -> str:
    """Return the type of a field in words."""
    if "$ref" in field:  # the bodies of HTTP have headings of their own
        name = field["$ref"].rpartition("/")[2]
        is_body = "/components/" in field["$ref"]
        return f"[{name}](#{name.lower()})" if is_body else "section"
    if "anyOf" in field:
        words = [_schema_type(each) for each in field["anyOf"]]
        return " or ".join(dict.fromkeys(words))
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    kind = field.get("type", "any")
    if kind == "array" and "items" in field:
        entry = _schema_type(field["items"])
        return f"list of {'sections' if entry == 'section' else entry}" + _bounds(field)
    words = {"object": "mapping", "string": "text", "integer": "whole number", "null": "null"}
    return words.get(kind, kind) + _bounds(field)


def _bounds(field: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    sizes = {"maxLength": "characters", "maxItems": "entries"}
    bounds += [f"at most {field[key]} {unit}" for key, unit in sizes.items() if key in field]
    return f", {', '.join(bounds)}" if bounds else ""


def _resolved(field: Schema, root: Schema) -> Schema:
    """Return what a field refers to, or the field itself."""
    if "$ref" not in field:
        return field
    found: Schema = root
    for step in field["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def _object(field: Schema, root: Schema) -> Schema | None:
    """Return the section that a field is, None where it is a plain option."""
    for each in (field, *field.get("anyOf", ())):
        target = _resolved(each, root)
        if "properties" in target:
            return target
    return None


def _entries(field: Schema, root: Schema) -> list[Schema]:
    """Return the sections that a list holds, if it holds any."""
    items = [each["items"] for each in (field, *field.get("anyOf", ())) if "items" in each]
    return [target for each in items if "properties" in (target := _resolved(each, root))]


# ---------------------------------------------------------------------- pages of the repository


def repository_page(name: str) -> Callable[[], str]:
    """Return a function that reads a page beside ``docs`` and turns its links into the site's."""

    def read() -> str:
        text = (ROOT / name).read_text(encoding="utf-8")
        _, _, body = text.partition("\n")  # the page has a title of its own
        return re.sub(r"\]\(docs/", "](", body)

    return read


def _prose(text: str | None) -> str:
    """Return a docstring or a description as Markdown that shows ``<`` as it stands."""
    cleaned = inspect.cleandoc(text or "")
    parts = re.split(r"(`+[^`]*`+)", cleaned)
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in rows:
        cells = [" ".join(_prose(cell).split()).replace("|", r"\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


#: What stands in the place of a mark, by its name.
PARTS: dict[str, Callable[[], str]] = {
    "cli": cli_reference,
    "yaml": yaml_reference,
    "http": http_reference,
    "contributing": repository_page("CONTRIBUTING.md"),
    "changelog": repository_page("CHANGELOG.md"),
}

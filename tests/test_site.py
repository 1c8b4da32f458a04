"""The documentation site builds without a warning, from the code, and asks no other host."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
import yaml

from scripts.docs_reference import LINK, commands, on_page_markdown
from sidar.cli import app
from sidar.config import Config, load_config
from sidar.serve import create_app

ROOT = Path(__file__).parent.parent
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page):
    """The words of a built page, without its tags."""
    words = []
    parser = HTMLParser()
    parser.handle_data = words.append
    parser.feed(page.read_text(encoding="utf-8"))
    return " ".join("".join(words).split())


def test_every_command_and_flag_is_on_the_site(site):
    text = text_of(site / "cli" / "index.html")
    for name, command in commands(typer.main.get_command(app)):
        assert f"$ {name}" in text
        for param in command.params:
            for flag in param.opts if param.param_type_name == "option" else ():
                assert flag in text, (name, flag)


def options(schema, root, prefix=""):
    """Every key of a JSON Schema that holds a value, as ``sid.cqsid.gamma``."""
    for name, field in schema["properties"].items():
        refs = [each.get("$ref", "") for each in (field, *field.get("anyOf", ()))]
        inner = [root["$defs"][ref.rpartition("/")[2]] for ref in refs if ref]
        if inner and "properties" in inner[0]:
            yield from options(inner[0], root, f"{prefix}{name}.")
        else:
            yield prefix, name, field.get("description")


def test_every_option_is_on_the_site(site):
    html = (site / "reference" / "yaml" / "index.html").read_text(encoding="utf-8")
    schema = Config.model_json_schema()
    found = list(options(schema, schema))
    assert len(found) > 200
    for prefix, name, description in found:
        assert description, f"{prefix}{name} has no description"
        section = prefix.rstrip(".") or "at-the-top-of-the-file"
        start = html.index(f'id="{section.replace(".", "")}"')
        rest = html[start : html.find("<h3", start + 1)]
        assert f"<code>{name}</code>" in rest, (prefix, name)


def test_every_route_and_field_is_on_the_site(site):
    text = text_of(site / "reference" / "http" / "index.html")
    api = create_app(lambda: {}).openapi()
    for path, methods in api["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text
    for field in api["components"]["schemas"]["SearchRequest"]["properties"]:
        assert field in text


def test_the_python_reference_shows_signatures(site):
    text = text_of(site / "reference" / "python" / "index.html")
    assert "load(" in text
    assert "memory_key" in text
    assert ":class:" not in text


def test_no_page_loads_anything_from_another_host(site):
    loads = re.compile(r"<(?:script|img|iframe|link)[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)")
    for page in site.rglob("*.html"):
        assert loads.findall(page.read_text(encoding="utf-8")) == [], page.relative_to(site)
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8"), style.name


def test_links_that_leave_the_docs_become_text():
    class Page:
        class file:
            src_uri = "methods/cqsid.md"

    outside = "../" * 2 + "pyproject.toml"
    line = f"[`settings`]({outside}), [here](table.md#x), ![b](../images/b.svg)"
    assert on_page_markdown(line, Page) == "`settings`, [here](table.md#x), ![b](../images/b.svg)"
    assert LINK.search("[mail](mailto:x@y) [top](#top) [web](https://x)") is None


def test_every_yaml_example_is_a_config(tmp_path):
    """Keys that an example names exist, and its values are allowed."""
    count = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in YAML.findall(page.read_text(encoding="utf-8")):
            if "plugins" in yaml.safe_load(block):  # tests/extending runs these
                continue
            (tmp_path / "sidar.yaml").write_text(block)
            assert json.loads(load_config(tmp_path / "sidar.yaml").model_dump_json()), page.name
            count += 1
    assert count >= 4


def prose_lines(page):
    """(number, line) of a page without code, tables, pictures and what a program writes."""
    is_code = is_written = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        is_code ^= line.startswith("```")
        if line.startswith("<!-- "):
            is_written = "end of" not in line and not line.startswith("<!-- /")
        if not (is_code or is_written or line.startswith(("|", "!"))):
            yield number, line


def test_lines_of_the_docs_are_short():
    """Prose has at most 120 columns."""
    # alignment.md and evidence.md: each number is followed by where it is kept, as a comment
    by_programs = {"alignment.md", "bakeoff.md", "evidence.md", "prefix-lab.md"}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    by_hand = [page for page in pages if page not in {ROOT / "docs" / n for n in by_programs}]
    too_long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in by_hand
        for number, line in prose_lines(page)
        if len(line) > 120
    ]
    assert too_long == []

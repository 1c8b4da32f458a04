"""README and docs run: every `sh` and `python` block, in order, in an empty folder."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

import sidar
from sidar.cli import app
from sidar.pipeline.variants import VARIANTS

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(kind, code, folder):
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    command = (
        ["bash", "-euo", "pipefail", "-c", code] if kind == "sh" else [sys.executable, "-c", code]
    )
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("page", ["docs/getting-started.md", "docs/tutorial.md", "docs/answer.md"])
def test_blocks_run(page, tmp_path):
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    for kind, code in blocks:
        run(kind, code, tmp_path)


def test_readme_runs_with_the_demo_at_toy_size(tmp_path):
    """The README's two scripts are run by CI in whole; here the demo is the same command at toy
    size.
    """
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert any("scripts/demo" in code for _, code in blocks)
    for kind, code in blocks:
        lines = [
            line.replace("scripts/demo", "sidar demo --tiny --no-serve")
            for line in code.splitlines()
            if not line.startswith(("git clone", "cd sidar", "scripts/test"))
        ]
        run(kind, "\n".join(lines), tmp_path)


def test_every_command_is_documented():
    text = (ROOT / "docs/cli.md").read_text()
    commands = dict(typer.main.get_command(app).commands)
    for group in [name for name, command in commands.items() if hasattr(command, "commands")]:
        commands |= {
            f"{group} {name}": command for name, command in commands.pop(group).commands.items()
        }
    assert {name for name in commands if f"`sidar {name}`" not in text} == set()
    assert {name for name in VARIANTS if f"`{name}`" not in text} == set()


def test_links_in_the_docs_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readmes_table_is_that_of_the_kept_demo_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    demo = importlib.import_module("demo")
    results = json.loads((ROOT / "benchmarks/results/demo.json").read_text())
    text = (ROOT / "README.md").read_text()
    assert demo.MARKS[0] + demo.readme_table(results) + demo.MARKS[1] in text


def test_the_citation_names_the_version():
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert about["version"] == sidar.__version__
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = (ROOT / "scripts" / "test").read_text()
    assert all(hook["entry"].removesuffix(" check") in checks for hook in hooks)

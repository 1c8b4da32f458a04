"""docs/simulator.md runs, and its table of presets is what the presets say."""

import re
from pathlib import Path

from sidar import simulate

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/simulator.md", "exec"), {})
    assert "SIMULATED log in simulated-shop" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "simulated-shop").iterdir()}
    for name in ("events", "users", "catalogue", "truth", "utility"):
        assert f"{name}.parquet" in written
        assert f"`{name}.parquet`" in PAGE


def test_sizes_in_the_table_are_those_of_the_presets():
    for preset in ("demo", "full"):
        config = simulate.load_config(preset)
        n = config.queries.count
        sizes = (config.queries.train * n, config.queries.valid * n)
        train, valid = (f"{round(size):,}" for size in sizes)
        assert f"{config.requests:,} · " in PAGE
        assert f"{train} / {valid} / {n - round(sizes[0]) - round(sizes[1]):,}" in PAGE


def test_every_setting_that_the_page_names_exists():
    fields = {**simulate.SimulatorConfig.model_fields}
    for row in re.findall(r"^\| (`.*?) \| ", PAGE.split("## Settings")[1], re.MULTILINE):
        section = ""
        for name in re.findall(r"`([a-z_.]+)`", row):
            head, _, tail = name.rpartition(".")
            section = head or (section if name.startswith(".") else "")
            owner = fields[section].annotation.model_fields if section else fields
            assert tail in owner, name

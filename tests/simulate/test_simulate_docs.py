"""docs/simulator.md runs, and its table of presets is what the presets say."""

import json
import re
from pathlib import Path

from sidar import simulate
from sidar.artifacts import sha256_file
from sidar.simulate import lexicon

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/simulator.md", "exec"), {})
    assert "SIMULATED log in simulated-shop" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "simulated-shop").iterdir()}
    for name in ("events", "users", "catalogue", "truth", "utility"):
        assert f"{name}.parquet" in written
        assert f"`{name}.parquet`" in PAGE


NAMES = {
    "searches": "requests",
    "users who searched": "users",
    "intents, train": "intents_train",
    "intents, valid": "intents_valid",
    "intents, test": "intents_test",
    "CTR at position 1": "ctr_by_position_1",
    "CTR at position 2": "ctr_by_position_2",
    "CTR at position 5": "ctr_by_position_5",
    "CTR at position 10": "ctr_by_position_10",
    "searches with a click": "requests_with_click",
    "sessions with a cart": "sessions_with_cart",
    "sessions with an order": "sessions_with_order",
    "orders per click": "orders_per_click",
    "exact items among shown": "exact_share_of_shown",
    "exact items among clicked": "exact_share_of_clicks",
    "pseudo-negatives among shown and unclicked": "pseudo_negative_share",
    "Zipf exponent of queries asked twice or more": "query_zipf_exponent",
    "share of the last day's clicks on new items": "cold_share_of_last_day_clicks",
    "CPU seconds to make it, one thread": "cpu_seconds",
}


def test_the_table_is_the_results_file_and_the_file_is_of_these_settings():
    results = json.loads(
        (ROOT / "experiments" / "results" / "simulator.json").read_text(encoding="utf-8")
    )
    table = PAGE.split("| | demo | full |")[1].split("\n\n")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]
    assert [row[0] for row in rows] == list(NAMES)
    for label, *cells in rows:
        for preset, cell in zip(("demo", "full"), cells, strict=True):
            figure = results["figures"][f"{NAMES[label]}_{preset}"]
            shown = f"{figure:.2f}".lstrip("0") if cell.startswith(".") else f"{round(figure):,}"
            assert cell == shown, (label, preset)
    for preset in ("demo", "full"):
        assert results["config"][preset]["config_hash"] == simulate.load_config(preset).hash
        assert results["config"][preset]["lexicon_hash"] == sha256_file(
            Path(lexicon.__file__).with_name("lexicon.yaml")
        )


def test_every_setting_that_the_page_names_exists():
    fields = {**simulate.SimulatorConfig.model_fields}
    for row in re.findall(r"^\| (`.*?) \| ", PAGE.split("## Settings")[1], re.MULTILINE):
        section = ""
        for name in re.findall(r"`([a-z_.]+)`", row):
            head, _, tail = name.rpartition(".")
            section = head or (section if name.startswith(".") else "")
            owner = fields[section].annotation.model_fields if section else fields
            assert tail in owner, name

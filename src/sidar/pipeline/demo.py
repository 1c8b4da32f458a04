"""``sidar demo``: the main job on the embedded sample, with a simulated log, through the same config as a user's own.

It writes ``inputs/`` (files such as a user would have) and ``sidar.yaml`` into the demo folder and then runs the
ordinary pipeline; nothing here is a second path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sidar.artifacts import read_manifest, write_artifact
from sidar.config import load_config

#: Settings that differ from the defaults. Sizes fit two cores and fifteen minutes.
SETTINGS: dict[str, Any] = {
    "name": "demo",
    "catalogue": {"path": "inputs/catalogue.parquet"},
    "events": {"path": "inputs/events.parquet", "origin": "simulated"},
    "users": {"path": "inputs/users.parquet"},
    "evaluate": {
        "sets": [
            {
                "name": f"judged_{half}",
                "queries": f"inputs/judged_{half}.queries.tsv",
                "qrels": f"inputs/judged_{half}.qrels.tsv",
                "origin": "real",
                "role": role,
                "topic_oracle": True,
            }
            for half, role in (("dev", "valid"), ("test", "test"))
        ]
        + [
            {
                "name": f"grounded_{half}",
                "queries": f"inputs/grounded_{half}.queries.tsv",
                "qrels": f"inputs/grounded_{half}.qrels.tsv",
                "origin": "simulated",
                "role": half,
            }
            for half in ("valid", "test")
        ]
    },
}

#: ``--tiny``: every step runs, nothing is learnt.
TINY: dict[str, Any] = {
    "embed": {"model": "hashing:64"},
    "lm": {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 2, "intermediate": 128, "text_embeddings": "random"},
    "sft": {"steps": 8, "batch_size": 16, "validate_every": 4, "checkpoint_every": 4},
    "align": {"steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 4},
    "decode": {"beam": 16, "item_beam": 16, "search_beam": 16},
}


def merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """``extra`` over ``base``, section by section."""
    merged = dict(base)
    for key, value in extra.items():
        inner = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if inner else value
    return merged


def settings(*, everything: bool, tiny: bool) -> dict[str, Any]:
    """The demo's ``sidar.yaml`` as a mapping."""
    chosen = merge(SETTINGS, TINY) if tiny else SETTINGS
    sizes = {"max_queries": 20, "invalid_queries": 4, "bootstrap": 200} if tiny else {"max_queries": 300}
    if everything and not tiny:
        sizes = {"max_queries": 2000}
    return merge(chosen, {"evaluate": sizes})


def write_inputs(folder: Path, *, everything: bool, tiny: bool) -> dict[str, Any]:
    """Write the sample catalogue, judged queries and a simulated log into ``folder`` unless they are there already.

    ``everything`` takes the larger log, so that its test day and held-out queries are counted in thousands.
    """
    from sidar import simulate
    from sidar.data import sample

    config = simulate.load_config("full" if everything else "demo")
    if tiny:
        config = simulate.load_config("demo", users=150, requests=500, queries={"count": 150})
    wanted = {"simulator": config.model_dump(mode="json")}
    manifest = read_manifest(folder)
    if manifest is not None and manifest.config == wanted:
        return manifest.shapes
    with write_artifact(folder, "inputs", config=wanted) as draft:
        sample.write_inputs(draft.path)
        draft.shapes.update(simulate.run(sample.load_catalogue(), config, draft.path))
    return draft.shapes


def run_demo(folder: Path, *, everything: bool, tiny: bool, overrides: list[str], console: Any) -> list[Path]:
    """Run the demo and print its table; returns the bundles of the aligned and of the SFT model, to be served."""
    from sidar import pipeline
    from sidar.bundle import build_bundle
    from sidar.evaluate.table import print_table
    from sidar.pipeline.variants import variants

    folder.mkdir(parents=True, exist_ok=True)
    console.print("[bold]inputs[/bold]           6,764 real products; the log is [bold]simulated[/bold]")
    write_inputs(folder / "inputs", everything=everything, tiny=tiny)
    config_file = folder / "sidar.yaml"
    config_file.write_text(yaml.safe_dump(settings(everything=everything, tiny=tiny), sort_keys=False))
    cfg = load_config(config_file, overrides)
    pipeline.run(cfg, variants(cfg.align, "all" if everything else "raddpo"), console=console)
    print_table(cfg.run_dir / "evaluate", console)
    console.print(f"report: {cfg.run_dir / 'evaluate' / 'report.html'}")
    run = cfg.run_dir
    before = run / "bundle-sft"  # the page shows both, so that what alignment changed can be seen
    config = cfg.model_dump(mode="json", include={"decode", "embed"})
    parts = {name: run / name for name in ("data", "embed", "sid", "index")}
    build_bundle(before, **parts, model=run / "sft" / "model", config=config, label="sft")
    return [run / "bundle", before]

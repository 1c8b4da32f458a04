"""``sidar demo``: the main job on the embedded sample, with a simulated log, through the same
config as a user's own.

It writes ``inputs/`` (files such as a user would have) and ``sidar.yaml`` into the demo folder and
then runs the ordinary pipeline; nothing here is a second path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sidar.artifacts import read_manifest, write_artifact
from sidar.config import load_config
from sidar.types import Json

if TYPE_CHECKING:
    from rich.console import Console


def base(inputs: str, name: str) -> Json:
    """Settings that differ from the defaults. Sizes fit two cores and fifteen minutes."""
    sets = (
        ("judged", "dev", "valid"),
        ("judged", "test", "test"),
        ("grounded", "valid", "valid"),
        ("grounded", "test", "test"),
    )
    return {
        "name": name,
        "catalogue": {"path": f"{inputs}/catalogue.parquet"},
        "events": {"path": f"{inputs}/events.parquet", "origin": "simulated"},
        "users": {"path": f"{inputs}/users.parquet"},
        "data": {
            "held_out": [
                {
                    "queries": f"{inputs}/{kind}_{half}.queries.tsv",
                    "match": "near" if kind == "judged" else "exact",
                }
                for kind, half, _ in sets
            ]
        },
        # Smaller than the defaults in depth and codes: more examples in the same minutes
        # (docs/findings.md, Training).
        "sid": {"codebook_sizes": [256, 128, 64]},
        "lm": {"layers": 4, "max_prompt_tokens": 40},
        "sft": {
            "steps": 580,
            "batch_size": 128,
            "accumulate": 2,
            "lr_new": 1e-3,
            "mixture": {"item": 0.1, "pseudo": 0.75, "query": 0.15},
            "validate_every": 290,
            "checkpoint_every": 290,
        },
        # RDRW's window is the paper's N = 4096 scaled to the demo: it would fill only in the middle
        # of these few steps.
        "align": {"steps": 360, "validate_every": 120, "checkpoint_every": 360, "rdrw_window": 512},
        # Minutes of training order whole SIDs well and the products that are close to one another
        # badly.
        "decode": {"rerank": "dense"},
        "evaluate": {
            "sets": [
                {
                    "name": f"{kind}_{half}",
                    "queries": f"{inputs}/{kind}_{half}.queries.tsv",
                    "qrels": f"{inputs}/{kind}_{half}.qrels.tsv",
                    "origin": "real" if kind == "judged" else "simulated",
                    "role": role,
                    "topic_oracle": kind == "judged",
                }
                for kind, half, role in sets
            ]
        },
    }


#: ``--tiny``: every step runs, nothing is learnt.
TINY: Json = {
    "embed": {"model": "hashing:64"},
    "lm": {
        "layers": 2,
        "hidden": 64,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 128,
        "text_embeddings": "random",
    },
    "sft": {
        "steps": 8,
        "batch_size": 16,
        "accumulate": 1,
        "validate_every": 4,
        "checkpoint_every": 4,
    },
    "align": {"steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 4},
    "decode": {"beam": 16},
    "evaluate": {"max_queries": 20, "invalid_queries": 4, "bootstrap": 200},
}


def merge(base: Json, extra: Json) -> Json:
    """``extra`` over ``base``, section by section."""
    merged = dict(base)
    for key, value in extra.items():
        inner = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if inner else value
    return merged


def settings(*, everything: bool, tiny: bool) -> Json:
    """The demo's ``sidar.yaml`` as a mapping.

    ``everything`` has inputs and a run of its own: its log is larger.
    """
    chosen = base("inputs-all", "demo-all") if everything else base("inputs", "demo")
    if tiny:
        return merge(chosen, TINY)
    if everything:
        return merge(
            chosen,
            {"evaluate": {"max_queries": 2000, "targets": ["click", "order", "random_click"]}},
        )
    return merge(chosen, {"evaluate": {"max_queries": 300, "invalid_queries": 32}})


def write_inputs(folder: Path, *, everything: bool, tiny: bool) -> Json:
    """Write the sample catalogue, judged queries and a simulated log into ``folder`` unless they
    are there already.

    ``everything`` takes the larger log, so that its test day and held-out queries are counted in
    thousands.
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
        catalogue = sample.load_catalogue()
        draft.shapes["items"] = len(catalogue)
        draft.shapes.update(simulate.run(catalogue, config, draft.path))
    return draft.shapes


def run_demo(
    folder: Path, *, everything: bool, tiny: bool, overrides: list[str], console: Console
) -> list[Path]:
    """Run the demo and print its table; returns the bundles of the aligned and of the SFT model, to
    be served.
    """
    import time

    from sidar import pipeline
    from sidar.evaluate.table import print_table
    from sidar.pipeline.variants import variants
    from sidar.serve.bundle import BundleSources, build_bundle

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    facts = write_inputs(
        folder / ("inputs-all" if everything else "inputs"), everything=everything, tiny=tiny
    )
    console.print(
        f"[bold]inputs[/bold]           {facts['items']:,} real products; the log is "
        "[bold]simulated[/bold]"
    )
    config_file = folder / ("sidar-all.yaml" if everything else "sidar.yaml")
    config_file.write_text(
        yaml.safe_dump(settings(everything=everything, tiny=tiny), sort_keys=False)
    )
    cfg = load_config(config_file, overrides)
    reports = pipeline.run(
        cfg, variants(cfg.align, "all" if everything else "raddpo"), console=console
    )
    print_table(cfg.run_dir / "evaluate", console)
    console.print(f"report: {cfg.run_dir / 'evaluate' / 'report.html'}")
    run = cfg.run_dir
    before = run / "bundle-sft"  # the page shows both, so that what alignment changed can be seen
    config = cfg.model_dump(mode="json", include={"decode", "embed"})
    parts: Json = {name: run / name for name in ("data", "embed", "sid", "index")}
    sft = BundleSources(**parts, model=run / "sft" / "model", config=config, label="sft")
    build_bundle(before, sft)
    cost: Json = {
        "seconds": round(time.monotonic() - started, 1),
        "peak_rss_gb": round(peak_rss_gb(), 2),
        "ran": list(reports),
    }
    (folder / f"{cfg.name}.json").write_text(json.dumps(cost) + "\n")
    console.print(
        f"{cost['seconds'] / 60:.1f} minutes, at most {cost['peak_rss_gb']:.1f} GB of memory"
    )
    return [run / "bundle", before]


def peak_rss_gb() -> float:
    """The most memory that this process ever held, in GB."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

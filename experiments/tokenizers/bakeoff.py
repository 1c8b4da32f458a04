"""The comparison of tokenizers on the embedded sample: which Semantic IDs are best for its 6,764
products?

    python -m experiments.tokenizers.bakeoff FOLDER [--methods …] [--seeds 0,1,2] [--no-docs]
        [key.sub=value …]

FOLDER gets the inputs that ``sidar demo`` has (real products, a SIMULATED log) and the run; what is
there is not made again, so an interrupted comparison goes on. It writes ``results/bakeoff.json``,
``docs/bakeoff.md`` and its pictures; a test holds them together. Sizes fit 40 minutes on two cores;
wall clock and CPU time of the process are in the results. ``--page`` writes the page again from the
results that are committed.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does; before torch is imported

import yaml

from experiments.common import RESULTS, ROOT, commit, device, versions
from sidar.compare.page import make_page
from sidar.compare.results import Results

DOCS = ROOT / "docs"
PREFIX = "bakeoff-"
#: What differs from ``sidar demo``: a smaller model, fewer steps, narrower beams.
SETTINGS = {
    "name": "bakeoff",
    "lm": {"layers": 3, "hidden": 384, "max_prompt_tokens": 40},
    "sft": {
        "steps": 300,
        "batch_size": 128,
        "accumulate": 1,
        "validate_every": 300,
        "checkpoint_every": 150,
    },
    "decode": {"rerank": "none"},
    "evaluate": {"max_queries": 300, "invalid_queries": 32},
}


def settings():
    """The comparison's ``sidar.yaml``: the demo's, with :data:`SETTINGS` over it."""
    from sidar.pipeline.demo import merge
    from sidar.pipeline.demo import settings as demo

    return merge(demo(everything=False, tiny=False), SETTINGS)


def write_docs(kept, docs=DOCS):
    """Write ``bakeoff.md`` and ``images/bakeoff-*.svg`` from the kept results alone."""
    page = make_page(
        Results.from_json(kept),
        prefix=PREFIX,
        written_by="experiments/tokenizers/bakeoff.py",
        note=cost_note(kept),
    )
    for old in (docs / "images").glob(f"{PREFIX}*.svg"):
        old.unlink()
    page.write_pictures(docs / "images")
    (docs / "bakeoff.md").write_text(page.markdown, encoding="utf-8")


def cost_note(kept):
    """Return what the comparison of the sample cost, and where its figures are."""
    cost = kept["cost"]
    clock = (
        f", {cost['minutes']:.0f} minutes on {cost['threads']} threads" if cost["one_go"] else ""
    )
    return (
        f"The embedded sample: {cost['cpu_minutes']:.0f} minutes of CPU time in all stages "
        f"together{clock}; made by `python -m experiments.tokenizers.bakeoff`, all figures in "
        "`experiments/results/bakeoff.json`. The command for your own catalogue is `sidar "
        "compare-sids` ([methods/bakeoff.md](methods/bakeoff.md))."
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--methods")
    parser.add_argument("--seeds")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--no-docs", action="store_true", help="leave docs and results of the repository alone"
    )
    parser.add_argument("--page", action="store_true", help="only write docs/bakeoff.md again")
    given = parser.parse_intermixed_args()
    path = RESULTS / "bakeoff.json"
    if given.page:
        write_docs(json.loads(path.read_text()))
        return
    from rich.console import Console

    from sidar.artifacts import read_manifest
    from sidar.compare.methods import DEFAULT
    from sidar.compare.run import compare_tokenizers
    from sidar.config import load_config
    from sidar.doctor import usable_cores
    from sidar.pipeline.demo import write_inputs

    began, folder = time.monotonic(), given.folder
    whole = not (folder / "runs").exists()
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder / "inputs", everything=False, tiny=False)
    (folder / "bakeoff.yaml").write_text(yaml.safe_dump(settings(), sort_keys=False))
    cfg = load_config(folder / "bakeoff.yaml", given.overrides)
    results = compare_tokenizers(
        cfg,
        given.methods.split(",") if given.methods else DEFAULT,
        seeds=[int(seed) for seed in given.seeds.split(",")] if given.seeds else None,
        workers=given.workers,
        console=Console(width=150),
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    stages = sum(sum(method.seconds.values()) for method in results.methods.values())
    manifests = [read_manifest(cfg.run_dir / name) for name in ("data", "embed")]
    # wall: the ordinary stages keep no CPU time
    shared = sum(manifest.seconds for manifest in manifests if manifest)
    cost = {
        "minutes": (time.monotonic() - began) / 60,
        "peak_rss_gb": used.ru_maxrss / 1e6,
        "threads": cfg.threads or usable_cores(),
        "workers": given.workers,
        "one_go": whole,  # else an earlier process had made a part
        "cpu_minutes": (stages * len(results.seeds) + shared) / 60,
    }
    figures = {
        f"{each}/{name}/{measure}": cells[measure].mean
        for each, evaluated in results.sets.items()
        for name, cells in evaluated.systems.items()
        for measure in ("item/ndcg@10", "item/recall@100")
        if measure in cells
    }
    kept = results.to_json() | {
        "cost": cost,
        "figures": figures,
        "settings": settings(),
        "commit": commit(),
        "versions": versions(),
        "device": device(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if given.no_docs:
        (folder / "bakeoff.json").write_text(json.dumps(kept, indent=1) + "\n")
    else:
        path.write_text(json.dumps(kept, indent=1) + "\n")
        write_docs(kept)
    print(
        f"{cost['minutes']:.1f} minutes; {cost['cpu_minutes']:.1f} of CPU time in all; "
        f"{cost['peak_rss_gb']:.1f} GB"
    )
    print(results.sentence.replace("**", ""))


if __name__ == "__main__":
    main()

"""What a search costs with each method's model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import TypeAdapter

from sidar.artifacts import write_artifact
from sidar.compare.comparison import Comparison
from sidar.compare.measure import artifact_hashes, is_fresh, open_system, scored_sets
from sidar.compare.results import Latency
from sidar.evaluate.measures.hitrate import in_mode
from sidar.evaluate.slices import subset_by_hash
from sidar.pipeline.runtime import device

#: The beam that is timed for all methods alike, and the number of queries.
BEAM, QUERIES = 100, 24


def search_latency(comparison: Comparison, folders: Mapping[str, Path], set_name: str) -> Latency:
    """Return the milliseconds of a search by method; timed again only where a model changed."""
    out = comparison.root / "latency"
    config = {"beam": BEAM, "queries": QUERIES, "set": set_name}
    inputs = {
        f"{name}/{part}": value
        for name, folder in folders.items()
        for part, value in artifact_hashes(folder, (comparison.model, "index")).items()
    }
    adapter, file = TypeAdapter(Latency), "latency.json"
    if not is_fresh(out, config, inputs):
        with write_artifact(out, "compare-sids-latency", config=config, inputs=inputs) as draft:
            timed = Latency(set_name, BEAM, time_searches(comparison, folders, set_name))
            (draft.path / file).write_bytes(adapter.dump_json(timed, indent=1))
    return adapter.validate_json((out / file).read_bytes())


def time_searches(
    comparison: Comparison, folders: Mapping[str, Path], set_name: str
) -> dict[str, float]:
    """Return the median milliseconds by method, one query at a time on one thread.

    It is CPU time, on a GPU wall time. Methods take turns query by query, so that a neighbour's
    load hits all alike.
    """
    cfg, model = comparison.cfg, comparison.model
    retrievers = {name: open_system(cfg, at, model).retriever for name, at in folders.items()}
    sets = in_mode(scored_sets(cfg, cfg.run_dir / "data"), cfg.evaluate.prompts)
    (timed,) = [each for each in sets if each.name == set_name]
    prompts = [timed.prompts[q] for q in subset_by_hash(timed.query_ids, QUERIES)]
    clock = time.process_time if device(cfg) == "cpu" else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in retrievers}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn, prompt in enumerate([prompts[0], *prompts]):
            for name, retriever in retrievers.items():
                started = clock()
                retriever.beams([prompt], BEAM)
                ms = 1000 * (clock() - started)
                if turn > 0:  # the first turn warms up
                    spent[name].append(ms)
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(ms) for name, ms in spent.items()}

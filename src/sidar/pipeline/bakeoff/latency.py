"""Decoding at equal recall: which beam a method needs for the reference's recall, and what a search with it costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidar.config import Config
from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.slices import subset_by_hash
from sidar.pipeline.bakeoff.sweep import CUT, WIDTHS, width_at

#: The recall that all must reach: this share of the reference's at the widest beam.
SHARE = 0.95
#: The beam that is timed for all alike.
EQUAL_BEAM = 100
QUERIES = 24


@dataclass
class Counted:
    """A scorer that counts what a search asks of it: calls of ``extend`` and prefixes that were extended."""

    inner: Any
    steps: int = 0
    rows: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def extend(self, state: Any, parents: Any, codes: Any, depth: int) -> Any:
        self.steps += 1
        self.rows += int(codes.numel())
        return self.inner.extend(state, parents, codes, depth)


def beams_for_equal_recall(
    values: PerQuery,
    clusters: Mapping[str, str],
    set_name: str,
    mode: str,
    methods: Sequence[str],
    reference: str,
    *,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """``target``, and per method the beam that reaches it: value (None = no beam tried does) and 95 % interval.

    The target is 95 % of the reference's recall of items (first 100) at its widest beam; between two widths recall is
    taken as linear in log₂ W. The interval resamples clusters of queries, target included; an end past the widest beam
    is None.
    """
    curves: dict[str, dict[int, np.ndarray]] = {}
    ids: tuple[str, ...] = ()
    for method in methods:
        for width in WIDTHS:
            if got := values.get(set_name, method, f"beam/{mode}/recall@{width}"):
                ids = got[0]
                curves.setdefault(method, {})[width] = got[1]
    if reference not in curves:
        return {}
    _, label = np.unique(np.array([clusters[query_id] for query_id in ids]), return_inverse=True)
    rng = np.random.default_rng(seed)
    size = int(label.max()) + 1
    weights = [np.ones(len(ids))] + [
        np.bincount(rng.integers(0, size, size), minlength=size)[label].astype(float) for _ in range(samples)
    ]
    found: dict[str, list[float]] = {method: [] for method in curves}
    targets = []
    for weight in weights:
        means = {m: {w: float(np.average(v, weights=weight)) for w, v in c.items()} for m, c in curves.items()}
        targets.append(SHARE * means[reference][max(means[reference])])
        for method, curve in means.items():
            found[method].append(width_at(curve, targets[-1]))
    beams = {}
    for method, drawn in found.items():
        low, high = np.quantile(drawn[1:], [0.025, 0.975], method="nearest")
        beams[method] = {"beam": _finite(drawn[0]), "low": _finite(low), "high": _finite(high)}
    return {"set": set_name, "mode": mode, "share": SHARE, "cut": CUT, "target": targets[0], "beams": beams}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def time_searches(
    cfg: Config, folders: Mapping[str, Path], model: str, beams: Mapping[str, Sequence[int]], set_name: str, mode: str
) -> dict[str, dict[str, dict[str, float]]]:
    """``{method: {beam: {ms, steps, rows}}}``: one query at a time, on one thread; CPU time, on a GPU wall time.

    Methods take turns query by query, so a neighbour's load hits all alike; ``ms`` is the median over queries.
    """
    import torch

    from sidar.decode import beam_search
    from sidar.pipeline.bakeoff.measure import scored_sets
    from sidar.pipeline.bakeoff.sweep import modes
    from sidar.pipeline.runtime import device

    searches = {name: _search(cfg, folder, model) for name, folder in folders.items()}
    data = next(iter(folders.values())) / "data"
    each = next(e for e in scored_sets(cfg, data) if e.name == set_name)
    some = subset_by_hash(each.query_ids, QUERIES)
    prompts = [modes(each.prompts)[mode][q] for q in some]
    clock = time.process_time if device(cfg) == "cpu" else time.perf_counter
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken: dict[tuple[str, int], list[tuple[float, int, int]]] = {}
    try:
        for turn, prompt in enumerate([prompts[0], *prompts]):  # the first turn warms up
            for name, (language, sids, scorer, trie) in searches.items():
                tokens = language.prompts.encode_batch([prompt], sids)
                for beam in beams[name]:
                    counted = Counted(scorer)
                    began = clock()
                    beam_search(counted, tokens, trie, beam)
                    spent = 1000 * (clock() - began)
                    if turn:
                        taken.setdefault((name, beam), []).append((spent, counted.steps, counted.rows))
    finally:
        torch.set_num_threads(threads)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in searches}
    for (name, beam), rows in taken.items():
        ms, steps, extended = zip(*rows, strict=True)
        found[name][str(beam)] = {
            "ms": statistics.median(ms),
            "steps": statistics.fmean(steps),
            "rows": statistics.fmean(extended),
        }
    return found


def _search(cfg: Config, folder: Path, model: str) -> tuple[Any, Any, Any, Any]:
    """Model, SID table, scorer and trie of one method; a model that reads sentence vectors knows index and encoder."""
    from sidar.data import open_dataset
    from sidar.decode import Trie
    from sidar.embed import query_side
    from sidar.index import PrefixIndex
    from sidar.lm import SidLM
    from sidar.lm.scorer import LmScorer
    from sidar.pipeline.bakeoff.measure import encoder
    from sidar.pipeline.runtime import device
    from sidar.sid import load_sids

    index = PrefixIndex.load(folder / "index")
    language = SidLM.from_pretrained(folder / model / "model", device=device(cfg))
    language.use(index)
    if language.geometry is not None:
        language.prompts.reader = query_side(encoder(cfg), cfg.sid.view).encode
    scorer = LmScorer(language, precision=cfg.decode.precision)
    sids = load_sids(folder / "sid" / "sids.parquet", open_dataset(folder / "data").catalogue.item_ids)
    return language, sids, scorer, Trie(index, scorer.device)

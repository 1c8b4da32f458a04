"""What one trained model is measured by: the report's measures on every set, quantised dense, beams of many widths."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sidar.artifacts import read_manifest, write_artifact
from sidar.config import Config
from sidar.evaluate.hitrate import in_mode
from sidar.evaluate.metrics import score_ranking
from sidar.evaluate.perquery import PerQuery, write_queries
from sidar.evaluate.scorer import Scorer, relevance_threshold
from sidar.evaluate.slices import subset_by_hash
from sidar.evaluate.truth import Truth
from sidar.pipeline.bakeoff.sweep import TRUNCATED_QUERIES, WIDTHS, modes, sweep, truncated, truncation_beam
from sidar.pipeline.plan import fingerprint, set_files
from sidar.pipeline.runtime import device, progress
from sidar.types import EvalSet

#: Raised when what is measured changes: older folders are then measured again.
VERSION = 1
#: The name that a model has in its own per-query file.
MODEL, DENSE, BM25 = "model", "dense", "bm25"
QUANTISED = ("ndcg@10", "recall@10", "recall@100", "hit@100", "mrr")
NAME = "measure"


def measure(cfg: Config, folder: Path, model: str) -> list[str]:
    """Measure ``folder / model`` into ``folder / measure`` unless that is up to date; returns what was made."""
    config = _asked(cfg)
    inputs = _hashes(folder, ("data", "embed", "sid", "index", model))
    if _fresh(folder / NAME, config, inputs):
        return []
    cpu = time.process_time()
    with write_artifact(folder / NAME, "compare-sids-measure", config=config, inputs=inputs) as draft:
        draft.shapes.update(_measure(cfg, folder, folder / model / "model", draft.path))
        draft.shapes["cpu_seconds"] = round(time.process_time() - cpu, 2)
    return [NAME]


def measure_reference(cfg: Config, root: Path) -> Path:
    """The rows that need no IDs (exact dense, BM25) into ``root / reference`` unless up to date; its folder."""
    from sidar.baselines import Bm25, Dense
    from sidar.data import open_dataset
    from sidar.embed import load_items, query_side

    run, out = root.parent, root / "reference"
    config, inputs = _asked(cfg), _hashes(run, ("data", "embed"))
    if _fresh(out, config, inputs):
        return out
    dataset = open_dataset(run / "data")
    catalogue = dataset.catalogue
    scorer = Scorer(catalogue, dataset.priors(), None, cfg)
    dense = Dense(load_items(run / "embed"), query_side(encoder(cfg)), alive=catalogue.alive)
    channels: dict[str, Any] = {DENSE: dense, BM25: Bm25(catalogue)}
    values, queries = PerQuery(), []
    with write_artifact(out, "compare-sids-reference", config=config, inputs=inputs) as draft:
        for each in scored_sets(cfg, run / "data"):
            job = scorer.open(each)
            queries += job.queries
            for name, channel in channels.items():
                hits = channel.search([prompt.query for prompt in each.prompts], cfg.evaluate.depth)
                scorer.score(values, job, name, hits, None)
        values.write(draft.path)
        write_queries(draft.path, queries)
    return out


def scored_sets(cfg: Config, data_folder: Path) -> list[EvalSet]:
    """The evaluation sets of role test that the config names now; ``ValueError`` where there is none."""
    from sidar.data.evalsets import build_sets

    found = [each.evalset for each in build_sets(cfg, data_folder) if each.role == "test"]
    if not found:
        raise ValueError("nothing to score: no evaluation set of role test; name one under evaluate.sets")
    return found


def swept_set(cfg: Config, sets: Sequence[EvalSet]) -> EvalSet:
    """The set on which beams of several widths are tried: the log's first target, else the largest set."""
    own = {each.name for each in cfg.evaluate.sets}
    return next((each for each in sets if each.name not in own), max(sets, key=len))


def _measure(cfg: Config, folder: Path, model: Path, out: Path) -> dict[str, Any]:
    from sidar.baselines import QuantisedDense
    from sidar.data import open_dataset
    from sidar.embed import query_side
    from sidar.index import PrefixIndex
    from sidar.pipeline.generative import GenerativeSystem
    from sidar.restore import restored
    from sidar.sid import load_sids, load_tokenizer

    dataset = open_dataset(folder / "data")
    catalogue = dataset.catalogue
    index, tokenizer = PrefixIndex.load(folder / "index"), load_tokenizer(folder / "sid")
    sids = load_sids(folder / "sid" / "sids.parquet", catalogue.item_ids)
    clusters = restored(tokenizer, index.table)
    side = query_side(encoder(cfg), cfg.sid.view)
    quantised = QuantisedDense(clusters, index.expand_with_source, side)
    system = GenerativeSystem(MODEL, model, index, sids, catalogue, cfg.decode, device(cfg), side.encode)
    scorer, values = Scorer(catalogue, dataset.priors(), index, cfg), PerQuery()
    sets, facts = scored_sets(cfg, folder / "data"), {}
    wide = swept_set(cfg, sets)
    for each in in_mode(sets, cfg.evaluate.prompts):
        progress(f"{folder.parent.name}: {each.name}, {len(each)} queries")
        job = scorer.open(each)
        scorer.score(values, job, MODEL, system.hits(each.prompts, cfg.evaluate.depth), system)
        near = quantised.hits(each.prompts, cfg.evaluate.depth)
        values.add(each.name, MODEL, "quantised", score_ranking(job.truth, near.rows, QUANTISED), each.query_ids)
        if each.name == wide.name:
            _beams(values, wide, job.truth, system.retriever, index)
        facts[each.name] = {key: value for key, value in job.facts.items() if key != "systems"}
    values.write(out)
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    weights = sum(parameter.numel() for parameter in system.retriever.model.parameters())
    return {"weights": weights, "density": index.density, "swept": wide.name}


def _beams(values: PerQuery, each: EvalSet, truth: Truth, retriever: Any, index: Any) -> None:
    """Widths and truncation of both kinds of prompts, as ``beam/<mode>/…`` and ``top1k/<mode>/…``."""
    some = subset_by_hash(each.query_ids, TRUNCATED_QUERIES)
    ids = [each.query_ids[q] for q in some]
    part = Truth.of_catalogue(each.qrels, ids, retriever.catalogue, relevance_threshold(each))
    for mode, prompts in modes(each.prompts).items():
        values.add(each.name, MODEL, f"beam/{mode}", sweep(retriever, index, truth, prompts), each.query_ids)
        chosen = [prompts[q] for q in some]
        found = truncated(retriever, index, part, chosen, truncation_beam(index))
        values.add(each.name, MODEL, f"top1k/{mode}", found, ids)


class Remembered:
    """An encoder that encodes each text once: all methods ask the same queries."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._known: dict[str, np.ndarray] = {}
        self.dim = inner.dim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """(n, D) float32."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, np.asarray(self._inner.encode(new, batch_size)), strict=True))
        return np.stack([self._known[text] for text in texts]) if len(texts) else np.zeros((0, self.dim), np.float32)


def encoder(cfg: Config) -> Any:
    """The run's embedder, loaded once per process."""
    return _encoder(cfg.embed.model_dump_json(), device(cfg))


@lru_cache(maxsize=1)
def _encoder(embed: str, on: str) -> Any:
    from sidar.config import EmbedConfig
    from sidar.embed import TowerEmbedder, load_embedder

    found = load_embedder(EmbedConfig.model_validate_json(embed), on)
    return found if isinstance(found, TowerEmbedder) else Remembered(found)


def _asked(cfg: Config) -> dict[str, Any]:
    """What of the config and of this code decides the measures."""
    left_out = {"bootstrap", "systems", "tune_queries", "best"}
    return {
        "version": VERSION,
        "widths": list(WIDTHS),
        "decode": cfg.decode.model_dump(mode="json"),
        "evaluate": cfg.evaluate.model_dump(mode="json", exclude=left_out),
        "files": [fingerprint(Path(path)) for path in set_files(cfg)],
    }


def _hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    manifests = {name: read_manifest(folder / name) for name in names}
    return {name: manifest.hash if manifest else "missing" for name, manifest in manifests.items()}


def _fresh(folder: Path, config: dict[str, Any], inputs: dict[str, str]) -> bool:
    kept = read_manifest(folder)
    return kept is not None and (kept.config, kept.inputs) == (config, inputs)

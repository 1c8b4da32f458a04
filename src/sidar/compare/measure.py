"""The measures of one trained model on every set, and of the rows that need no Semantic IDs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from sidar.artifacts import read_manifest, write_artifact
from sidar.baselines import Bm25, Dense, QuantisedDense, TextChannel
from sidar.config import Config, EmbedConfig
from sidar.data import open_dataset
from sidar.data.judgments.evalsets import build_sets
from sidar.embed import Embedder, TowerEmbedder, load_embedder, load_items, query_side
from sidar.evaluate.measures.hitrate import in_mode
from sidar.evaluate.measures.metrics import score_ranking
from sidar.evaluate.perquery import PerQuery, write_queries
from sidar.evaluate.scorer import Scorer
from sidar.index import PrefixIndex
from sidar.pipeline.plan import metric_files, set_files
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.pipeline.runtime import device, progress
from sidar.pipeline.stage import fingerprint
from sidar.sid import load_sids, load_tokenizer
from sidar.types import EvalSet

#: Raised when what is measured changes: older folders are then measured again.
VERSION = 2
#: Names of the rows in the per-query files: the model's own, and those without Semantic IDs.
MODEL, DENSE, BM25 = "model", "dense", "bm25"
QUANTISED = ("ndcg@10", "recall@10", "recall@100", "hit@100", "mrr")


def measure_model(cfg: Config, folder: Path, model: str) -> bool:
    """Measure ``folder / model`` into ``folder / measure``; return False where that is fresh."""
    out = folder / "measure"
    config = _settings(cfg)
    inputs = artifact_hashes(folder, ("data", "embed", "sid", "index", model))
    if is_fresh(out, config, inputs):
        return False
    started = time.process_time()
    with write_artifact(out, "compare-sids-measure", config=config, inputs=inputs) as draft:
        draft.shapes.update(_measure(cfg, folder, model, draft.path))
        draft.shapes["cpu_seconds"] = round(time.process_time() - started, 2)
    return True


def measure_baselines(cfg: Config, root: Path) -> Path:
    """Measure exact dense and BM25 into ``root / reference`` unless fresh; return the folder."""
    run, out = root.parent, root / "reference"
    config, inputs = _settings(cfg), artifact_hashes(run, ("data", "embed"))
    if is_fresh(out, config, inputs):
        return out
    dataset = open_dataset(run / "data")
    catalogue = dataset.catalogue
    scorer = Scorer(catalogue, dataset.priors(), None, cfg)
    side = query_side(load_encoder(cfg))
    dense = Dense(load_items(run / "embed"), side, alive=catalogue.alive)
    channels: dict[str, TextChannel] = {DENSE: dense, BM25: Bm25(catalogue)}
    values, queries = PerQuery(), []
    with write_artifact(out, "compare-sids-reference", config=config, inputs=inputs) as draft:
        for test_set in scored_sets(cfg, run / "data"):
            job = scorer.open(test_set)
            queries += job.queries
            texts = [prompt.query for prompt in test_set.prompts]
            for name, channel in channels.items():
                hits = channel.search(texts, cfg.evaluate.depth)
                scorer.score(values, job, name, hits, None)
        values.write(draft.path)
        write_queries(draft.path, queries)
    return out


def scored_sets(cfg: Config, data_folder: Path) -> list[EvalSet]:
    """Return the sets of role test that the config names; ``ValueError`` where there is none."""
    sets = [built.evalset for built in build_sets(cfg, data_folder) if built.role == "test"]
    if not sets:
        raise ValueError(
            "nothing to score: no evaluation set of role test; name one under evaluate.sets"
        )
    return sets


def main_set(cfg: Config, sets: Sequence[EvalSet]) -> EvalSet:
    """Return the set for figures that need only one: the log's first, else the largest."""
    judged = {configured.name for configured in cfg.evaluate.sets}
    logged = (each for each in sets if each.name not in judged)
    return next(logged, max(sets, key=len))


def open_system(cfg: Config, folder: Path, model: str) -> GenerativeSystem:
    """Return the trained model of a method, ready to search."""
    catalogue = open_dataset(folder / "data").catalogue
    sids = load_sids(folder / "sid" / "sids.parquet", catalogue.item_ids)
    return GenerativeSystem(
        MODEL,
        folder / model / "model",
        PrefixIndex.load(folder / "index"),
        sids,
        catalogue,
        cfg.decode,
        device(cfg),
        query_side(load_encoder(cfg), cfg.sid.view).encode,
    )


def _measure(cfg: Config, folder: Path, model: str, out: Path) -> dict[str, float | str]:
    dataset = open_dataset(folder / "data")
    system = open_system(cfg, folder, model)
    index = system.retriever.index
    centroids = load_tokenizer(folder / "sid").reconstruct(index.table)
    side = query_side(load_encoder(cfg), cfg.sid.view)
    quantised = QuantisedDense(centroids, index.expand_with_source, side)
    scorer = Scorer(dataset.catalogue, dataset.priors(), index, cfg)
    values, facts = PerQuery(), {}
    sets = scored_sets(cfg, folder / "data")
    for test_set in in_mode(sets, cfg.evaluate.prompts):
        name, ids, prompts = test_set.name, test_set.query_ids, test_set.prompts
        progress(f"{folder.parent.name}: {name}, {len(test_set)} queries")
        job = scorer.open(test_set)
        scorer.score(values, job, MODEL, system.hits(prompts, cfg.evaluate.depth), system)
        nearest = quantised.hits(prompts, cfg.evaluate.depth)
        scores = score_ranking(job.truth, nearest.rows, QUANTISED)
        values.add(name, MODEL, "quantised", scores, ids)
        facts[name] = {key: value for key, value in job.facts.items() if key != "systems"}
    values.write(out)
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    return {"density": index.density, "swept": main_set(cfg, sets).name}


class CachedEncoder:
    """An encoder that encodes each text once: all methods ask the same queries."""

    def __init__(self, encoder: Embedder) -> None:
        self._encoder = encoder
        self._vectors: dict[str, np.ndarray] = {}
        self.dim, self.bf16 = encoder.dim, encoder.bf16

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Return (n, D) float32."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            vectors = np.asarray(self._encoder.encode(new, batch_size))
            self._vectors.update(zip(new, vectors, strict=True))
        if not len(texts):
            return np.zeros((0, self.dim), np.float32)
        return np.stack([self._vectors[text] for text in texts])


def load_encoder(cfg: Config) -> Embedder:
    """Return the run's embedder, loaded once per process."""
    return _load_encoder(cfg.embed.model_dump_json(), device(cfg))


@lru_cache(maxsize=1)
def _load_encoder(embed: str, on: str) -> Embedder:
    encoder = load_embedder(EmbedConfig.model_validate_json(embed), on)
    return encoder if isinstance(encoder, TowerEmbedder) else CachedEncoder(encoder)


def _settings(cfg: Config) -> dict[str, object]:
    """Return the part of the config and of this code that decides the measures."""
    unread = {"bootstrap", "systems", "tune_queries", "best"}
    if not cfg.evaluate.metrics:  # older folders were measured before there was such an option
        unread |= {"metrics"}
    return {
        "version": VERSION,
        "decode": cfg.decode.model_dump(mode="json"),
        "evaluate": cfg.evaluate.model_dump(mode="json", exclude=unread),
        "files": [fingerprint(Path(path)) for path in (*set_files(cfg), *metric_files(cfg))],
    }


def artifact_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the hash of each artefact below ``folder``; ``missing`` where there is none."""
    manifests = {name: read_manifest(folder / name) for name in names}
    return {name: kept.hash if kept else "missing" for name, kept in manifests.items()}


def is_fresh(folder: Path, config: Mapping[str, object], inputs: Mapping[str, str]) -> bool:
    """Return whether the artefact ``folder`` was made from these."""
    kept = read_manifest(folder)
    return kept is not None and (kept.config, kept.inputs) == (config, inputs)

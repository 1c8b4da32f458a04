"""Run every system on every set and leave the evidence: run files, per-query values, tests, table
and report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sidar.baselines import Fusion, System, tune_fusion
from sidar.config import Config
from sidar.evaluate import report, table
from sidar.evaluate.claims import paired_claims
from sidar.evaluate.measures.metrics import objective
from sidar.evaluate.measures.plugin_metrics import headers
from sidar.evaluate.perquery import PerQuery, summarise, write_queries
from sidar.evaluate.runs import write_trec_hits
from sidar.evaluate.scorer import TOPIC_ORACLE, Index, Job, Priors, Scorer
from sidar.evaluate.slices import slice_means, subset_by_hash
from sidar.evaluate.systems import default_fusions, fusion_parts, is_generative
from sidar.evaluate.usage import sid_usage
from sidar.types import Catalogue, EvalSet, Hits, Json


def run_suite(
    systems: Mapping[str, System],
    eval_sets: Sequence[EvalSet],
    catalogue: Catalogue,
    priors: Priors,
    sid_index: Index | None = None,
    *,
    out: Path,
    cfg: Config,
    tune_sets: Sequence[EvalSet] = (),
    fuse_with: Collection[str] | None = None,
    topic_oracle: Collection[str] | None = None,
    trained_on: Mapping[str, int] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Json:
    """Score ``systems`` and their fusions on ``eval_sets``; write everything into ``out``; return
    ``scores.json``.

    ``tune_sets``: sets of role valid, on which fusion weights are chosen (without any: equal RRF).
    ``fuse_with``: the generative systems that are fused with BM25 + dense (default: all).
    ``topic_oracle``: names of the sets that get the topic-oracle row (default: those whose config
    says so). ``trained_on``: queries by set that training has seen, although a judged set should be
    held out; kept in the set's facts. Sets of the log are also split into seen and unseen queries
    (``<set>/seen``, ``<set>/unseen``). Files: ``runs/<set>.<system>.trec``, ``per_query.parquet``,
    ``queries.parquet``, ``scores.json``, ``table.md``, ``report.html``.
    """
    if not eval_sets:
        raise ValueError(
            "nothing to score: no evaluation set of role test; name one under evaluate.sets"
        )
    out = Path(out)
    fusions = _fusions(systems, cfg, fuse_with)
    tuned = _tune(systems, fusions, eval_sets, tune_sets, catalogue, cfg, say)
    scorer = Scorer(catalogue, priors, sid_index, cfg)
    scored = Scored()
    for eval_set in eval_sets:
        job = scorer.open(eval_set)
        if seen := (trained_on or {}).get(eval_set.name):
            job.facts["trained_on"] = seen
        results = _ask(systems, eval_set, cfg, say)
        for name, hits in results.items():
            if systems[name].scored:
                scorer.score(scored.values, job, name, hits, systems[name])
        for name, parts in fusions.items():
            channels = [results[part] for part in parts]
            results[name] = tuned[name][eval_set.name](channels, cfg.evaluate.depth)
            scorer.score(scored.values, job, name, results[name], None)
        if _has_oracle(eval_set.name, cfg, topic_oracle):
            scorer.score_oracle(scored.values, job)
        rows = {n: hits for n, hits in results.items() if n not in systems or systems[n].scored}
        _write_runs(out, rows, eval_set, catalogue)
        scored.keep(job)
        if eval_set.name not in {judged.name for judged in cfg.evaluate.sets}:
            for part in scorer.split_by_seen(scored.values, job):
                scored.keep(part)
    write_queries(out, scored.queries)
    scored.values.write(out)
    how_fused = {
        name: {
            "parts": parts,
            "sets": {s: _fusion_fact(f, tune_sets) for s, f in tuned[name].items()},
        }
        for name, parts in fusions.items()
    }
    scores = {
        **_header(cfg, catalogue),
        **_rows(systems, fusions),
        "fusions": how_fused,
        "sid_usage": None if sid_index is None else sid_usage(sid_index, priors),
        **_statistics(scored, systems, fusions, cfg),
    }
    (out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    (out / "table.md").write_text(table.to_markdown(scores))
    report.write_html(out, cfg.run_dir, cfg)
    return scores


@dataclass
class Scored:
    """What scoring leaves: per-query values, and queries and facts of every set."""

    values: PerQuery = field(default_factory=PerQuery)
    queries: list[Json] = field(default_factory=list)
    facts: dict[str, Json] = field(default_factory=dict)

    def keep(self, job: Job) -> None:
        """Add the queries and facts of a scored set."""
        self.facts[job.eval_set.name] = job.facts
        self.queries += job.queries

    @property
    def clusters(self) -> dict[str, dict[str, str]]:
        """Return ``{set: {query id: cluster}}``."""
        clusters: dict[str, dict[str, str]] = {name: {} for name in self.facts}
        for row in self.queries:
            clusters[row["set"]][row["query_id"]] = row["cluster"]
        return clusters


def _ask(
    systems: Mapping[str, System], eval_set: EvalSet, cfg: Config, say: Callable[[str], None]
) -> dict[str, Hits]:
    """Return every system's results of a set."""
    results = {}
    for name, system in systems.items():
        say(f"{eval_set.name}: {name}, {len(eval_set)} queries")
        results[name] = system.hits(eval_set.prompts, cfg.evaluate.depth)
    return results


def _has_oracle(name: str, cfg: Config, topic_oracle: Collection[str] | None) -> bool:
    """Return whether the set ``name`` gets the row of the topic oracle."""
    if topic_oracle is not None:
        return name in topic_oracle
    return name in {judged.name for judged in cfg.evaluate.sets if judged.topic_oracle}


def _write_runs(
    out: Path, rows: Mapping[str, Hits], eval_set: EvalSet, catalogue: Catalogue
) -> None:
    """Write one TREC file per row into ``runs/``."""
    for name, hits in rows.items():
        path = out / "runs" / f"{eval_set.name}.{name}.trec"
        write_trec_hits(path, hits, eval_set.query_ids, catalogue, name)


def _header(cfg: Config, catalogue: Catalogue) -> Json:
    """Return what ``scores.json`` says of the run as a whole."""
    header: Json = {
        "version": 1,
        "seed": cfg.seed,
        "bootstrap": cfg.evaluate.bootstrap,
        "beams": {
            "beam": cfg.decode.beam,
            "wide": cfg.evaluate.wide_beam,
            "depth": cfg.evaluate.depth,
        },
        "catalogue": {
            "items": len(catalogue),
            "alive": int(catalogue.alive.sum()),
            "lineage": catalogue.lineage,
        },
    }
    if cfg.evaluate.metrics:
        header["metrics"] = headers(cfg.evaluate.metrics)
    return header


def _rows(systems: Mapping[str, System], fusions: Collection[str]) -> Json:
    """Return what kind each row is, and what each system says of itself."""
    kinds: dict[str, str] = {name: system.kind for name, system in systems.items()}
    kinds |= dict.fromkeys(fusions, "fusion")
    kinds[TOPIC_ORACLE] = "oracle"
    return {
        "kinds": kinds,
        "about": {name: system.about for name, system in systems.items()},
    }


def _statistics(
    scored: Scored,
    systems: Mapping[str, System],
    fusions: Mapping[str, tuple[str, ...]],
    cfg: Config,
) -> Json:
    """Return means, intervals and slices of every set, and the paired tests."""
    clusters = scored.clusters
    summary = summarise(scored.values, clusters, samples=cfg.evaluate.bootstrap, seed=cfg.seed)
    metrics = [f"item/{name}" for name in cfg.evaluate.metrics]
    for name, facts in scored.facts.items():
        facts["systems"] = summary[name]
        facts["slices"] = slice_means(scored.values, name, scored.queries, metrics)
    tests = paired_claims(
        scored.values,
        clusters,
        [name for name, system in systems.items() if is_generative(system)],
        fusions,
        samples=cfg.evaluate.bootstrap,
        seed=cfg.seed,
        channels=list(cfg.channels),
        metrics=metrics,
    )
    return {"sets": scored.facts, "tests": tests}


def _fusion_fact(fusion: Fusion, tune_sets: Sequence[EvalSet]) -> Json:
    tuned = bool(tune_sets) and bool(np.isfinite(fusion.value))
    return {
        "method": fusion.method,
        "weights": list(fusion.weights),
        "value": fusion.value if tuned else None,
        "tuned": tuned,
    }


def _fusions(
    systems: Mapping[str, System], cfg: Config, fuse_with: Collection[str] | None
) -> dict[str, tuple[str, ...]]:
    """The fusions to score: those that the config names, else the default ones."""
    if cfg.evaluate.systems:
        named = {
            name: fusion_parts(name, systems)
            for name in cfg.evaluate.systems
            if name not in systems
        }
        if strange := [name for name, parts in named.items() if parts is None]:
            raise ValueError(
                f"evaluate.systems names {', '.join(strange)}, but there are only "
                f"{', '.join(systems)} and fusions of them such as bm25+dense"
            )
        return {name: parts for name, parts in named.items() if parts}
    generative = [name for name, system in systems.items() if is_generative(system)]
    fused = [name for name in generative if fuse_with is None or name in fuse_with]
    return default_fusions(systems, fused, list(cfg.channels))


def _tune(
    systems: Mapping[str, System],
    fusions: Mapping[str, tuple[str, ...]],
    eval_sets: Sequence[EvalSet],
    tune_sets: Sequence[EvalSet],
    catalogue: Catalogue,
    cfg: Config,
    say: Callable[[str], None],
) -> dict[str, dict[str, Fusion]]:
    """{fusion: {set: how to fuse}}: weights of the highest nDCG@10 on the tune sets of the set's
    origin, else on all.

    Judged and logged queries want different mixtures, and a service knows which it serves; more
    would be fitting the weights to one set.
    """
    small = [
        _subset(each, subset_by_hash(each.query_ids, cfg.evaluate.tune_queries))
        for each in tune_sets
    ]
    used = {part for parts in fusions.values() for part in parts}
    found: dict[tuple[str, str], Hits] = {}
    for each in small if fusions else []:
        for name in sorted(used):
            say(f"{each.name}: {name}, {len(each)} queries for fusion weights")
            found[each.name, name] = systems[name].hits(each.prompts, cfg.evaluate.depth)
    goals = {each.name: objective(each, catalogue, "ndcg@10") for each in small}
    tuned: dict[str, dict[str, Fusion]] = {}
    for name, parts in fusions.items():
        by_origin: dict[str, Fusion] = {}
        tuned[name] = {}
        for eval_set in eval_sets:
            if eval_set.origin not in by_origin:
                near = [each for each in small if each.origin == eval_set.origin] or small
                folds = [
                    ([found[each.name, part] for part in parts], goals[each.name]) for each in near
                ]
                even = Fusion("rrf", (1 / len(parts),) * len(parts))
                by_origin[eval_set.origin] = tune_fusion(folds, k=10) if folds else even
            tuned[name][eval_set.name] = by_origin[eval_set.origin]
    return tuned


def _subset(eval_set: EvalSet, at: np.ndarray) -> EvalSet:
    ids = tuple(eval_set.query_ids[i] for i in at)
    return EvalSet(
        eval_set.name, ids, tuple(eval_set.prompts[i] for i in at), eval_set.qrels, eval_set.origin
    )

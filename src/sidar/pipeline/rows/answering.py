"""The stage ``answer``: count what was chosen, tune the lexical channel, and fit how all becomes
one answer.

Everything is chosen on requests of the log's validation window, with counts and models of the days
before; the files that it leaves hold the counts of training and validation together, as a shop
would have them on the next day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sidar.answer.facts import GENERATIVE, write_facts
from sidar.answer.fit import Fit, fit_answer
from sidar.answer.smoothed import popularity
from sidar.baselines import DEPTH, Bm25, System
from sidar.config import Config
from sidar.data import open_dataset
from sidar.data.dataset import Dataset
from sidar.embed import Embedder, load_embedder
from sidar.evaluate.measures.metrics import objective
from sidar.evaluate.systems import TextSystem
from sidar.pipeline.rows.answer_log import FittingRequests, Log, read_log, run_key
from sidar.pipeline.rows.answer_rows import CandidatePrior, describe
from sidar.pipeline.rows.answer_texts import requests_without_log
from sidar.pipeline.rows.dense_rows import answer_dense
from sidar.pipeline.rows.memory_row import fit_memory_row
from sidar.pipeline.rows.ranked_row import beside_ranker
from sidar.types import Catalogue, Json

#: Queries that the lexical channel is tuned on.
TUNE = 256


def fuses(cfg: Config, report: Json) -> bool:
    """Whether bundle and tables have a fused answer: asked for, or ``auto`` and the log has
    choices, or there is no log and P₀ alone answers.
    """
    actions = report["events"]["actions"]
    chosen = sum(int(actions[name]) for name in ("click", "cart", "order"))
    if cfg.decode.fuse == "ranker" and not cfg.ranker.enabled:
        raise ValueError(
            "decode.fuse is 'ranker' but no ranker is fitted; set ranker.enabled to true, or "
            "decode.fuse to 'auto'"
        )
    if not cfg.has_log:
        return cfg.decode.fuse != "none"
    if cfg.decode.fuse in ("memory", "ranker") and not chosen:
        raise ValueError(
            f"decode.fuse is {cfg.decode.fuse!r} but the log has no click, cart or order to "
            "remember; set decode.fuse to 'none'"
        )
    return cfg.decode.fuse != "none" and chosen > 0


def tuned_lexical(lexical: Bm25, asked: FittingRequests, catalogue: Catalogue) -> Bm25:
    """Fields, weights and constants of BM25 by nDCG@10 of what the fitting requests chose."""
    some = asked.eval_set(catalogue, TUNE)
    if not len(some):
        return lexical
    return lexical.tune(
        [prompt.query for prompt in some.prompts], objective(some, catalogue, "ndcg@10", relevant=0)
    )


def fit(log: Log, channels: Mapping[str, System], counts: np.ndarray, alive: np.ndarray) -> Fit:
    """Fit the answer over ``channels`` to the log's requests; ``counts`` (N,) training clicks."""
    found = {name: channel.hits(log.asked.prompts, DEPTH) for name, channel in channels.items()}
    return fit_answer(found, log.chosen, popularity(counts, alive), int(alive.sum()))


def answer(cfg: Config, inputs: Mapping[str, Path], out: Path, work: Path) -> Json:
    """Write ``memory.parquet``, the tuned BM25 and ``answer.json`` of the model of ``cfg.align``
    into ``out``.

    With ``decode.rerank: dense`` the generative channel is reranked where the likelihood is higher
    so.  Without choices in the log, or with ``decode.fuse: none``, nothing is fused; a weight to
    rerank with is chosen all the same, where a request has a query text to choose it on.  There is
    no default weight: its scale is the encoder's.
    """
    from sidar.pipeline.runtime import device

    dataset = open_dataset(inputs["data"])
    fused = fuses(cfg, dataset.report)
    if not fused and cfg.decode.rerank == "none":
        write_facts(out, {"fuse": "none"})
        return {"summary": "nothing to fuse: the model answers alone", "shapes": {"fuse": "none"}}
    asked = requests_without_log(cfg, inputs["data"])
    log = read_log(cfg, inputs["data"], run_key(cfg), work, asked)
    fused = fused and _can_be_fitted(cfg, log)
    embedder = load_embedder(cfg.embed, device(cfg))
    candidates, rerank = _candidates(cfg, inputs, dataset, log, embedder)
    facts: Json = {
        "fuse": "memory" if fused else "none",
        "label": candidates[0].name,
        "rerank": rerank,
        "held_out": log.asked.held_out,
    }
    if not cfg.has_log:
        facts["fitted_on"] = log.asked.source
    if fused:
        lines = _fuse(cfg, inputs, dataset, log, embedder, candidates, facts, out)
        summary = "\n".join(lines)
    elif rerank is None:
        summary = "nothing fused; not reranked: no request to weigh the cosine on"
    else:
        summary = f"nothing fused; reranked with weight {rerank['weight']:g}"
    write_facts(out, facts)
    shapes = {"fuse": facts["fuse"], "requests": len(log.asked)}
    return {"summary": summary, "shapes": shapes}


def _can_be_fitted(cfg: Config, log: Log) -> bool:
    """Return whether there is a request to fit the answer to; ``ValueError`` where it was asked
    for and there is none.
    """
    if not len(log.asked) and cfg.decode.fuse in ("memory", "ranker"):
        raise ValueError(
            f"decode.fuse is {cfg.decode.fuse!r}, but no request of the log has a query or a "
            "history and chose a live item, so there is nothing to fit the answer to; set "
            "decode.fuse to 'none'"
        )
    return len(log.asked) > 0


def _candidates(
    cfg: Config, inputs: Mapping[str, Path], dataset: Dataset, log: Log, embedder: Embedder
) -> tuple[list[System], Json | None]:
    """Return the aligned model and, with a weight to be chosen, its reranked row, of which one is
    the answer's generative channel; and what the weight was chosen on.
    """
    from sidar.embed import load_items, query_side
    from sidar.index import PrefixIndex
    from sidar.pipeline.rows.generative import GenerativeSystem
    from sidar.pipeline.rows.rerank import Reranked
    from sidar.pipeline.runtime import device
    from sidar.sid import load_sids

    catalogue = dataset.catalogue
    model = GenerativeSystem(
        cfg.align.model_name,
        inputs[cfg.align.folder] / "model",
        PrefixIndex.load(inputs["index"]),
        load_sids(inputs["sid"] / "sids.parquet", catalogue.item_ids),
        catalogue,
        cfg.decode,
        device(cfg),
        query_side(embedder, cfg.sid.view).encode,
    )
    some = log.asked.eval_set(catalogue)
    # without any query text there is no cosine to weigh
    if cfg.decode.rerank != "dense" or not len(some):
        return [model], None
    row = Reranked(model, query_side(embedder).encode, load_items(inputs["embed"]))
    rerank = row.tune([some], catalogue, cfg.memory.requests)
    return [model, row], rerank


def _fuse(
    cfg: Config,
    inputs: Mapping[str, Path],
    dataset: Dataset,
    log: Log,
    embedder: Embedder,
    candidates: Sequence[System],
    facts: Json,
    out: Path,
) -> list[str]:
    """Fit the answer, write its memory, BM25 and dense cells into ``out``, add what was chosen to
    ``facts``, and return the summary.
    """
    catalogue, priors = dataset.catalogue, dataset.priors()
    lexical = tuned_lexical(Bm25(catalogue), log.asked, catalogue)
    dense, cells, searched = answer_dense(cfg, inputs["embed"], embedder, catalogue.alive)
    base: dict[str, System] = {"bm25": TextSystem("bm25", lexical), "dense": dense}
    without = fit(log, base, priors.clicks, catalogue.alive)
    fits = [
        fit(log, {**base, GENERATIVE: row}, priors.clicks, catalogue.alive) for row in candidates
    ]
    best = max(range(len(fits)), key=lambda i: fits[i].value)
    facts |= {
        "fit": fits[best].to_json(),
        "without_generative": without.to_json(),
        "reranked": best == 1,
        "dense": searched,
        "log_likelihood": {
            row.name: fitted.value for row, fitted in zip(candidates, fits, strict=True)
        },
        "memory": {
            "queries": log.memory.n_queries,
            "entries": len(log.memory),
            **asdict(log.memory.facts),
        },
    }
    if cfg.has_log:  # there is no click table without clicks
        results = [channel.hits(log.asked.prompts, DEPTH) for channel in base.values()]
        results.append(CandidatePrior(priors.prior, []).over(results))
        facts["memory_row"] = fit_memory_row(log, results, catalogue).to_json()
    log.memory.save(out)
    lexical.save(out)
    if cells is not None:
        cells.save(out)
    lines = _summary(cfg, log, fits[best], without, candidates[best].name)
    if "ranker" in inputs:
        channels = {**base, GENERATIVE: candidates[best]}
        chosen = beside_ranker(
            cfg, inputs, dataset, log, embedder, channels, lexical, fits[best].params, out
        )
        facts |= chosen.facts
        lines.append(chosen.summary)
    return lines


def _summary(cfg: Config, log: Log, best: Fit, without: Fit, name: str) -> list[str]:
    """What the fit found, in words."""
    facts = log.memory.facts
    lines = [
        f"{log.memory.n_queries:,} queries remembered; {describe(best.params)}",
        (
            f"log-likelihood of {best.requests:,} requests {best.value:.3f} with {name}, "
            f"{without.value:.3f} without"
        ),
    ]
    if not cfg.has_log:
        lines.append(
            f"no log: fitted to {len(log.asked):,} queries of {log.asked.source}; kappa and "
            "half-life stay at their start, and count once `sidar memory update` reads a first day"
        )
    if not log.asked.held_out:
        lines.append(
            "WARNING: there is no validation window, so the answer was fitted by leaving one "
            "training request out of the counts at a time; the model has seen these requests, and "
            "its weight may be too large"
        )
    if cfg.memory.debias == "ips":
        lines.append(f"counts weighted by inverse propensity: effective n {facts.effective_n:,.0f}")
    return lines

"""What the kept models answer: searches, free decoding, codes, scores, losses, gradients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from golden import entry
from golden.kept import (
    BUNDLE,
    FIXTURES,
    FULL,
    LISTS,
    QUERIES,
    REQUESTS,
    SEARCHES,
    SFT,
    VARIED,
    WEIGHTED,
)

Json = dict[str, Any]


def retriever_of(name: str) -> Any:
    """Return a kept bundle, or a kept checkpoint with the bundle's catalogue, SIDs and index."""
    if name in ("sft", "sft-full"):
        return entry.load_checkpoint({"sft": SFT, "sft-full": FULL}[name] / "model", BUNDLE)
    return entry.Retriever.load({"bundle": BUNDLE, "bundle-varied": VARIED}[name])


def answers(name: str, retriever: Any) -> dict[str, Json]:
    """Return the answers of every variant in :data:`~golden.kept.SEARCHES` for every query, figures
    as (Q, k) arrays.

    Keys that begin with an underscore are figures; the others are exact.
    """
    return {variant: _answered(retriever, dict(asked)) for variant, asked in SEARCHES[name].items()}


def _answered(retriever: Any, asked: Json) -> Json:
    k = asked.pop("k", 10)
    explained = [retriever.explain(query, k, levels=False, **asked) for query in QUERIES]
    results = [one.results for one in explained]
    depth, steps = max(map(len, results)), max(len(r.level_logp) for one in results for r in one)
    arrays = {
        name: np.full((len(QUERIES), depth), np.nan)
        for name in ("score", "probability", "cosine", "count")
    }
    arrays["level_logp"] = np.full((len(QUERIES), depth, steps), np.nan)
    for q, one in enumerate(results):
        for place, result in enumerate(one):
            for field in ("score", "probability", "cosine", "count"):
                value = getattr(result, field)
                arrays[field][q, place] = np.nan if value is None else value
            arrays["level_logp"][q, place, : len(result.level_logp)] = result.level_logp
    for field in ("mass", "seen"):
        arrays[field] = np.array([getattr(one, field) for one in explained])
    return {
        "items": [[r.item_id for r in one] for one in results],
        "sids": [" ".join(r.sid_text for r in one) for one in results],
        "ranks": [[r.rank for r in one] for one in results],
        "channels": [[" ".join(r.channels) for r in one] for one in results],
        "beam": [one.beam for one in explained],
        "fuse": [one.fuse for one in explained],
        "rerank": [one.rerank for one in explained],
        "notes": [list(one.notes) for one in explained],
        "ignored": [list(one.ignored_history) for one in explained],
        **{f"_{field}": values for field, values in arrays.items() if not np.isnan(values).all()},
    }


def beams_level_by_level(retriever: Any) -> list[Json]:
    """Return the levels of one explained search: what the page shows of the beam."""
    levels = retriever.explain("bath towel", 5, beam=4, fuse="none").levels
    return json.loads(json.dumps([asdict(level) for level in levels]))


def catalogue_inputs() -> dict[str, Any]:
    """Return what a tokenizer reads of the toy catalogue: vectors, category paths, ids."""
    table = pq.read_table(FIXTURES / "inputs" / "catalogue.parquet")
    return {
        "vectors": np.load(BUNDLE / "embed" / "items.npy"),
        "categories": table.column("category").to_pylist(),
        "item_ids": table.column("item_id").to_pylist(),
    }


def tokenizer_codes() -> dict[str, Json]:
    """Return the SID table of every kept tokenizer, and the codes that it gives when loaded."""
    inputs, found = catalogue_inputs(), {}
    for folder in sorted((FIXTURES / "sid").iterdir()):
        table = entry.read_sid_table(folder / "sids.parquet", inputs["item_ids"])
        encoded = entry.encode_items(folder, **inputs)
        found[folder.name] = {
            **table,
            "codes": table["codes"].tolist(),
            "lengths": table["lengths"].tolist(),
            "encoded": encoded.tolist(),
        }
    return found


def free(retriever: Any) -> dict[str, np.ndarray]:
    """Return what free decoding of :data:`~golden.kept.REQUESTS` writes."""
    return entry.free_decode(retriever, REQUESTS, beam=8)


# ---------------------------------------------------------------------- losses

#: Options of RAD-DPO whose losses are recorded beside every objective's defaults.
ABLATIONS: dict[str, tuple[str, Json]] = {
    "raddpo without tlgd": ("raddpo", {"tlgd": False}),
    "raddpo without rdrw": ("raddpo", {"rdrw": False}),
    "raddpo pairwise": ("raddpo", {"contrast": "pairwise"}),
    "raddpo top": ("raddpo", {"mlsft": "top"}),
    "raddpo no sft": ("raddpo", {"mlsft": "none"}),
    "raddpo constant": ("raddpo", {"rdrw_weights": "constant"}),
    "raddpo shuffled": ("raddpo", {"rdrw_weights": "shuffled"}),
    "raddpo beta inside": ("raddpo", {"beta_inside": True, "beta": 1.5}),
    "raddpo any positive": ("raddpo", {"lcp": "any_pos"}),
    "raddpo-paper pairwise": ("raddpo-paper", {"contrast": "pairwise"}),
    "sft flat": ("sft", {"positives": "flat"}),
    "simpo gamma": ("simpo", {"beta": 1.0, "gamma": 0.5}),
    "orpo lam": ("orpo", {"lam": 0.5}),
}


def objectives(names: list[str]) -> dict[str, tuple[str, Json]]:
    """Return every objective with its defaults, and :data:`ABLATIONS`."""
    return {name: (name, {}) for name in names} | ABLATIONS


def losses_of_arrays(
    arrays: Mapping[str, np.ndarray], names: list[str]
) -> tuple[dict[str, Json], dict[str, np.ndarray]]:
    """Return loss and logs of each objective on given fp64 scores, and the gradient of ``logp``."""
    numbers: dict[str, Json] = {}
    gradients: dict[str, np.ndarray] = {}
    for label, (name, options) in objectives(names).items():
        scores = entry.scores_of_arrays(dict(arrays))
        try:
            loss, logs = entry.objective_loss(name, scores, options)
        except ValueError:
            numbers[label] = {"refused": True}
            continue
        loss.backward()
        numbers[label] = {"loss": float(loss.detach()), "logs": logs}
        gradients[label] = scores.logp.grad.numpy()
    return numbers, gradients


def synthetic_batches() -> dict[str, dict[str, np.ndarray]]:
    """Return fp64 scores of made-up lists: one length, several lengths, and weights on the
    positives.

    Random numbers stand in the recording, so that no generator has to stay the same.
    """
    rng = np.random.default_rng(0)
    fixed, varied = _made_up(rng, varied=False), _made_up(rng, varied=True)
    weight = np.where(fixed["is_positive"], rng.uniform(0.2, 3.0, fixed["is_positive"].shape), 1.0)
    return {"one length": fixed, "lengths": varied, "weighted": fixed | {"weight": weight}}


def _made_up(rng: np.random.Generator, varied: bool) -> dict[str, np.ndarray]:
    """Return 4 lists of at most 6 candidates over 3 levels; the last list has no negative."""
    shape = lists, candidates, steps = 4, 6, 4
    lengths = rng.integers(1, 4, (lists, candidates)) if varied else np.full((lists, candidates), 3)
    column = np.arange(steps)
    tokens = rng.integers(0, 3, shape) + 3 * column
    tokens = np.where(
        column == lengths[..., None], 9, np.where(column > lengths[..., None], -1, tokens)
    )
    positives, negatives = np.array([1, 2, 3, 2])[:, None], np.array([3, 4, 2, 0])[:, None]
    place = np.arange(candidates)
    is_positive = np.broadcast_to(place < positives, (lists, candidates)).copy()
    is_negative = (place >= positives) & (place < positives + negatives)
    real = (is_positive | is_negative)[..., None]
    mask = real & (column < (lengths + varied)[..., None])
    star = np.array([0, 1, 1, 0])
    tier = is_positive.astype(np.int64)
    tier[np.arange(lists), star] = 3
    return {
        "logp": np.where(mask, -rng.uniform(0.01, 3.0, shape), 0.0),
        "mask": mask,
        "tokens": np.where(real, tokens, -1),
        "is_positive": is_positive,
        "is_negative": is_negative,
        "tier": tier,
        "star": star,
        "hidden": rng.normal(size=(lists, candidates, 5)),
        "ref_logp": np.where(mask, -rng.uniform(0.01, 3.0, shape), 0.0),
    }


def losses_of_model(retriever: Any, names: list[str]) -> dict[str, Json]:
    """Return loss, logs and norms of the gradients of each objective on the fixed lists, under a
    kept model.

    The reference is the model itself moved by a constant, so that no objective compares equal
    log-probs.
    """
    found: dict[str, Json] = {}
    for label, (name, options) in objectives(names).items():
        scores = entry.candidate_scores(retriever, LISTS)
        scores.ref_logp = (scores.logp * 0.9).detach()
        loss, logs = entry.objective_loss(name, scores, options)
        found[label] = {
            "loss": float(loss.detach()),
            "logs": logs,
            "norms": entry.gradient_norms(retriever, loss),
        }
    return found


def scores_of_model(retriever: Any) -> dict[str, np.ndarray]:
    """Return the ``CandidateScores`` of the fixed lists, plain and weighted, as arrays."""
    found = entry.scores_as_arrays(entry.candidate_scores(retriever, LISTS))
    for state in ("last_code", "item_vector"):
        found[f"hidden {state}"] = entry.scores_as_arrays(
            entry.candidate_scores(retriever, LISTS, state)
        )["hidden"]
    weighted = entry.scores_as_arrays(entry.candidate_scores(retriever, WEIGHTED, None))
    return found | {
        f"weighted {name}": weighted[name] for name in ("logp", "weight", "tier", "star")
    }

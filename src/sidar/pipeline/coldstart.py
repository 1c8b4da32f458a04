"""Cold start, measured: what becomes of items that nothing was trained on.

Two bundles of one lineage: ``before`` was fitted and trained without the items, ``after`` is the
same model and the same codebooks with the items encoded into table and index (``sidar sids
encode``). New items stand beside old ones, because nobody recalls everything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sidar.embed import item_texts
from sidar.serve.bundle import open_bundle
from sidar.serve.retriever import Retriever
from sidar.sid.lifecycle.ledger import Ledger
from sidar.sid.lifecycle.reference import load_reference
from sidar.types import EvalSet, Json, PathLike, Prompt, SemanticIds

BEAMS = (10, 64, 512)


def cold_start(
    before: PathLike,
    after: PathLike,
    eval_sets: Sequence[EvalSet] = (),
    *,
    sample: int = 400,
    k: int = 100,
    seed: int = 0,
) -> Json:
    """JSON-able figures of the items that ``after`` has and ``before`` had not.

    ``quantised``: mean squared error of new items, of items that were left out of a second fit, of
    fitted items. ``shared``: share of new items whose first d codes, and whose whole SID, some old
    item has: what the old index could have reached. ``reached``: share of at most ``sample`` new
    and old items that the model's beam of 10, 64 and 512 finds from their own text. ``recalled``:
    mean recall@k of new and of old relevant items over the queries of ``eval_sets`` that have new
    ones. Raises ``ValueError`` where ``after`` has no new items.
    """
    before, after = Path(before), Path(after)
    old, new = open_bundle(before), open_bundle(after)
    ledger, reference = Ledger.load(after / "sid"), load_reference(after / "sid")
    if ledger is None or not (ledger.cause == "new").any():
        raise ValueError(
            f"{after} has no items that were encoded under frozen codebooks; make it with `sidar "
            "sids encode`"
        )
    line = new.catalogue.rows(ledger.item_ids)
    fresh, fitted = line[ledger.cause == "new"], line[ledger.fitted]
    rng = np.random.default_rng(seed)
    chosen = {"new": _some(fresh, sample, rng), "old": _some(fitted, sample, rng)}
    retriever = Retriever.load(after)
    about = json.loads((after / "embed" / "embedder.json").read_text())
    texts = item_texts(new.catalogue, about["fields"])
    figures: Json = {
        "items": {"new": len(fresh), "old": len(fitted)},
        "quantised": {
            "new": float(ledger.error[ledger.cause == "new"].mean()),
            "fitted": float(ledger.error[ledger.fitted].mean()),
        },
        "shared": shared_prefixes(old.sids, new.sids, fresh),
        "reached": {name: reached(retriever, texts, rows) for name, rows in chosen.items()},
        "recalled": {
            each.name: recalled(retriever, each, set(fresh.tolist()), k) for each in eval_sets
        },
    }
    if reference is not None and reference["how"] == "held out":
        figures["quantised"]["unseen at the fit"] = reference["errors"]["mean"]
    return figures


def shared_prefixes(before: SemanticIds, after: SemanticIds, rows: np.ndarray) -> dict[str, float]:
    """Share of ``rows`` of ``after`` whose first 1, 2, … L codes begin an SID of ``before``;
    ``SID``: the whole one.
    """
    found = {}
    for depth in range(1, after.n_levels + 1):
        known = {tuple(codes) for codes in before.codes[before.lengths >= depth, :depth].tolist()}
        own = after.codes[rows][after.lengths[rows] >= depth][:, :depth].tolist()
        found[str(depth)] = float(np.mean([tuple(codes) in known for codes in own])) if own else 0.0
    whole = {before.tuple_of(int(row)) for row in np.flatnonzero(before.lengths > 0)}
    return found | {"SID": float(np.mean([after.tuple_of(int(row)) in whole for row in rows]))}


def reached(retriever: Retriever, texts: Sequence[str], rows: np.ndarray) -> dict[str, float]:
    """Share of ``rows`` whose SID is among the first 10, 64, 512 of a beam of 512 that reads the
    item's own text.
    """
    prompts = [Prompt(texts[row], task="item") for row in rows]
    width = max(BEAMS)
    sids = np.concatenate(
        [retriever.sid_ranking(prompts[i : i + 32], width) for i in range(0, len(prompts), 32)]
    )
    target = retriever.index.lookup(retriever.sids.codes[rows])
    hit = sids == target[:, None]
    return {str(beam): float(hit[:, :beam].any(axis=1).mean()) for beam in BEAMS}


def recalled(retriever: Retriever, eval_set: EvalSet, fresh: set[int], k: int) -> dict[str, float]:
    """Mean recall@k of new and of old items that are relevant (grade > 0), over the queries that
    have such an item.
    """
    truths = [
        {
            int(row)
            for row in retriever.catalogue.rows([i for i, g in eval_set.qrels[q].items() if g > 0])
            if row >= 0
        }
        for q in eval_set.query_ids
    ]
    asked = [i for i, truth in enumerate(truths) if truth & fresh]
    if not asked:
        return {"queries": 0}
    ranked = retriever.hits([eval_set.prompts[i] for i in asked], k, beam=max(BEAMS)).rows
    shares: dict[str, list[float]] = {"new": [], "old": []}
    for found, i in zip(ranked.tolist(), asked, strict=True):
        for name, truth in (("new", truths[i] & fresh), ("old", truths[i] - fresh)):
            if truth:
                shares[name].append(len(truth & set(found)) / len(truth))
    return {
        "queries": len(asked),
        **{name: float(np.mean(values)) for name, values in shares.items() if values},
    }


def _some(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(rows)[:n])

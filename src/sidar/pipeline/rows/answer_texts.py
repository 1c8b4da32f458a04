"""What the answer is fitted to where there is no log: judged queries that are for tuning, else
pseudo-queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sidar.config import Config
from sidar.data import open_dataset
from sidar.data.judgments.evalsets import build_sets
from sidar.pipeline.rows.answer_log import FittingRequests
from sidar.train.pseudo import Matches, item_words, pseudo_query
from sidar.types import Catalogue, EvalSet, Prompt

#: What ``answer.json`` calls the queries that are made of the products' own words.
PSEUDO = "pseudo-queries"
#: Right answers of one pseudo-query that the answer is fitted to. A word such as a large brand's
#: name has thousands, which say no more than these. [ours]
MOST_MATCHES = 100
#: Keeps these pseudo-queries apart from those that SFT draws (sidar.train.examples). [ours]
_DRAW = 5


def requests_without_log(cfg: Config, data: Path) -> FittingRequests | None:
    """Return what to fit the answer to; None where there is a log to fit it to.

    The first judged set of role ``valid`` goes before simulated ones; without any the products'
    words make the queries.
    """
    if cfg.has_log:
        return None
    catalogue = open_dataset(data).catalogue
    sets = [one.evalset for one in build_sets(cfg, data) if one.role == "valid"]
    sets = sorted(sets, key=lambda one: one.origin != "real")  # stable: the first of each kind
    for one in sets:
        asked = of_judgments(one, catalogue, cfg.memory.requests)
        if len(asked):
            return asked
    return of_words(catalogue, cfg.memory.requests, cfg.seed)


def of_judgments(judged: EvalSet, catalogue: Catalogue, most: int) -> FittingRequests:
    """Return at most ``most`` queries of a set; the items with a query's best grade are what it
    "chose". Queries with no grade above 0 have none and are left out.
    """
    asked: list[tuple[str, Prompt, Sequence[int]]] = []
    for query_id, prompt in zip(judged.query_ids, judged.prompts, strict=True):
        grades = judged.qrels[query_id]
        best = max(grades.values())
        items = sorted(item for item, grade in grades.items() if grade == best)
        if best > 0 and prompt.query.strip():
            asked.append((query_id, prompt, _live_rows(catalogue, items)))
    return _requests(asked[:most], judged.name)


def of_words(catalogue: Catalogue, most: int, seed: int) -> FittingRequests:
    """Return at most ``most`` pseudo-queries, each of another live item; every live item that has
    all the words is a right answer.
    """
    columns = (catalogue.column(name) for name in ("title", "category", "brand"))
    words = [item_words(*parts) for parts in zip(*columns, strict=True)]
    live = np.flatnonzero(catalogue.alive)
    matches = Matches(words, live)
    asked: list[tuple[str, Prompt, Sequence[int]]] = []
    for row in np.random.default_rng([seed, _DRAW]).permutation(live)[:most].tolist():
        rng = np.random.default_rng([seed, _DRAW, row])
        query = pseudo_query(words[row], rng)
        found = matches(query)
        if len(found) > MOST_MATCHES:
            found = np.sort(rng.choice(found, MOST_MATCHES, replace=False))
        if len(found):
            asked.append((f"item {row}", Prompt(query), found.tolist()))
    return _requests(asked, PSEUDO)


def _live_rows(catalogue: Catalogue, item_ids: Sequence[str]) -> list[int]:
    rows = catalogue.rows(item_ids)
    return [int(row) for row in rows if row >= 0 and catalogue.alive[row]]


def _requests(asked: Sequence[tuple[str, Prompt, Sequence[int]]], source: str) -> FittingRequests:
    """Return the requests of (id, prompt, right rows) that have a right row."""
    kept = [one for one in asked if one[2]]
    counts = [len(rows) for _, _, rows in kept]
    return FittingRequests(
        ids=tuple(one[0] for one in kept),
        prompts=tuple(one[1] for one in kept),
        request=np.repeat(np.arange(len(kept)), counts).astype(np.int64),
        row=np.array([row for _, _, rows in kept for row in rows], np.int64),
        held_out=True,
        source=source,
    )

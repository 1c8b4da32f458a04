"""Systems that list what they are told to, and a small world to score them in: for tests of what
reaches what.
"""

import math

import numpy as np

from sidar.baselines import SidSystem, System
from sidar.config import Config
from sidar.data import toy
from sidar.data.training.priors import Priors
from sidar.index import PrefixIndex
from sidar.types import EvalSet, Hits, Prompt, SemanticIds

CATALOGUE = toy.catalogue()
ITEMS = CATALOGUE.item_ids
#: SIDs 0 to 4 hold rows 0–2, 3–4, 5, 6 and 7; all other rows are of SID 5.
SID_OF_ROW = np.array([0, 0, 0, 1, 1, 2, 3, 4, *[5] * 56])
BEAM = 2


def index():
    codes = np.stack([SID_OF_ROW // 3, SID_OF_ROW % 3], axis=1).astype(np.int32)
    return PrefixIndex.build(
        SemanticIds(codes, np.full(64, 2, np.int32), (2, 3)), np.arange(64, 0, -1.0)
    )


def priors():
    clicks = np.arange(64, 0, -1)
    return Priors(clicks, clicks, 0 * clicks, 0 * clicks, np.ones(64, np.int32))


def hits_of(lists):
    width = max(map(len, lists))
    rows = np.full((len(lists), width), -1, np.int32)
    for q, one in enumerate(lists):
        rows[q, : len(one)] = one
    return Hits(rows, np.where(rows >= 0, -np.arange(width, dtype=np.float32), -np.inf))


class Channel(System):
    """Answers each query with a list of its own, and keeps what it was asked."""

    def __init__(self, name, lists):
        self.name, self.lists, self.asked, self.depths = name, lists, [], []

    def hits(self, prompts, k):
        self.depths.append(k)
        self.asked += [prompt.query for prompt in prompts]
        return hits_of([self.lists[prompt.query][:k] for prompt in prompts])


class Writer(Channel, SidSystem):
    """A system that writes SIDs: always 0, 1, 2, 3, whatever beam it is asked for."""

    def __init__(self, name, lists, measured=None):
        super().__init__(name, lists)
        self.beams, self.invalid_asked, self.measured = [], [], measured

    def sid_ranking(self, prompts, beam):
        self.beams.append(beam)
        logp = [-1.0, -1.2, -1.5, -3.0]
        return np.tile(np.arange(4), (len(prompts), 1)), np.tile(np.array(logp), (len(prompts), 1))

    def invalid(self, prompts, seconds=math.inf):
        self.invalid_asked.append(([prompt.query for prompt in prompts], seconds))
        return {"invalid_mass": np.arange(len(prompts), dtype=float)[: self.measured]}


def a_set(name, relevant, origin="real", start=0):
    """Queries with one relevant row each, or a list of rows."""
    ids = tuple(f"{name}-{start + q}" for q in range(len(relevant)))
    grades = [[rows] if isinstance(rows, int) else rows for rows in relevant]
    qrels = {q: {ITEMS[row]: 1.0 for row in rows} for q, rows in zip(ids, grades, strict=True)}
    return EvalSet(name, ids, tuple(Prompt(q) for q in ids), qrels, origin)


def settings(**evaluate):
    return Config.model_validate(
        {"decode": {"beam": BEAM}, "evaluate": {"bootstrap": 20, "depth": 10, **evaluate}}
    )

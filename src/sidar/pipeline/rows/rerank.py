"""Expand and rerank as a row of the table, and the weight that a bundle serves with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sidar.baselines.channel import Kind, System
from sidar.decode.rerank import Pool, choose_weight
from sidar.evaluate.measures.metrics import objective
from sidar.evaluate.slices import subset_by_hash
from sidar.pipeline.rows.generative import GenerativeSystem
from sidar.types import Catalogue, EvalSet, Hits, Json, Prompt

#: What the weight of the dense score is chosen by.
MEASURE = "ndcg@10"


class Reranked(System):
    """``<model>+rerank``: the items of a model's beam by log π(SID) + log s + weight · cosine
    (decode/rerank.py).
    """

    kind: Kind = "fusion"

    def __init__(
        self,
        model: GenerativeSystem,
        encode: Callable[[Sequence[str]], np.ndarray],
        items: np.ndarray,
        weight: float | None = None,
    ) -> None:
        """``encode``: query texts → (n, D) of the encoder that made ``items`` (N, D)."""
        self.name = f"{model.name}+rerank"
        self._model, self._encode, self._items = model, encode, items
        self.weight, self.value = weight, float("nan")

    @property
    def about(self) -> str:
        """Shown in the report."""
        said = "untuned" if self.weight is None else f"{self.weight:g}"
        return (
            f"the items of {self._model.name}'s beam by log π(SID) + w · cosine of query and "
            f"item; w = {said}"
        )

    def tune(self, sets: Sequence[EvalSet], catalogue: Catalogue, queries: int) -> Json:
        """Choose the weight on ``sets`` (role valid; at most ``queries`` of each, by hash) and say
        how.
        """
        folds = []
        for each in sets:
            at = subset_by_hash(each.query_ids, queries)
            ids, prompts = ([part[i] for i in at] for part in (each.query_ids, each.prompts))
            small = EvalSet(each.name, tuple(ids), tuple(prompts), each.qrels, each.origin)
            if ids:
                folds.append((self.pool(small.prompts), objective(small, catalogue, MEASURE)))
        self.weight, self.value = choose_weight(folds, k=10)
        value = None if np.isnan(self.value) else self.value
        return {
            "weight": self.weight,
            "measure": MEASURE,
            "value": value,
            "sets": [each.name for each in sets],
        }

    def pool(self, prompts: Sequence[Prompt]) -> Pool:
        """The expanded items of ``prompts``."""
        vectors = self._encode([prompt.query for prompt in prompts])
        searcher = self._model.retriever
        beams = self._model.beams(prompts)
        return Pool.of(
            beams,
            searcher.index,
            vectors,
            self._items,
            shares=searcher.shares,
            allowed=searcher.allowed,
        )

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        if self.weight is None:
            raise ValueError(f"{self.name} has no weight yet; call tune, or give one")
        return self.pool(prompts).ranked(self.weight, k)

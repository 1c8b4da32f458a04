"""Rewards that only a simulation has: the truth, and chance."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Self
from zlib import crc32

import numpy as np

from sidar.rewards import ItemReward, LoggedRequest, RewardInputs, register_reward


@register_reward("oracle")
class Oracle(ItemReward):
    """The true grade of an item for the query, whoever asks it; 0 for a query without truth."""

    def fit(self, inputs: RewardInputs) -> Self:
        """Read the grounded queries of the training days beside the data folder."""
        folder = inputs.run.parent / "inputs"
        query_of = dict(_read(folder / "grounded_train.queries.tsv"))
        row_of = {item: row for row, item in enumerate(inputs.dataset.catalogue.item_ids)}
        self._grades: dict[str, dict[int, float]] = {}
        for query_id, item, grade in _read(folder / "grounded_train.qrels.tsv"):
            self._grades.setdefault(query_of[query_id], {})[row_of[item]] = float(grade)
        return super().fit(inputs)

    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        grades = self._grades.get(request.prompt.query, {})
        return np.array([grades.get(int(row), 0.0) for row in rows], np.float64)


@register_reward("random")
class Random(ItemReward):
    """A number in [0, 1) that depends on request and item alone."""

    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        keys = [crc32(f"{request.request_id}#{int(row)}".encode()) for row in rows]
        return np.array(keys, np.float64) / 2**32


def _read(path: Path) -> list[list[str]]:
    """Return the rows of a tab-separated file below its header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]

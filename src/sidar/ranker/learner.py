"""What a learner of rankings is, and the tables that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

#: Gain of the labels 0 shown or retrieved, 1 click, 2 cart, 3 order: the weights of the counts.
GAIN = np.array([0.0, 1.0, 2.0, 4.0])
#: Depth of the nDCG that a step or a learner is chosen by.
CUT = 10


@dataclass(frozen=True)
class Prior:
    """The smoothed answer of P candidates: ``logs`` (P,) log P, ``unseen`` (P,) log P₀, which is
    what it says where nobody asked the query before; ``seen`` (R,) bool: somebody did;
    ``queries`` (R,) str in their normal form.
    """

    logs: np.ndarray
    unseen: np.ndarray
    seen: np.ndarray
    queries: np.ndarray

    def hidden(self) -> Prior:
        """Return the same as if nobody had asked the queries before."""
        return Prior(self.unseen, self.unseen, np.zeros_like(self.seen), self.queries)


@dataclass(frozen=True)
class Table:
    """Features (P, F) and labels (P,) 0 to 3 of R requests; ``starts`` (R + 1,), ``weight`` (R,).

    ``relevant`` (R, at most 3) is not kept: ``ideal`` (R,) is the DCG@10 of the request's choices
    in the best order, those that no candidate holds among them.

    ``prior`` says what the smoothed answer says of the candidates, where a learner is to learn what
    that leaves; None = it learns all of it.
    """

    features: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    weight: np.ndarray
    ideal: np.ndarray
    prior: Prior | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """(R,) candidates of each request."""
        return np.diff(self.starts)

    def pick(self, columns: Sequence[int]) -> Table:
        """Return the same requests with some columns alone."""
        picked = np.ascontiguousarray(self.features[:, list(columns)])
        return replace(self, features=picked)

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """Return the requests of ``tables`` one after another."""
        sizes = np.concatenate([table.sizes for table in tables])
        priors = [table.prior for table in tables if table.prior is not None]
        return cls(
            np.concatenate([table.features for table in tables]),
            np.concatenate([table.labels for table in tables]),
            np.concatenate([[0], np.cumsum(sizes)]),
            np.concatenate([table.weight for table in tables]),
            np.concatenate([table.ideal for table in tables]),
            joined_priors(priors) if len(priors) == len(tables) else None,
        )


def joined_priors(priors: Sequence[Prior]) -> Prior:
    """Return what is known of the candidates of several tables, one after another."""
    return Prior(
        np.concatenate([one.logs for one in priors]),
        np.concatenate([one.unseen for one in priors]),
        np.concatenate([one.seen for one in priors]),
        np.concatenate([one.queries for one in priors]),
    )


class Learner(Protocol):
    """A fitted model of rankings."""

    name: str

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return (P,) float64 scores of feature rows (P, F); higher is better."""

    def save(self, path: Path) -> None:
        """Write the model into the file ``path``."""


def ideal_dcg(labels: Sequence[int]) -> float:
    """Return the DCG@10 of a request's labels in the best order."""
    gains = np.sort(GAIN[np.asarray(labels, np.int64)])[::-1][:CUT]
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def ndcg(table: Table, scores: np.ndarray) -> np.ndarray:
    """Return (R,) nDCG@10 of each request under ``scores`` (P,), ties in the table's order.

    Requests without any choice have 0.
    """
    found = np.zeros(len(table))
    for r in range(len(table)):
        at = slice(int(table.starts[r]), int(table.starts[r + 1]))
        order = np.argsort(-scores[at], kind="stable")[:CUT]
        gains = GAIN[table.labels[at][order].astype(np.int64)]
        if table.ideal[r] > 0:
            dcg = float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
            found[r] = dcg / table.ideal[r]
    return found

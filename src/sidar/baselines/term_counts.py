"""How often each word stands in each item: what BM25's scores are made of, read back from them.

An index of bm25s keeps scores alone. A score is idf(w) · t / (t + K(l)) with t the times of the
word in the item, l the words of the item and, for Lucene's variant,

    idf(w) = log(1 + (n − df + ½) / (df + ½)),    K(l) = k₁ (1 − b + b l / mean).

With x = score / idf, t = K x / (1 − x); and as the times of an item add up to l, S = Σ x / (1 − x)
gives l = k₁ (1 − b) S / (1 − k₁ b S / mean). [ours] Both are whole numbers, and the scores that
they give must be those of the index, bit by bit, or nothing is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TermCounts:
    """Word by word, from ``starts`` (V + 1,): the ``items`` (P,) that have it, rising, and how many
    ``times`` (P,) int32; ``lengths`` (n,) int64 are the words of each item.
    """

    starts: np.ndarray
    items: np.ndarray
    times: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of_scores(
        cls,
        scores: Mapping[str, np.ndarray],
        n: int,
        mean_length: float,
        k1: float,
        b: float,
    ) -> TermCounts | None:
        """Return the counts that ``scores`` (``data``, ``indices``, ``indptr``) of ``n`` items were
        made from; None where no whole numbers give them.
        """
        data, items, starts = scores["data"], scores["indices"], scores["indptr"]
        idf = np.repeat(idf_of(np.diff(starts), n), np.diff(starts))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = data / idf.astype(np.float64)
            odds = share / (1 - share)
            total = np.bincount(items, weights=odds, minlength=n)
            lengths = np.rint(k1 * (1 - b) * total / (1 - k1 * b * total / mean_length))
            saturation = saturation_of(lengths, mean_length, k1, b)
            times = np.rint(saturation[items] * odds)
            again = term_scores(idf, times, saturation[items])
        if not np.array_equal(again, data):
            return None
        if not np.array_equal(np.bincount(items, weights=times, minlength=n), lengths):
            return None
        return cls(starts, items, times.astype(np.int32), lengths.astype(np.int64))


def idf_of(frequencies: np.ndarray, n: int) -> np.ndarray:
    """Return (V,) float32 idf of words that stand in ``frequencies`` (V,) of ``n`` items, as bm25s
    rounds it.
    """
    logs = [math.log(1 + (n - df + 0.5) / (df + 0.5)) for df in frequencies.tolist()]
    return np.array(logs, np.float64).astype(np.float32)


def saturation_of(lengths: np.ndarray, mean_length: float, k1: float, b: float) -> np.ndarray:
    """Return (n,) float64 K(l), in the order of operations of bm25s."""
    return np.asarray(k1 * ((1 - b) + b * lengths / mean_length))


def term_scores(idf: np.ndarray, times: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """Return (P,) float32 scores of a word that stands ``times`` (P,) in items of ``saturation``
    (P,).
    """
    return np.asarray(idf * (times / (saturation + times)), np.float32)

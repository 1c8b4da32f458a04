"""BM25 of a catalogue that changes: the scores of an index that was made of today's items.

An index of bm25s holds finished scores, all of which change with the number of items. This one
holds counts, and a score is made when a query asks for it: so a change costs the words of its item,
and document frequencies and mean length are exact. [ours]

Items stand in *slots*, numbered in the order in which they came; a slot is never used again. What
slots hold is kept once for all states of the catalogue and only ever grows; a state is how far it
may read, and which slot each row has. One thread changes, any number search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sidar.baselines.bm25 import Bm25, Bm25Params, bag_of
from sidar.baselines.lexical import Lexical
from sidar.baselines.term_counts import TermCounts, idf_of, saturation_of, term_scores
from sidar.baselines.text import words
from sidar.types import Json

#: Slots are numbered anew where more than this many, and more than half, hold no item any more.
_SPARE_SLOTS = 4096


@dataclass
class _Slots:
    """What stands in the slots: ``first`` for those of the bundle, then word by word what came."""

    vocabulary: dict[str, int]
    first: TermCounts
    # word -> slots, rising, and times: lists, because appending does not disturb who reads
    slots_of: dict[int, list[int]] = field(default_factory=dict)
    times_of: dict[int, list[int]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)  # of the slots behind the first

    def __len__(self) -> int:
        return len(self.first.lengths) + len(self.lengths)

    def append(self, bag: Mapping[str, int]) -> int:
        """Put an item of the words ``bag`` into the next slot and return its number."""
        slot = len(self)
        for word, times in bag.items():
            number = self.vocabulary.setdefault(word, len(self.vocabulary))
            # times first: who finds a slot must find its times
            self.times_of.setdefault(number, []).append(times)
            self.slots_of.setdefault(number, []).append(slot)
        self.lengths.append(sum(bag.values()))
        return slot

    def postings(self, number: int, n_slots: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the slots (p,) below ``n_slots`` that have a word, rising, and its times (p,)."""
        none = np.empty(0, np.int64)
        slots, times = none, none
        if number < len(self.first.starts) - 1:
            part = slice(self.first.starts[number], self.first.starts[number + 1])
            slots, times = self.first.items[part], self.first.times[part]
        later = self.slots_of.get(number)
        if later is not None:
            new = np.array(later, np.int64)
            new = new[: np.searchsorted(new, n_slots)]
            more = np.array(self.times_of[number][: len(new)], np.int64)
            slots, times = np.concatenate([slots, new]), np.concatenate([times, more])
        return slots, times


class LiveBm25(Lexical):
    """``LiveBm25.of(bm25, n).changed(…)`` → another one; this one stays as it is."""

    def __init__(self, params: Bm25Params, slots: _Slots, slot_of: np.ndarray) -> None:
        """``slot_of`` (N,) int64: the slot of each row, −1 = no live item."""
        self.params, self._slots, self._slot_of = params, slots, slot_of
        self._n_slots = len(slots)
        self.rows = np.flatnonzero(slot_of >= 0).astype(np.int32)
        self._live_slots = slot_of[self.rows]
        self._live = np.zeros(self._n_slots, bool)
        self._live[self._live_slots] = True
        lengths = np.concatenate(
            [slots.first.lengths, np.array(slots.lengths[: self._n_slots], np.int64)]
        )
        total = int(lengths[self._live_slots].sum())
        self._saturation = None
        if total:
            mean = total / len(self.rows)
            self._saturation = saturation_of(lengths, mean, params.k1, params.b)
        # word -> what is live of it; made on first use
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def of(cls, bm25: Bm25, n: int) -> LiveBm25 | None:
        """Return the channel over a catalogue of ``n`` rows with the items of ``bm25``; None where
        that was written by a version that did not keep what its scores were made from.
        """
        made = bm25.counts()
        if made is None:
            return None
        counts, rows = made
        slot_of = np.full(n, -1, np.int64)
        live = np.flatnonzero(rows >= 0)
        slot_of[rows[live]] = live
        return cls(bm25.params, _Slots(dict(bm25.vocabulary), counts), slot_of)

    def changed(self, n: int, retired: Iterable[int], new: Mapping[int, Json]) -> LiveBm25:
        """Return the channel over ``n`` rows without the ``retired`` ones and with the fields of
        ``new`` items by row.
        """
        slots, before = self._slots, self._slot_of
        if self._n_slots - len(self.rows) > max(_SPARE_SLOTS, len(self.rows)):
            slots, before = self._compact()
        slot_of = np.full(n, -1, np.int64)
        slot_of[: len(before)] = before
        slot_of[np.fromiter(retired, np.int64)] = -1
        for row, item in new.items():
            slot_of[row] = slots.append(bag_of(item, self.params.weights))
        return LiveBm25(self.params, slots, slot_of)

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(queries), len(self.rows)), np.float32)
        for place, query in enumerate(queries):
            by_slot = np.zeros(self._n_slots, np.float32)
            for number in self._numbers(query):
                slots, values = self._word(number)
                by_slot[slots] += values
            out[place] = by_slot[self._live_slots]
        return out

    def scores_of(self, query: str, rows: np.ndarray) -> np.ndarray:
        out = np.zeros(len(rows), np.float32)
        slot = self._slot_of[rows]
        for number in self._numbers(query):
            slots, values = self._word(number)
            if not len(slots):
                continue
            place = np.minimum(np.searchsorted(slots, slot), len(slots) - 1)
            out += np.where(slots[place] == slot, values[place], np.float32(0))
        return out

    def _numbers(self, query: str) -> list[int]:
        """The numbers of the words of a query that any item has had, in their order."""
        known = self._slots.vocabulary
        return [known[word] for word in words(query) if word in known]

    def _word(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The live slots (p,) that have a word, rising, and its float32 scores (p,) there."""
        if number in self._known:
            return self._known[number]
        slots, times = self._slots.postings(number, self._n_slots)
        live = self._live[slots]
        slots, times = slots[live], times[live]
        values = np.empty(0, np.float32)
        if len(slots):
            assert self._saturation is not None  # an item that has a word has a length
            idf = idf_of(np.array([len(slots)]), len(self.rows))
            values = term_scores(idf, times, self._saturation[slots])
        self._known[number] = slots, values
        return slots, values

    def _compact(self) -> tuple[_Slots, np.ndarray]:
        """What is live in slots that are numbered anew, and the slot of each row."""
        number = np.full(self._n_slots, -1, np.int64)
        number[self._live_slots] = np.arange(len(self.rows))
        parts = [
            self._slots.postings(word, self._n_slots) for word in range(len(self._slots.vocabulary))
        ]
        starts, items, times = [0], [], []
        for slots, counts in parts:
            kept = number[slots] >= 0
            order = np.argsort(number[slots[kept]], kind="stable")
            items.append(number[slots[kept]][order])
            times.append(counts[kept][order])
            starts.append(starts[-1] + len(order))
        lengths = np.concatenate(
            [self._slots.first.lengths, np.array(self._slots.lengths, np.int64)]
        )
        counted = TermCounts(
            np.array(starts, np.int64),
            np.concatenate([np.empty(0, np.int64), *items]),
            np.concatenate([np.empty(0, np.int32), *times]),
            lengths[: self._n_slots][self._live_slots],
        )
        slot_of = np.full(len(self._slot_of), -1, np.int64)
        slot_of[self.rows] = np.arange(len(self.rows))
        return _Slots(self._slots.vocabulary, counted), slot_of

"""Why these items: the prefixes that a search followed, level by level, and what lies below each.

Nothing here takes part in scoring. A :class:`TracingScorer` stands between a search and its scorer,
notes what is asked and answered, and hands the answer on unchanged; so what is shown is what was
searched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sidar.index import PrefixIndex
from sidar.serve.request import SearchRequest
from sidar.types import Catalogue

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sidar.decode.protocol import Scorer

Codes = tuple[int, ...]


def sid_text(codes: Sequence[int]) -> str:
    """How people read an SID or a prefix: ``12-7-101``."""
    return "-".join(str(int(c)) for c in codes)


@dataclass(frozen=True)
class PrefixView:
    """One prefix that the search followed.

    ``probability`` is the model's, before any constraint.
    """

    codes: Codes
    text: str
    logp: float
    probability: float
    items: int  # alive below it
    sids: int
    # the deepest category that holds at least half of its items ("" where categories say nothing)
    label: str
    share: float  # of the items looked at that are in that category
    example: str  # title of the most popular item looked at
    ranks: tuple[int, ...]  # of the returned results below it
    # probability of the SID that ends here; None where this prefix is no SID
    end: float | None = None
    allowed: int | None = None  # items below it that the filter allows; None = there was none


@dataclass(frozen=True)
class Level:
    """The beam at one depth. ``mass`` is the probability of all followed prefixes together.

    1 − mass was given up, or had ended above: ``ended`` is the probability of the SIDs that end
    here.
    """

    depth: int
    codebook_size: int
    live: int  # prefixes of this depth that lead to an item
    followed: int
    mass: float
    prefixes: list[PrefixView]  # most probable first
    ended: float = 0.0
    # what a filter took away (sidar.serve.cuts): prefixes of this depth in all, the probability of
    # those below followed prefixes, and the most probable of these
    cut: int = 0
    cut_mass: float = 0.0
    cut_prefixes: list[PrefixView] = field(default_factory=list)


class DeadlineError(Exception):
    """The deadline of every request of a pass is over: nobody waits for what is still to do."""


@dataclass
class Stopwatch:
    """Wall-clock milliseconds of one phase after another."""

    started: float = field(default_factory=time.perf_counter)
    phases: dict[str, float] = field(default_factory=dict)

    def lap(self, phase: str) -> None:
        """End ``phase``, which began with the one before it; a phase that comes again adds up."""
        now = time.perf_counter()
        self.phases[phase] = self.phases.get(phase, 0.0) + 1000 * (now - self.started)
        self.started = now

    def end_of(self, requests: Sequence[SearchRequest]) -> float | None:
        """Return when the last of ``requests`` expires, by ``time.perf_counter()``; None where one
        has no deadline.
        """
        limits = [request.timeout_ms for request in requests]
        if None in limits:
            return None
        return self.started + max(limit for limit in limits if limit is not None) / 1000

    def timing(self, prefill_seconds: float) -> dict[str, float]:
        """Return milliseconds by phase; reading the prompts is taken out of the search around
        it.
        """
        prefill = 1000 * prefill_seconds
        timing = {
            "prompt": self.phases["prompt"],
            "prefill": prefill,
            "decode": self.phases["decode"] - prefill,
            "cards": self.phases["cards"],
        }
        return timing | {"total": sum(timing.values())}


class TracingScorer:
    """A scorer that remembers which prefixes were followed, and how long reading and writing took.

    ``until``: the moment (``time.perf_counter()``) from which another step raises
    :class:`DeadlineError`.  ``paths`` maps each followed prefix of the *first* query to its
    log-probability, ``ends`` to that of ending there (where lengths differ), ``steps`` to those of
    what follows. Times are wall-clock
    seconds of this process: on an accelerator, work that is still queued counts towards the phase
    that waits for it.
    """

    def __init__(self, scorer: Scorer, remember: bool, until: float | None = None) -> None:
        self._scorer, self._remember, self._until = scorer, remember, until
        self.codebook_sizes = scorer.codebook_sizes
        self.variable_length = scorer.variable_length
        self.paths: dict[Codes, float] = {}
        self.ends: dict[Codes, float] = {}
        # prefix -> log-probabilities of what follows it
        self.steps: dict[Codes, list[float]] = {}
        self.prefill_seconds = 0.0
        # depth -> prefix of each row, as the scorer's state numbers them
        self._rows: dict[int, list[Codes]] = {}
        # depth -> (W, n) log-probabilities of what follows each row
        self._next: dict[int, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self._scorer.device

    def _check_deadline(self) -> None:
        if self._until is not None and time.perf_counter() >= self._until:
            raise DeadlineError

    def prefill(self, prompts: Sequence[Any]) -> Any:
        self._check_deadline()
        started = time.perf_counter()
        state = self._scorer.prefill(prompts)
        self.prefill_seconds += time.perf_counter() - started
        return state

    def first(self, state: Any) -> Tensor:
        logp = self._scorer.first(state)
        if self._remember:
            self._rows[0], self._next[0] = [()], logp[:1].float().cpu()
            self.steps[()] = self._next[0][0].tolist()
        return logp

    def extend(self, state: Any, parents: Tensor, codes: Tensor, depth: int) -> Tensor:
        self._check_deadline()
        logp = self._scorer.extend(state, parents, codes, depth)
        if self._remember:
            above, follows = self._rows[depth - 1], self._next[depth - 1]
            chosen = [0] * codes.shape[1] if depth == 1 else parents[0].tolist()
            last = codes[0].tolist()
            steps = follows[chosen, last].tolist()
            rows = [(*above[parent], code) for parent, code in zip(chosen, last, strict=True)]
            self._rows[depth], self._next[depth] = rows, logp[0].float().cpu()
            self.steps.update(zip(rows, self._next[depth].tolist(), strict=True))
            eos = self._next[depth][:, -1].tolist() if self.variable_length else [None] * len(rows)
            for parent, row, step, end in zip(chosen, rows, steps, eos, strict=True):
                self.paths[row] = self.paths.get(above[parent], 0.0) + step
                if end is not None:
                    self.ends[row] = self.paths[row] + end
        return logp


class PrefixStats:
    """What lies below a prefix: how many items, of which category, for instance which one.

    Categories are read from at most ``sample`` items, evenly spaced over the prefix's range, so the
    cost of a lookup does not grow with the catalogue; the most recently used 8,192 are kept.
    """

    def __init__(self, index: PrefixIndex, catalogue: Catalogue, sample: int = 48) -> None:
        self._index, self._catalogue, self._sample = index, catalogue, sample
        self.below = lru_cache(maxsize=8192)(self._below)

    def locate(self, prefixes: Sequence[Codes]) -> np.ndarray:
        """(n,) ids of n prefixes of one depth; −1 where nothing lives below one."""
        codes = np.asarray(prefixes, np.int64)
        ids = np.zeros(len(codes), np.int64)
        for depth in range(codes.shape[1]):
            ids = self._index.children(depth, ids, codes[:, depth])
        return ids

    def sid_range(self, codes: Codes) -> tuple[int, int]:
        """[first, end) of the SID numbers below a live prefix: numbers follow the
        prefixes' order.
        """
        depth, prefix = len(codes), int(self.locate([codes])[0])
        if prefix < 0:
            return 0, 0
        return self._first_sid(depth, prefix), self._last_sid(depth, prefix) + 1

    def _first_sid(self, depth: int, prefix: int) -> int:
        while (number := int(self._index.sid_of[depth][prefix])) < 0:
            prefix = int(self._index.child_start[depth][prefix])
            depth += 1
        return number

    def _last_sid(self, depth: int, prefix: int) -> int:
        """Not the one before the next prefix's first: a shorter SID may stand between the two."""
        while (
            depth < self._index.n_levels
            and (start := self._index.child_start[depth])[prefix] < start[prefix + 1]
        ):
            prefix = int(start[prefix + 1]) - 1
            depth += 1
        return int(self._index.sid_of[depth][prefix])

    def _below(self, codes: Codes) -> tuple[int, int, str, float, str]:
        """(items, SIDs, category, its share, example title) below ``codes``."""
        first, end = self.sid_range(codes)
        start, stop = (int(self._index.rows_start[s]) for s in (first, end))
        if start == stop:
            return 0, end - first, "", 0.0, ""
        places = np.unique(np.linspace(start, stop - 1, self._sample).astype(np.int64))
        rows = self._index.rows[places]
        popular = rows[0] if self._index.prior is None else rows[self._index.prior[rows].argmax()]
        # the columns are asked for here, as a catalogue that changes joins them on demand
        category = self._catalogue.table.column("category")
        title = self._catalogue.table.column("title")[int(popular)].as_py() or ""
        label, share = common_category([category[int(row)].as_py() or () for row in rows])
        return stop - start, end - first, label, share, title


def common_category(paths: Sequence[Sequence[str]]) -> tuple[str, float]:
    """The deepest category that at least half of ``paths`` pass through, and their share; ("", 0)
    if there is none.
    """
    label, share, inside = "", 0.0, list(paths)
    for depth in range(max(map(len, paths), default=0)):
        names = Counter(path[depth] for path in inside if len(path) > depth)
        name, count = names.most_common(1)[0] if names else ("", 0)
        if 2 * count < len(paths) or not name:
            break
        label, share = name, count / len(paths)
        inside = [path for path in inside if len(path) > depth and path[depth] == name]
    return label, share


def levels(
    paths: Mapping[Codes, float],
    results: Sequence[Codes],
    index: PrefixIndex,
    stats: PrefixStats,
    ends: Mapping[Codes, float] | None = None,
    show: int = 12,
) -> list[Level]:
    """The followed prefixes by depth, at most ``show`` of each: those on the way to results first.

    ``paths`` are prefixes with their log-probabilities, ``results`` the SID of each result in rank
    order, ``ends`` the log-probabilities of ending at prefixes shorter than L (those that are no
    SID are passed over).
    """
    shown = []
    for depth in range(1, index.n_levels + 1):
        followed = {codes: logp for codes, logp in paths.items() if len(codes) == depth}
        if not followed:
            break
        # after L codes the SID is over, so the prefix's own probability is that of its end
        ending = followed if depth == index.n_levels else ends or {}
        shown.append(_level(depth, followed, ending, results, index, stats, show))
    return shown


def _level(
    depth: int,
    followed: Mapping[Codes, float],
    ending: Mapping[Codes, float],
    results: Sequence[Codes],
    index: PrefixIndex,
    stats: PrefixStats,
    show: int,
) -> Level:
    # −1: a search may fill up its rows with prefixes that are none
    located = zip(followed, stats.locate(list(followed)).tolist(), strict=True)
    prefix_ids = {codes: prefix for codes, prefix in located if prefix >= 0}
    logps = {codes: followed[codes] for codes in prefix_ids}
    end = {
        codes: float(np.exp(ending[codes]))
        for codes, prefix in prefix_ids.items()
        if index.terminal[depth][prefix] and codes in ending
    }
    ranks: dict[Codes, list[int]] = {}
    for rank, codes in enumerate(results, start=1):
        ranks.setdefault(codes[:depth], []).append(rank)
    chosen = sorted(logps, key=lambda codes: (codes not in ranks, -logps[codes], codes))[:show]
    prefixes = [
        PrefixView(
            codes,
            sid_text(codes),
            logps[codes],
            float(np.exp(logps[codes])),
            *stats.below(codes),
            tuple(ranks.get(codes, ())),
            end.get(codes),
        )
        for codes in sorted(chosen, key=lambda codes: (-logps[codes], codes))
    ]
    mass = float(np.exp(np.fromiter(logps.values(), float)).sum())
    return Level(
        depth=depth,
        codebook_size=index.codebook_sizes[depth - 1],
        live=index.n_prefixes[depth],
        followed=len(logps),
        mass=min(1.0, mass),
        prefixes=prefixes,
        ended=min(1.0, sum(end.values())),
    )

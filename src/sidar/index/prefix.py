"""The prefix index: every SID of a catalogue as ragged CSR arrays over global prefix ids.

A *prefix* at depth d = 1..L is the first d codes of some SID; prefixes of one depth are numbered in
lexicographic order.  The children of prefix p at depth d (the root is prefix 0 at depth 0) are the
consecutive prefixes ``child_start[d][p] : child_start[d][p + 1]`` of depth d + 1, whose last codes
are ``codes[d]`` of that range, rising. So a child's position *is* its id: one step of beam search
is two gathers, and no array is larger than the number of live prefixes.  [reconstruction; STATIC
(arXiv 2602.22647) pads such rows to a fixed branching factor]

An SID may end at any depth.  SID numbers follow the lexicographic order of the SIDs with "ends
here" first, so all SIDs below a prefix are one range of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from sidar.types import PathLike, SemanticIds

FILE = "prefix.safetensors"
_FORMAT = "sidar-prefix-index-1"


@dataclass(frozen=True)
class PrefixIndex:
    """What can be generated, and which items it stands for. Make one with :meth:`build`.

    ``codes[d]`` (n_{d+1},) uint16 (int32 where a codebook exceeds 65,536), d = 0..L−1: last code of
    each prefix of depth d + 1. ``child_start[d]`` (n_d + 1,) int32 (int64 past 2³¹): see the
    module. ``rows[rows_start[s] : rows_start[s + 1]]`` int32: items of SID number s, most
    interactions first, then best prior, then lower row. ``prior`` (N,) float32 by row; ``counts``
    (N,) float32 training-day interactions by row (:mod:`sidar.index.shares`).
    """

    codebook_sizes: tuple[int, ...]
    codes: list[np.ndarray]
    child_start: list[np.ndarray]
    n_sids: int
    rows_start: np.ndarray  # (n_sids + 1,)
    rows: np.ndarray  # (items with an SID,)
    prior: np.ndarray | None = None
    stored_sid_of: list[np.ndarray] | None = None  # only where lengths differ; see sid_of
    counts: np.ndarray | None = None

    @classmethod
    def build(
        cls, sids: SemanticIds, prior: np.ndarray | None = None, counts: np.ndarray | None = None
    ) -> PrefixIndex:
        """Index every row of ``sids`` that has an SID; rows with the same codes share one SID
        number.

        ``counts`` (N,) and then ``prior`` (N,) order the items inside an SID. A ``ValueError``
        names a row whose value is not a number.
        """
        rows = np.flatnonzero(sids.lengths > 0).astype(np.int32)
        weight, count = _by_row("prior", prior, sids), _by_row("count", counts, sids)
        # the later of two stable sorts decides first, and the sort by SID below keeps this order
        # inside an SID
        for values in (weight, count):
            if values is not None:
                rows = rows[np.argsort(-values[rows], kind="stable")]
        codes = sids.codes[rows]
        if key_bits(sids.codebook_sizes) <= 63:
            keys = pack_keys(codes, sids.codebook_sizes)
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))[: len(keys)]
            levels = _levels_of_keys(keys[first], sids.codebook_sizes)
        else:
            order = np.lexsort(codes.T[::-1])
            codes = codes[order]
            first = np.flatnonzero(np.concatenate([[True], (codes[1:] != codes[:-1]).any(axis=1)]))[
                : len(codes)
            ]
            levels = _levels_of_codes(codes[first])
        starts = np.append(first, len(rows))
        return cls._from_levels(
            levels, sids.codebook_sizes, len(first), starts, rows[order], weight, count
        )

    @classmethod
    def from_keys(cls, keys: np.ndarray, codebook_sizes: Sequence[int]) -> PrefixIndex:
        """Index packed keys (:func:`pack_keys`) in any order; repeated keys count once.

        No item is attached.
        """
        keys = np.sort(np.asarray(keys, np.int64))
        # 0 = no SID
        keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)] & (keys != 0)]
        levels = _levels_of_keys(keys, tuple(codebook_sizes))
        none = np.empty(0, np.int32)
        return cls._from_levels(
            levels, tuple(codebook_sizes), len(keys), np.zeros(len(keys) + 1, np.int32), none, None
        )

    @classmethod
    def _from_levels(
        cls,
        levels: Iterator[tuple[np.ndarray, np.ndarray]],
        sizes: tuple[int, ...],
        n_sids: int,
        rows_start: np.ndarray,
        rows: np.ndarray,
        prior: np.ndarray | None,
        counts: np.ndarray | None = None,
    ) -> PrefixIndex:
        """``levels`` yields per level, over the sorted distinct SIDs: code + 1 or 0 = ended, and
        "starts a prefix".
        """
        small = np.int32 if max(n_sids, len(rows)) < 2**31 - 1 else np.int64
        # number of the first SID below each prefix of the depth above
        parents = np.zeros(1, np.int64)
        codes: list[np.ndarray] = []
        child_start: list[np.ndarray] = []
        sid_of = [np.full(1, -1, small)]
        for field, new in levels:
            if codes:  # "ends here" sorts first, so a prefix that is an SID is its own first SID
                sid_of.append(np.where(field[parents] == 0, parents, -1).astype(small))
            first = np.flatnonzero(new & (field > 0))
            start = parents if len(first) == n_sids else np.searchsorted(first, parents)
            codes.append(
                (field[first] - 1).astype(np.uint16 if sizes[len(codes)] <= 1 << 16 else np.int32)
            )
            child_start.append(np.append(start, len(first)).astype(small))
            parents = first
        sid_of.append(parents.astype(small))
        fixed = len(parents) == n_sids
        ends = None if fixed else sid_of
        return cls(
            sizes, codes, child_start, n_sids, rows_start.astype(small), rows, prior, ends, counts
        )

    def __len__(self) -> int:
        return self.n_sids

    @property
    def n_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def fixed_length(self) -> bool:
        """True when every SID uses all L levels (an empty index included): EOS is certain then and
        costs no step.
        """
        return self.stored_sid_of is None

    @property
    def density(self) -> float:
        """Share of all writable SIDs that are products: of ΠK_l with one fixed length, else of all
        lengths 1..L.
        """
        lengths = [self.n_levels] if self.fixed_length else range(1, self.n_levels + 1)
        return self.n_sids / sum(math.prod(self.codebook_sizes[:length]) for length in lengths)

    @property
    def n_prefixes(self) -> tuple[int, ...]:
        """Live prefixes per depth 0..L; the root counts as one."""
        return (1, *(len(c) for c in self.codes))

    @property
    def nbytes(self) -> int:
        """Bytes of the prefix arrays that are kept (without rows and priors)."""
        return sum(a.nbytes for a in [*self.codes, *self.child_start, *(self.stored_sid_of or [])])

    @cached_property
    def sid_of(self) -> list[np.ndarray]:
        """Per depth 0..L, (n_d,) SID number of a prefix that is itself an SID, else −1."""
        if self.stored_sid_of is not None:
            return self.stored_sid_of
        *above, last = self.n_prefixes
        dtype = self.rows_start.dtype
        return [*(np.full(n, -1, dtype) for n in above), np.arange(last, dtype=dtype)]

    @cached_property
    def terminal(self) -> list[np.ndarray]:
        """Per depth 0..L, (n_d,) bool: this prefix is an SID."""
        return [s >= 0 for s in self.sid_of]

    @cached_property
    def table(self) -> np.ndarray:
        """(n_sids, L) int32 codes of every SID number, −1 past the end."""
        table = np.full((self.n_sids, self.n_levels), -1, np.int32)
        prefix = np.empty((1, 0), np.int32)  # (n_d, d) codes of the prefixes of depth d
        for depth, (codes, start) in enumerate(
            zip(self.codes, self.child_start, strict=True), start=1
        ):
            prefix = np.column_stack(
                [np.repeat(prefix, np.diff(start), axis=0), codes.astype(np.int32)]
            )
            ends = self.terminal[depth]
            table[self.sid_of[depth][ends], :depth] = prefix[ends]
        return table

    def children(self, depth: int, prefixes: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """(n,) ids at ``depth`` + 1 of the prefixes (n,) of ``depth`` followed by codes (n,); −1
        where none is live.
        """
        prefixes, codes = np.asarray(prefixes, np.int64), np.asarray(codes, np.int64)
        start, values = self.child_start[depth], self.codes[depth]
        inside = prefixes >= 0
        low = np.where(inside, start[prefixes], 0).astype(np.int64)
        end = np.where(inside, start[prefixes + inside], 0).astype(np.int64)
        high = end.copy()
        while (open_ := low < high).any():  # one bisection step for all at once
            middle = (low + high) // 2
            right = open_ & (values[np.where(open_, middle, 0)] < codes)
            low = np.where(right, middle + 1, low)
            high = np.where(open_ & ~right, middle, high)
        found = low < end
        found[found] = values[low[found]] == codes[found]
        return np.where(found, low, -1)

    def lookup(self, codes: np.ndarray) -> np.ndarray:
        """(n,) SID numbers of codes (n, ≤ L), −1 past the end of each; −1 where there is no such
        SID.
        """
        codes = np.atleast_2d(np.asarray(codes))
        if codes.shape[1] > self.n_levels:
            raise ValueError(
                f"codes {codes.shape} have more levels than the index, which has {self.n_levels}"
            )
        lengths = (codes >= 0).sum(axis=1)
        padded = ((codes >= 0) == (np.arange(codes.shape[1]) < lengths[:, None])).all(axis=1)
        prefixes = np.zeros(len(codes), np.int64)
        numbers = np.full(len(codes), -1, np.int64)
        for depth in range(codes.shape[1]):
            prefixes = self.children(depth, prefixes, codes[:, depth])
            ends = padded & (lengths == depth + 1) & (prefixes >= 0)
            numbers[ends] = self.sid_of[depth + 1][prefixes[ends]]
        return numbers

    def expand(self, sid_numbers: np.ndarray, k: int) -> np.ndarray:
        """(…, k) int32 rows: the items of the SIDs (…, W) in order, cut at ``k``; −1 = none (SID −1
        has no item).
        """
        return self.expand_with_source(sid_numbers, k)[0]

    def expand_with_source(self, sid_numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`expand`, and beside each row the position in W of the SID that it came from,
        (…, k) int32.
        """
        sid_numbers = np.asarray(sid_numbers, np.int64)
        shape = (*sid_numbers.shape[:-1], k)
        sids = sid_numbers.reshape(math.prod(shape[:-1]), sid_numbers.shape[-1])
        rows = np.full((len(sids), k), -1, np.int32)
        source = np.full((len(sids), k), -1, np.int32)
        query, beam = np.nonzero(sids >= 0)
        start = self.rows_start[sids[query, beam]].astype(np.int64)
        size = np.zeros(sids.shape, np.int64)
        size[query, beam] = self.rows_start[sids[query, beam] + 1] - start
        place = np.cumsum(size, axis=1) - size  # of an SID's first item in the answer
        place, size = place[query, beam], size[query, beam]
        # cut before expanding: one SID may hold the whole catalogue
        size = np.clip(k - place, 0, size)
        inner = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        to = np.repeat(query, size), np.repeat(place, size) + inner
        rows[to] = self.rows[np.repeat(start, size) + inner]
        source[to] = np.repeat(beam, size)
        return rows.reshape(shape), source.reshape(shape)

    def save(self, folder: PathLike) -> None:
        """Write ``prefix.safetensors`` into ``folder``."""
        tensors = {"rows_start": self.rows_start, "rows": self.rows}
        for depth in range(self.n_levels):
            tensors |= {
                f"codes.{depth}": self.codes[depth],
                f"child_start.{depth}": self.child_start[depth],
            }
        tensors |= {f"sid_of.{d}": array for d, array in enumerate(self.stored_sid_of or [])}
        tensors |= {
            n: v for n, v in (("prior", self.prior), ("counts", self.counts)) if v is not None
        }
        sizes = ",".join(map(str, self.codebook_sizes))
        save_file(
            tensors, Path(folder) / FILE, metadata={"format": _FORMAT, "codebook_sizes": sizes}
        )

    @classmethod
    def load(cls, folder: PathLike) -> PrefixIndex:
        """Read what :meth:`save` wrote; ``ValueError`` for a missing or foreign file."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{path} does not exist; make it with `sidar index`")
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError(
                    f"{path} is not a prefix index of this version ({_FORMAT}); run `sidar index` "
                    "again"
                )
            names = file.keys()  # `file` is no mapping
            arrays = {name: file.get_tensor(name) for name in names}
        sizes = tuple(int(size) for size in about["codebook_sizes"].split(","))
        levels = range(len(sizes))
        return cls(
            sizes,
            [arrays[f"codes.{d}"] for d in levels],
            [arrays[f"child_start.{d}"] for d in levels],
            len(arrays["rows_start"]) - 1,
            arrays["rows_start"],
            arrays["rows"],
            arrays.get("prior"),
            [arrays[f"sid_of.{d}"] for d in range(len(sizes) + 1)]
            if "sid_of.0" in arrays
            else None,
            arrays.get("counts"),
        )


def _by_row(name: str, values: np.ndarray | None, sids: SemanticIds) -> np.ndarray | None:
    """Return ``values`` as (N,) float32; ``ValueError`` where they do not fit the table or one is
    not a number.
    """
    if values is None:
        return None
    found = np.asarray(values, np.float32)
    if found.shape != sids.lengths.shape:
        raise ValueError(f"{name} {found.shape} does not fit the SID table of {len(sids)} rows")
    if np.isnan(found).any():
        raise ValueError(f"the {name} of row {int(np.isnan(found).argmax())} is not a number")
    return found


def key_bits(codebook_sizes: Sequence[int]) -> int:
    """Bits of a packed key: per level enough for K codes and "ended"."""
    return sum(int(size).bit_length() for size in codebook_sizes)


def pack_keys(codes: np.ndarray, codebook_sizes: Sequence[int]) -> np.ndarray:
    """(N,) int64 keys of codes (N, L), −1 past the end: bit fields of code + 1, first level
    highest, 0 = ended.

    Keys sort as the SIDs do. ``ValueError`` when the fields need more than 63 bits.
    """
    if key_bits(codebook_sizes) > 63:
        raise ValueError(
            f"codebooks {tuple(codebook_sizes)} need {key_bits(codebook_sizes)} bits; a key has 63"
        )
    keys = np.zeros(len(codes), np.int64)
    for level, size in enumerate(codebook_sizes):
        keys <<= int(size).bit_length()
        keys |= codes[:, level] + np.int64(1)
    return keys


def _levels_of_keys(
    keys: np.ndarray, sizes: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    changed = np.concatenate([[np.int64(2**62)], keys[1:] ^ keys[:-1]])[: len(keys)]
    shift = key_bits(sizes)
    for size in sizes:
        shift -= int(size).bit_length()
        yield (keys >> shift) & ((1 << int(size).bit_length()) - 1), changed >= 1 << shift


def _levels_of_codes(codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    new = np.zeros(len(codes), bool)
    new[:1] = True
    for column in codes.T:
        new[1:] |= column[1:] != column[:-1]
        yield column + np.int64(1), new

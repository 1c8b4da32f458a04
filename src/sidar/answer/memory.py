"""Counts of what shoppers chose for each query: the table that every search team has, as a channel.

Per request an item counts once, by its highest action (click 1, cart 2, order 4); of one user,
query, item and day only the largest such weight counts; a count that is a days old weighs 2^(−a/h)
[ours].  Counts are kept by day, so that reading a day again replaces it instead of counting it
twice.

Queries are kept as the first 64 bits of HMAC-SHA-256 of their normal form under a secret key that
is not in the file. That is a pseudonym, not anonymity: who holds the key can test whether a query
was asked.  (10⁸ distinct queries collide with probability 3 · 10⁻⁴.)
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.data.cleaning.normalise import VERSION as NORMALISER
from sidar.data.cleaning.normalise import normalise_query
from sidar.types import Json, PathLike

FILE = "memory.parquet"
FORMAT = 1
#: Weight of a request's highest action on an item.
ACTION_WEIGHT = {1: 1.0, 2: 2.0, 3: 4.0}
_META = b"sidar.memory"
_CHECK = "which key was this made with"


def query_key(query: str, secret: bytes) -> int | None:
    """Return the 64-bit key of a query; None where its normal form is empty.

    ``ValueError`` for an empty secret.
    """
    if not secret:
        raise ValueError("the memory's key is empty; give a secret of at least one byte")
    normal = normalise_query(query)
    if not normal:
        return None
    return int.from_bytes(hmac.digest(secret, normal.encode(), "sha256")[:8], "big")


def key_check(secret: bytes) -> str:
    """Return a digest that tells whether two secrets are the same, and nothing else of them."""
    return hmac.digest(secret, _CHECK.encode(), "sha256").hex()[:16]


@dataclass(frozen=True)
class MemoryFacts:
    """What the file says of itself."""

    lineage: str  # row numbering of the catalogue
    # day (days since 1970, UTC) from which ages count: an event of this day has age 0
    last_day: int
    key: str  # key_check of the secret
    min_users: int = 1  # pairs of fewer users were left out
    debias: str = "none"
    # (Σw)² / Σw² of the weights that were added up when the run counted its log
    effective_n: float = 0.0
    normaliser: int = NORMALISER
    format: int = FORMAT


@dataclass(frozen=True)
class Memory:
    """Weights by query key, catalogue row and day; sorted by all three.

    ``keys`` (n,) uint64, ``rows`` (n,) int32, ``days`` (n,) int32 days since 1970, ``weights`` (n,)
    float32, ``users`` (n,) int32: how many users chose this row for this query in the log that the
    entry was counted from, over all its days.  Entries of one pair of key and row may come from
    several logs (:meth:`with_days`); its users are at least the largest of these numbers.
    """

    keys: np.ndarray
    rows: np.ndarray
    days: np.ndarray
    weights: np.ndarray
    users: np.ndarray
    facts: MemoryFacts

    @classmethod
    def of(cls, table: pa.Table, facts: MemoryFacts) -> Memory:
        """Sort ``table`` (key, row, day, weight, users) and leave out pairs of fewer than
        ``facts.min_users`` users.
        """
        dtypes = {
            "key": np.uint64,
            "row": np.int32,
            "day": np.int32,
            "weight": np.float32,
            "users": np.int32,
        }
        columns = [table.column(name).to_numpy().astype(dtype) for name, dtype in dtypes.items()]
        return cls._sorted(columns, facts)

    @classmethod
    def _sorted(cls, columns: Sequence[np.ndarray], facts: MemoryFacts) -> Memory:
        """Make a memory of ``columns`` (keys, rows, days, weights, users) in any order."""
        keys, rows, days, _, _ = columns
        order = np.lexsort((days, rows, keys))
        sorted_columns = [column[order] for column in columns]
        users = _users_of_pairs(sorted_columns[0], sorted_columns[1], sorted_columns[4])
        kept = users >= facts.min_users
        keys, rows, days, weights, own = (column[kept] for column in sorted_columns)
        return cls(keys, rows, days, weights, own, facts)

    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.keys, self.rows, self.days, self.weights, self.users

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _queries(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct keys, rising, and where the entries of each begin (one more than keys)."""
        keys, first = np.unique(self.keys, return_index=True)
        return keys, np.append(first, len(self.keys))

    @property
    def n_queries(self) -> int:
        return len(self._queries[0])

    @property
    def n_pairs(self) -> int:
        """Number of distinct pairs of query and row."""
        if not len(self):
            return 0
        return 1 + int(
            ((self.keys[1:] != self.keys[:-1]) | (self.rows[1:] != self.rows[:-1])).sum()
        )

    def entries(self, query: str, secret: bytes) -> slice:
        """Where the entries of ``query`` stand; an empty slice where it was never chosen for."""
        key = query_key(query, secret)
        keys, starts = self._queries
        if key is None or not len(keys):
            return slice(0, 0)
        at = int(np.searchsorted(keys, np.uint64(key)))
        if at == len(keys) or int(keys[at]) != key:
            return slice(0, 0)
        return slice(int(starts[at]), int(starts[at + 1]))

    def counts(
        self, query: str, secret: bytes, half_life: float = np.inf, alive: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (m,) int64, rising, and their decayed counts (m,) float64 > 0 for ``query``;
        live rows only.
        """
        at = self.entries(query, secret)
        rows, inverse = np.unique(self.rows[at], return_inverse=True)
        decay = 2.0 ** (-np.maximum(self.facts.last_day - self.days[at], 0) / half_life)
        counts = np.bincount(inverse, self.weights[at] * decay, minlength=len(rows))
        if alive is not None:
            keep = alive[rows]
            rows, counts = rows[keep], counts[keep]
        return rows.astype(np.int64), counts

    def check(self, secret: bytes, lineage: str, where: str) -> Memory:
        """Return itself; ``ValueError`` where another key, catalogue or normaliser made it."""
        if self.facts.normaliser != NORMALISER:
            raise ValueError(
                f"{where} was made with version {self.facts.normaliser} of the query normaliser, "
                f"this is {NORMALISER}; make it again with `sidar run`"
            )
        if self.facts.lineage != lineage:
            raise ValueError(
                f"{where} counts rows of catalogue lineage {self.facts.lineage}, this catalogue is "
                f"{lineage}; make it again with `sidar run`"
            )
        if self.facts.key != key_check(secret):
            raise ValueError(
                f"{where} was made with another key (check {self.facts.key}, this key's is "
                f"{key_check(secret)}); set SIDAR_MEMORY_KEY, or memory.key_file, to the key of "
                "the run that made it"
            )
        return self

    def with_days(self, other: Memory, days: np.ndarray | None = None) -> Memory:
        """Return this memory with ``days`` replaced by what ``other`` counts for them; the last
        count of a day wins.

        ``days`` (d,) days since 1970, default those that ``other`` has entries of: name them where
        a day of the log may have no choice at all.  Pairs of fewer than ``min_users`` users in
        either of the two are left out. Raises ``ValueError`` where the two were made with different
        keys, catalogues or weights.
        """
        for name in ("key", "lineage", "normaliser", "debias"):
            mine, theirs = getattr(self.facts, name), getattr(other.facts, name)
            if mine != theirs:
                raise ValueError(
                    f"these memories do not go together: {name} is {mine!r} and {theirs!r}"
                )
        replaced = np.unique(other.days) if days is None else np.asarray(days)
        kept, new = ~np.isin(self.days, replaced), np.isin(other.days, replaced)
        columns = [
            np.concatenate([mine[kept], theirs[new]])
            for mine, theirs in zip(self._columns(), other._columns(), strict=True)
        ]
        last = max(self.facts.last_day, other.facts.last_day)
        return Memory._sorted(columns, replace(self.facts, last_day=last))

    def with_rows(self, new: np.ndarray, lineage: str) -> Memory:
        """Return this memory in another numbering; ``new`` (N,) is the new row of each row, -1
        where it is gone.
        """
        rows = new[self.rows]
        kept = rows >= 0
        keys, _, days, weights, users = self._columns()
        columns = [column[kept] for column in (keys, rows.astype(np.int32), days, weights, users)]
        return Memory._sorted(columns, replace(self.facts, lineage=lineage))

    def for_export(self, min_users: int) -> Memory:
        """Return this memory without the pairs that fewer than ``min_users`` users chose."""
        return Memory._sorted(
            self._columns(), replace(self.facts, min_users=max(min_users, self.facts.min_users))
        )

    def _table(self) -> pa.Table:
        return pa.table(
            {
                "key": self.keys,
                "row": self.rows,
                "day": self.days,
                "weight": self.weights,
                "users": self.users,
            }
        )

    def _digest(self) -> str:
        """A hash of the entries, kept in the file: it is in no manifest, because it goes on
        changing.
        """
        digest = hashlib.sha256()
        for column in self._columns():
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def save(self, folder: PathLike) -> None:
        """Write ``memory.parquet`` into ``folder``; a kill leaves the old file or the new one."""
        path = Path(folder) / FILE
        facts = {**self.facts.__dict__, "sha256": self._digest()}
        about = {_META: json.dumps(facts, sort_keys=True).encode()}
        tmp = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        try:
            pq.write_table(self._table().replace_schema_metadata(about), tmp)
            with tmp.open("rb") as file:
                os.fsync(file.fileno())
            tmp.replace(path)
        finally:
            tmp.unlink(missing_ok=True)
        folder_fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)

    @classmethod
    def load(cls, folder: PathLike) -> Memory:
        """Read what :meth:`save` wrote; ``ValueError`` for a missing file or another format."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{path} does not exist; it is made by `sidar run`")
        damaged = (
            f"{path} is damaged: its entries are not those that were written; make it again "
            "with `sidar run`"
        )
        try:
            table = pq.read_table(path)
            about: Json = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(damaged) from error
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {about.get('format')}, Sidar reads {FORMAT}; run `sidar run` "
                "again"
            )
        try:
            digest = about.pop("sha256")
            memory = cls.of(table, MemoryFacts(**about))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(damaged) from error
        if memory._digest() != digest:
            raise ValueError(damaged)
        return memory


def _users_of_pairs(keys: np.ndarray, rows: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Return (n,) the largest of ``users`` among the entries of the same key and row; entries are
    sorted by both.
    """
    if not len(keys):
        return users
    first = np.append(True, (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1]))
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, len(keys)))
    return np.repeat(np.maximum.reduceat(users, starts), sizes)


def keys_of(queries: Sequence[str], secret: bytes) -> pa.Table:
    """Return (query, key) of those ``queries`` whose normal form is not empty."""
    found = [(query, key) for query in queries if (key := query_key(query, secret)) is not None]
    return pa.table(
        {
            "query": pa.array([query for query, _ in found], pa.string()),
            "key": pa.array([key for _, key in found], pa.uint64()),
        }
    )

"""Training examples: prompts as tokens, answers as candidates, made from rows only when a batch
needs them.

Every part of a mixture is a :class:`Stream`: something that knows its size and turns drawn indices
into examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidar.lm.candidates import Candidate, to_candidates
from sidar.lm.prompts import PromptBuilder
from sidar.rewards import LoggedRequest
from sidar.train.pseudo import ItemWords, Matches, pseudo_query
from sidar.train.rl.groups import Group
from sidar.types import Prompt, SemanticIds


@dataclass(frozen=True)
class Example:
    """One prompt (token ids) and what is scored under it. ``is_list``: a preference list, not an
    SFT row; ``group``: what the policy wrote for it, where it learns from that.

    ``counts`` says what packing left out, to be added up where the example is trained on.
    """

    tokens: list[int]
    candidates: list[Candidate]
    is_list: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    group: Group | None = None

    @property
    def length(self) -> int:
        """Tokens it takes in a batch, before prefixes are merged."""
        return len(self.tokens) + sum(len(c.codes) for c in self.candidates)


class Stream(Protocol):
    """A part of the training mixture."""

    def __len__(self) -> int: ...

    def examples(self, draws: Sequence[tuple[int, int]]) -> list[Example]:
        """Examples for (index, epoch) pairs; the same pair always gives the same example."""
        ...


class ItemStream:
    """Item text → its SID."""

    def __init__(
        self,
        texts: Sequence[str],
        sids: SemanticIds,
        builder: PromptBuilder,
        alive: np.ndarray,
        vectors: np.ndarray | None = None,
    ) -> None:
        """``vectors`` (N, D) by row, where the model reads sentence vectors: an item's text has its
        item's.
        """
        self._texts, self._sids, self._builder, self._vectors = texts, sids, builder, vectors
        said = np.fromiter((bool(t.strip()) for t in texts), bool, len(texts))
        self._rows = np.flatnonzero(alive & (sids.lengths > 0) & said)

    def __len__(self) -> int:
        return len(self._rows)

    def examples(self, draws: Sequence[tuple[int, int]]) -> list[Example]:
        rows = [int(self._rows[i]) for i, _ in draws]
        vectors = None if self._vectors is None else np.asarray(self._vectors[rows])
        tokens = self._builder.encode_batch(
            [Prompt(self._texts[r], task="item") for r in rows], self._sids, vectors
        )
        return [Example(t, [_only(self._sids, r)]) for t, r in zip(tokens, rows, strict=True)]


class PseudoStream:
    """Pseudo-query → the SIDs of the item that it was made from and of others that have all its
    words.

    Every epoch asks in other words, and for other matches: at most ``max_positives`` of them, drawn
    evenly.
    """

    def __init__(
        self,
        words: Sequence[ItemWords],
        sids: SemanticIds,
        builder: PromptBuilder,
        alive: np.ndarray,
        seed: int,
        *,
        max_positives: int = 1,
    ) -> None:
        self._words, self._sids, self._builder, self._seed = words, sids, builder, seed
        self._max_positives = max_positives
        said = np.fromiter(
            (bool(w.title or w.category or w.brand) for w in words), bool, len(words)
        )
        self._rows = np.flatnonzero(alive & (sids.lengths > 0) & said)
        self._matches = Matches(words, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def query(self, index: int, epoch: int) -> str:
        """The text of one draw."""
        row = int(self._rows[index])
        return pseudo_query(self._words[row], np.random.default_rng([self._seed, 3, row, epoch]))

    def examples(self, draws: Sequence[tuple[int, int]]) -> list[Example]:
        queries = [self.query(i, e) for i, e in draws]
        tokens = self._builder.encode_batch([Prompt(query) for query in queries], self._sids)
        return [
            Example(t, self._candidates(query, index, epoch))
            for t, query, (index, epoch) in zip(tokens, queries, draws, strict=True)
        ]

    def _candidates(self, query: str, index: int, epoch: int) -> list[Candidate]:
        """The item's own SID first, then those of other matches, each SID once."""
        row = int(self._rows[index])
        found = self._matches(query) if self._max_positives > 1 else ()
        others = np.asarray([other for other in found if other != row], np.int64)
        rng = np.random.default_rng([self._seed, 4, row, epoch])
        chosen = rng.permutation(others)[: self._max_positives - 1]
        listed = to_candidates([row, *chosen.tolist()], [1] * (1 + len(chosen)), [], self._sids)
        return listed.listed


class LogStream:
    """Logged requests → the SIDs of what was clicked; with ``max_negatives`` > 0 as preference
    lists.

    Lists hold all positives of a request; an example has ``max_positives`` of them, and its
    negatives share an SID with none, cut ones included. ``table`` has the columns of sft.parquet or
    lists.parquet; of the optional ``positive_weights`` and ``negative_weights`` (list<float>,
    aligned with the rows; null = all 1) each is read where it is there.  Requests whose positives
    have no SID are left out (``dropped`` counts them).
    """

    def __init__(
        self,
        table: pa.Table,
        sids: SemanticIds,
        builder: PromptBuilder,
        *,
        max_positives: int,
        max_negatives: int = 0,
        is_list: bool = False,
    ) -> None:
        self._table, self.sids, self._builder = table, sids, builder
        self._max_positives, self._max_negatives, self._is_list = (
            max_positives,
            max_negatives,
            is_list,
        )
        self._weights = {"positive_weights", "negative_weights"} & set(table.column_names)
        self._usable = np.flatnonzero(_any_sid(table, sids))
        self.dropped = table.num_rows - len(self._usable)

    def __len__(self) -> int:
        return len(self._usable)

    @property
    def most_negative_codes(self) -> int:
        """Codes of a full set of negatives."""
        return self._max_negatives * self.sids.n_levels

    def prompts(self, indices: Sequence[int]) -> list[Prompt]:
        """The prompts of some examples, as said (not as tokens)."""
        return [_prompt(r) for r in self._read(indices, ["query", "history", "profile"])]

    def requests(self, indices: Sequence[int]) -> list[LoggedRequest]:
        """What the log says of some requests, all positives; shown items where the table has the
        column ``exposed``.
        """
        columns = ["query", "history", "profile", "positives", "tiers", "request_id"]
        columns += [name for name in ("exposed", "ts") if name in self._table.column_names]
        return [
            LoggedRequest(
                _prompt(record),
                dict(zip(record["positives"], record["tiers"], strict=True)),
                tuple(record.get("exposed") or ()),
                record["request_id"],
                record.get("ts", 0),
            )
            for record in self._read(indices, columns)
        ]

    def positive_counts(self, indices: Sequence[int]) -> list[int]:
        """How many rows each of some requests clicked, carted or ordered, before any cut."""
        positives = self._table.column("positives").take(pa.array(self._usable[list(indices)]))
        return pc.list_value_length(positives).to_pylist()

    def rows(
        self,
        indices: Sequence[int],
        negatives: list[list[int]] | None = None,
        stars: Sequence[int | None] | None = None,
    ) -> list[Example]:
        """Examples of some indices; ``negatives`` (catalogue rows) replace the logged ones and
        their weights, ``stars`` (rows, None = none) stand before the logged positives as y_w*.
        """
        columns = ["query", "history", "profile", "positives", "tiers"]
        logged = self._max_negatives > 0 and negatives is None
        weights = self._weights if logged else self._weights - {"negative_weights"}
        records = self._read(
            indices, [*columns, *(["negatives"] if logged else []), *sorted(weights)]
        )
        tokens = self._builder.encode_batch([_prompt(r) for r in records], self.sids)
        made = []
        for record, star in zip(records, stars or [], strict=bool(stars)):
            if star is not None:
                _put_first(record, star)
        for number, (record, one) in enumerate(zip(records, tokens, strict=True)):
            wrong = (
                negatives[number]
                if negatives is not None
                else (record["negatives"] if logged else [])
            )
            found = to_candidates(
                record["positives"],
                record["tiers"],
                wrong,
                self.sids,
                max_positives=self._max_positives,
                max_negatives=self._max_negatives,
                **{name: record[name] for name in weights},
            )
            counts = {
                "negatives_sharing_a_positive_sid": found.shared,
                "repeated_sids": found.repeated,
                "rows_without_sid": found.without_sid,
            }
            if self._is_list:
                counts |= {
                    "lists": 1,
                    "lists_without_negatives": int(all(c.is_positive for c in found.listed)),
                }
            made.append(Example(one, found.listed, self._is_list, counts))
        return made

    def examples(self, draws: Sequence[tuple[int, int]]) -> list[Example]:
        return self.rows([i for i, _ in draws])

    def _read(self, indices: Sequence[int], columns: list[str]) -> list[dict]:
        return self._table.select(columns).take(pa.array(self._usable[list(indices)])).to_pylist()


def _prompt(record: dict) -> Prompt:
    return Prompt(record["query"] or "", tuple(record["history"] or ()), record["profile"] or "")


def _put_first(record: dict, star: int) -> None:
    """Make the row ``star`` the first positive of a request, of its best tier."""
    record["positives"] = [star, *record["positives"]]
    record["tiers"] = [max(record["tiers"]), *record["tiers"]]
    if "positive_weights" in record:
        record["positive_weights"] = [1.0, *(record["positive_weights"] or [])]


def _only(sids: SemanticIds, row: int) -> Candidate:
    return Candidate(sids.tuple_of(row), True, 1)


def _any_sid(table: pa.Table, sids: SemanticIds) -> np.ndarray:
    """(n,) bool: does any positive of the request have an SID."""
    positives = table.column("positives").combine_chunks()
    counts = np.diff(positives.offsets.to_numpy())
    rows = positives.flatten().to_numpy()
    known = np.zeros(table.num_rows, bool)
    known[np.repeat(np.arange(table.num_rows), counts)[sids.lengths[rows] > 0]] = True
    return known

"""BM25 over weighted product fields, with weights, k1 and b chosen on a dev set.

A field weight is a repeat count: the words of a title with weight 3 stand three times in the item's
bag of words, so term saturation acts across fields. [known: simple BM25F; Robertson, Zaragoza,
Taylor 2004 show why adding up per-field BM25 scores is worse.] Scoring is bm25s (the Lucene
variant).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidar.baselines.lexical import Lexical
from sidar.baselines.term_counts import TermCounts
from sidar.baselines.text import words
from sidar.types import Catalogue, Hits, Json, PathLike

#: Stem of the files of a saved index, and their version.
FILE, FORMAT = "bm25", 1
_POSTINGS = ("data", "indices", "indptr")
#: The catalogue's text fields that BM25 can read.
FIELDS = ("title", "category", "brand", "text")


@dataclass(frozen=True)
class Bm25Params:
    """Repeat count of each field, and BM25's constants."""

    weights: Mapping[str, int] = field(
        default_factory=lambda: {"title": 2, "category": 1, "brand": 1, "text": 1}
    )
    k1: float = 1.2
    b: float = 0.75


class Bm25(Lexical):
    """``Bm25(catalogue).search(["t towels kitchen"])`` → Hits. Retired items are never returned."""

    name = "bm25"

    def __init__(self, catalogue: Catalogue, params: Bm25Params | None = None) -> None:
        self.params = params or Bm25Params()
        if unknown := set(self.params.weights) - set(FIELDS):
            raise ValueError(
                f"BM25 has no field {', '.join(sorted(unknown))}; its fields are "
                f"{', '.join(FIELDS)}"
            )
        self.rows = np.flatnonzero(catalogue.alive).astype(np.int32)  # (n,) live rows
        self.mean_length: float | None = None  # words of an item, repeats counted
        self.vocabulary: dict[str, int] = {}
        self._fields = {name: self._read(catalogue, name) for name in FIELDS}
        self._build()

    @property
    def about(self) -> str:
        """Fields, weights and constants in words."""
        fields = ", ".join(
            f"{name} x{times}" for name, times in self.params.weights.items() if times
        )
        return f"BM25 over {fields}; k1 {self.params.k1:g}, b {self.params.b:g}"

    def _read(self, catalogue: Catalogue, name: str) -> list[list[int]]:
        """Token numbers of one field of every live item; the vocabulary grows on the way."""
        values = catalogue.column(name)
        number = self.vocabulary
        out = []
        for row in self.rows:
            tokens = field_words(values[row])
            out.append([number.setdefault(token, len(number)) for token in tokens])
        return out

    def _build(self) -> None:
        import bm25s

        used = [
            (self._fields[name], times) for name, times in self.params.weights.items() if times > 0
        ]
        bags = [
            [t for tokens, times in used for t in tokens[i] * times] for i in range(len(self.rows))
        ]
        self._index = None
        self.mean_length = float(np.mean([len(bag) for bag in bags])) if bags else 0.0
        if any(bags):
            index = bm25s.BM25(method="lucene", k1=self.params.k1, b=self.params.b)
            index.index((bags, dict(self.vocabulary)), show_progress=False)
            self._index = index
        self._made = _Made(self._index, self.rows)

    def with_params(self, params: Bm25Params) -> Bm25:
        """The same catalogue, already split into words, under other parameters."""
        other = object.__new__(Bm25)
        other.params, other.rows, other.vocabulary, other._fields = (
            params,
            self.rows,
            self.vocabulary,
            self._fields,
        )
        other._build()
        return other

    def save(self, folder: PathLike) -> None:
        """Write ``bm25.safetensors`` and ``bm25.json`` into ``folder``: postings, vocabulary and
        parameters.
        """
        from safetensors.numpy import save_file

        tensors = {"rows": self.rows}
        if self._index is not None:
            tensors |= {name: np.ascontiguousarray(self._index.scores[name]) for name in _POSTINGS}
        about = None if self.mean_length is None else {"mean_length": repr(self.mean_length)}
        save_file(tensors, Path(folder) / f"{FILE}.safetensors", metadata=about)
        facts = {
            "format": FORMAT,
            "params": asdict(self.params),
            "vocabulary": list(self.vocabulary),
        }
        (Path(folder) / f"{FILE}.json").write_text(json.dumps(facts, ensure_ascii=False) + "\n")

    def renumbered(self, new: np.ndarray) -> Bm25:
        """Return the same index in another row numbering; it searches and cannot be tuned further.

        ``new`` (N,) is the new row of each row, rising, -1 where the item is gone: its postings go,
        and every other item keeps its scores.  ``ValueError`` where the index has rows beyond
        ``new``.
        """
        if len(self.rows) and int(self.rows[-1]) >= len(new):
            raise ValueError(
                f"the BM25 index has row {int(self.rows[-1])}, the catalogue only {len(new)} rows"
            )
        rows = new[self.rows]
        kept = rows >= 0
        other = object.__new__(Bm25)
        other.params, other.vocabulary, other._fields = self.params, self.vocabulary, {}
        other.rows, other.mean_length = rows[kept].astype(np.int32), self.mean_length
        other._index, other._made = self._index, self._made.renumbered(new)
        if self._index is not None and not kept.all():
            postings = _postings_of(self._index.scores, kept)
            other._index = (
                _index(self.params, self.vocabulary, postings, len(other.rows))
                if len(other.rows)
                else None
            )
        return other

    def counts(self) -> tuple[TermCounts, np.ndarray] | None:
        """Return what the scores were made from, and the row (n,) int64 of each item there, −1 = it
        has gone since; None where an older version did not keep enough to tell.
        """
        made = self._made
        if made.index is None:
            none = np.empty(0, np.int32)
            starts = np.zeros(len(self.vocabulary) + 1, np.int64)
            lengths = np.zeros(len(made.rows), np.int64)
            return TermCounts(starts, none, none, lengths), made.rows.astype(np.int64)
        if self.mean_length is None:
            return None
        counts = TermCounts.of_scores(
            made.index.scores, len(made.rows), self.mean_length, self.params.k1, self.params.b
        )
        return None if counts is None else (counts, made.rows.astype(np.int64))

    @classmethod
    def read_params(cls, folder: PathLike) -> Bm25Params:
        """Read the parameters of a saved index."""
        return Bm25Params(**_read_facts(folder)["params"])

    @classmethod
    def load(cls, folder: PathLike, alive: np.ndarray | None = None) -> Bm25:
        """Read what :meth:`save` wrote; such an index searches and cannot be tuned further.

        ``alive`` (N,) bool: items that retired after the index was made are left out of it.
        """
        from safetensors import safe_open

        facts = _read_facts(folder)
        with safe_open(Path(folder) / f"{FILE}.safetensors", framework="numpy") as file:
            names = file.keys()  # `file` is no mapping
            tensors = {name: file.get_tensor(name) for name in names}
            mean_length = (file.metadata() or {}).get("mean_length")
        loaded = object.__new__(cls)
        loaded.params = Bm25Params(**facts["params"])
        loaded.rows = tensors["rows"]
        # an older version did not keep it
        loaded.mean_length = None if mean_length is None else float(mean_length)
        loaded.vocabulary = {word: number for number, word in enumerate(facts["vocabulary"])}
        loaded._fields = {}
        loaded._index = None
        if "data" in tensors:
            postings = {name: tensors[name] for name in _POSTINGS}
            loaded._index = _index(loaded.params, loaded.vocabulary, postings, len(loaded.rows))
        loaded._made = _Made(loaded._index, loaded.rows)
        if alive is None:
            return loaded
        return loaded.renumbered(np.where(alive, np.arange(len(alive)), -1))

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(queries), len(self.rows)), dtype=np.float32)
        if self._index is not None:
            for q, query in enumerate(queries):
                known = [self.vocabulary[w] for w in words(query) if w in self.vocabulary]
                if known:
                    out[q] = self._index.get_scores_from_ids(known)
        return out

    def scores_of(self, query: str, rows: np.ndarray) -> np.ndarray:
        out = np.zeros(len(rows), dtype=np.float32)
        if self._index is None or not len(self.rows):
            return out
        item = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        live = self.rows[item] == rows
        scores = self._index.scores
        for word in words(query):
            number = self.vocabulary.get(word)
            if number is None:
                continue
            start, stop = int(scores["indptr"][number]), int(scores["indptr"][number + 1])
            if start == stop:
                continue
            # the postings of a word stand by rising item
            items, values = scores["indices"][start:stop], scores["data"][start:stop]
            place = np.minimum(np.searchsorted(items, item), stop - start - 1)
            out += np.where(live & (items[place] == item), values[place], 0)
        return out

    def tune(
        self,
        queries: Sequence[str],
        objective: Callable[[Hits], float],
        *,
        weights: Sequence[Mapping[str, int]] | None = None,
        constants: Sequence[tuple[float, float]] = (
            (0.6, 0.4),
            (0.9, 0.4),
            (1.2, 0.75),
            (1.6, 0.75),
            (2.0, 0.4),
        ),
    ) -> Bm25:
        """Choose field weights, then (k1, b), by ``objective`` of the Hits of ``queries`` (higher
        is better).

        ``queries`` belong to a *dev* set (``evaluate.objective(dev_set, catalogue, "ndcg@10")`` is
        such a function). Two small grids one after the other; an equal score keeps the earlier
        choice.
        """
        grid = weights or [dict(zip(FIELDS, w, strict=True)) for w in _WEIGHTS]
        best = self
        best_value = objective(best.search(queries))
        for candidate in grid:
            best, best_value = _better(
                best, best_value, replace(best.params, weights=candidate), queries, objective
            )
        for k1, b in constants:
            best, best_value = _better(
                best, best_value, replace(best.params, k1=k1, b=b), queries, objective
            )
        return best


@dataclass(frozen=True)
class _Made:
    """The index as it was made, with the items that have gone since: ``rows`` (n,) of all, −1 for
    those.
    """

    index: Any
    rows: np.ndarray

    def renumbered(self, new: np.ndarray) -> _Made:
        return _Made(self.index, np.where(self.rows >= 0, new[self.rows], -1))


def field_words(value: str | Sequence[str | None] | None) -> list[str]:
    """Return the words of a field, which may be a list; none where it is empty."""
    value = value or ""
    return words(value if isinstance(value, str) else " ".join(part for part in value if part))


def bag_of(item: Json, weights: Mapping[str, int]) -> dict[str, int]:
    """Return how many times each word stands in ``item``, fields repeated by their ``weights``."""
    bag: dict[str, int] = {}
    for name, times in weights.items():
        for word in field_words(item[name]) if times > 0 else ():
            bag[word] = bag.get(word, 0) + times
    return bag


def _read_facts(folder: PathLike) -> Json:
    path = Path(folder) / f"{FILE}.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it is made by `sidar run`")
    facts: Json = json.loads(path.read_text())
    if facts["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {facts['format']}, Sidar reads {FORMAT}; run `sidar run` again"
        )
    return facts


def _index(
    params: Bm25Params, vocabulary: dict[str, int], postings: Mapping[str, np.ndarray], items: int
) -> Any:
    """Return a bm25s index of stored ``postings``."""
    import bm25s

    index = bm25s.BM25(method="lucene", k1=params.k1, b=params.b)
    index.scores = dict(postings) | {"num_docs": items}
    index.vocab_dict = vocabulary
    index.nonoccurrence_array = None  # the Lucene variant has none
    return index


def _postings_of(scores: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """Return the postings of the items where ``kept`` (n,) is True, numbered anew.

    ``scores`` holds, word by word, ``data`` (scores) and ``indices`` (items); ``indptr`` says where
    each word begins.
    """
    stay = kept[scores["indices"]]
    number = np.cumsum(kept) - 1
    before = np.append(0, np.cumsum(stay))
    return {
        "data": scores["data"][stay],
        "indices": number[scores["indices"][stay]].astype(scores["indices"].dtype),
        "indptr": before[scores["indptr"]].astype(scores["indptr"].dtype),
    }


#: title, category, brand, text
_WEIGHTS = ((1, 0, 0, 0), (1, 1, 0, 0), (2, 1, 1, 0), (3, 1, 1, 1), (4, 2, 1, 1), (6, 2, 2, 1))


def _better(
    best: Bm25,
    value: float,
    params: Bm25Params,
    queries: Sequence[str],
    objective: Callable[[Hits], float],
) -> tuple[Bm25, float]:
    """``best`` or the same with ``params``, whichever scores higher, and that score."""
    other = best.with_params(params)
    new = objective(other.search(queries))
    return (other, new) if new > value else (best, value)

"""The values that travel between Sidar's stages, on one page.

Letters: N items, L SID levels, K codes per level, D embedding dims, B batch, T tokens, C candidates
of one prompt, S scored steps of a candidate, W beams, k results, Q queries. Rows inside, ids at the
edge: every number names an item by its catalogue *row*; ``item_id`` strings appear only where data
enters or leaves.  Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from torch import Tensor

#: Actions of a log in rising order of commitment; an action's code is its position here.
ACTIONS = ("impression", "click", "cart", "order")

#: Columns of a catalogue; readers fill what a source lacks with null.
CATALOGUE_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("category", pa.list_(pa.string())),
        ("brand", pa.string()),
        ("price", pa.float64()),
        ("image_url", pa.string()),
        ("in_stock", pa.bool_()),
        ("created", pa.timestamp("us", tz="UTC")),
        ("attributes", pa.string()),  # JSON
        ("alive", pa.bool_()),  # False = tombstone of a retired item; its row is never reused
    ]
)

#: Columns of a validated log; ``row`` is the catalogue row of the item.
INTERACTIONS_SCHEMA = pa.schema(
    [
        ("ts", pa.int64()),  # µs UTC
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("request_id", pa.string()),
        ("query", pa.string()),
        ("row", pa.int32()),
        ("position", pa.int32()),  # 1-based, 0 = unknown
        ("action", pa.int8()),  # index into ACTIONS
        ("value", pa.float64()),
        ("dwell_s", pa.float64()),
        ("bucket", pa.string()),
    ]
)


@dataclass(frozen=True)
class Catalogue:
    """A columnar table of items. Rows are append-only within a lineage; a retired item leaves a
    tombstone.

    ``table`` has :data:`CATALOGUE_SCHEMA`; ``lineage`` names the row numbering that artefacts were
    made for.
    """

    table: pa.Table
    lineage: str

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def item_ids(self) -> np.ndarray:
        """(N,) object array of item ids in row order."""
        return np.asarray(self.table.column("item_id").to_pylist(), dtype=object)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    def row(self, item_id: str) -> int:
        """The row of ``item_id``; ``KeyError`` names the id when the catalogue lacks it."""
        try:
            return self._row_of[item_id]
        except KeyError:
            raise KeyError(
                f"item_id {item_id!r} is not in the catalogue of {len(self)} items"
            ) from None

    def rows(self, item_ids: Iterable[str]) -> np.ndarray:
        """(n,) int32 rows of ``item_ids``; −1 for an id that the catalogue lacks."""
        return np.fromiter((self._row_of.get(i, -1) for i in item_ids), dtype=np.int32)

    def column(self, name: str) -> list[Any]:
        """One column as a Python list in row order."""
        return self.table.column(name).to_pylist()

    def item(self, row: int) -> dict[str, Any]:
        """All fields of one row, for display."""
        return self.table.slice(int(row), 1).to_pylist()[0]

    def fields(self, row: int, names: Sequence[str]) -> list[Any]:
        """Some fields of one row; quicker than :meth:`item` where a search shows many rows."""
        return [self.table.column(name)[int(row)].as_py() for name in names]

    @cached_property
    def alive(self) -> np.ndarray:
        """(N,) bool: False where a retired item left its tombstone."""
        return np.asarray(self.table.column("alive").to_numpy(zero_copy_only=False), dtype=bool)


@dataclass(frozen=True)
class Prompt:
    """What a request says before any answer: the parts, not the text (``lm/prompts.py`` writes the
    text).

    ``task`` is ``search`` (query, user → SIDs) or ``item`` (an item's own text in ``query`` → its
    SID). ``history`` holds catalogue rows, oldest first, all before the request's moment.
    """

    query: str
    history: tuple[int, ...] = ()
    profile: str = ""
    task: str = "search"


@dataclass(frozen=True)
class Request:
    """One search of the log with what was shown. ``actions`` are indices into :data:`ACTIONS`."""

    request_id: str
    ts: int
    user_id: str
    prompt: Prompt
    rows: tuple[int, ...]
    positions: tuple[int, ...]
    actions: tuple[int, ...]
    day: int = 0
    bucket: str = ""


@dataclass(frozen=True)
class SemanticIds:
    """The SID table. An SID is a *cluster*: several items may share one.

    ``codes`` (N, L) int32 padded with −1 past the end, ``lengths`` (N,) int32 (0 = the item has no
    SID), ``codebook_sizes`` (L,) codes per level.
    """

    codes: np.ndarray
    lengths: np.ndarray
    codebook_sizes: tuple[int, ...]
    method: str = "unknown"
    version: str = ""

    def __post_init__(self) -> None:
        codes, lengths, sizes = self.codes, self.lengths, self.codebook_sizes
        if codes.ndim != 2 or codes.shape[1] != len(sizes) or lengths.shape != codes.shape[:1]:
            raise ValueError(
                f"codes {codes.shape}, lengths {lengths.shape} and {len(sizes)} codebooks do not "
                "fit: want (N, L), (N,) and L sizes"
            )
        inside = np.arange(codes.shape[1]) < lengths[:, None]
        bad = np.where(inside, (codes < 0) | (codes >= np.asarray(sizes)), codes != -1).any(axis=1)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"row {row}: codes {codes[row].tolist()} (length {lengths[row]}) leave codebooks "
                f"{sizes}"
            )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def n_levels(self) -> int:
        return len(self.codebook_sizes)

    @cached_property
    def fixed_length(self) -> bool:
        """True when every item that has an SID uses all L levels (then EOS is certain and costs no
        step).
        """
        return bool(((self.lengths == self.n_levels) | (self.lengths == 0)).all())

    def tuple_of(self, row: int) -> tuple[int, ...]:
        return tuple(self.codes[row, : self.lengths[row]].tolist())


@dataclass
class CandidateScores:
    """What one packed forward says of B prompts × C candidates; every objective is a function of
    this alone.

    Steps: S = L + 1 columns, one per code and one for EOS at column ``length``.  ``mask`` marks the
    steps that count in log π(y|x) and |y|: the codes, and EOS only where lengths vary (with one
    fixed length its probability is 1 by construction). ``eos_logp`` is the training-only EOS term
    of fixed-length IDs: without it no loss would reach the state that RDRW compares
    (docs/methods/raddpo.md).
    """

    logp: Tensor  # (B, C, S) log-prob of each step, 0 where absent
    mask: Tensor  # (B, C, S) bool, steps that count
    # (B, C, S) int64 global SID token ids of each step (EOS included), −1 where absent
    tokens: Tensor
    is_positive: Tensor  # (B, C) bool
    is_negative: Tensor  # (B, C) bool; neither = padding
    tier: Tensor  # (B, C) int64: 3 order, 2 cart, 1 click, 0 negative or padding
    star: Tensor  # (B,) int64 index of y_w*: top tier, first listed
    eos_logp: Tensor | None = None  # (B, C)
    hidden: Tensor | None = None  # (B, C, d) state that outputs EOS (see rdrw_state)
    ref_logp: Tensor | None = None  # (B, C, S) same steps under the frozen reference
    old_logp: Tensor | None = None  # (B, C, S) under the policy that sampled
    reward: Tensor | None = None  # (B, C) of rollouts and of positives, 0 elsewhere
    # (B, C) bool: members of the group that GRPO compares, sampled ones and injected experts
    rollout: Tensor | None = None
    expert: Tensor | None = None  # (B, C) bool: logged positives put into the group (EG-GRPO)
    # (B, C) bool: rollouts that are SIDs of the index; None = all are
    valid: Tensor | None = None
    # (B, C) float ≥ 0: inclusion weights of a group drawn without replacement; None = all 1
    inclusion: Tensor | None = None
    # (B, m) rewards of other requests' SIDs under this request (AdaGRPO's gate), NaN = none
    perturbation_reward: Tensor | None = None
    # (B, C) float > 0: v_i of positives, given w_j of negatives; None = all 1
    weight: Tensor | None = None
    # (B, K_0) log-probs of all first codes, detached: entropy is logged from it
    first_logp: Tensor | None = None


@dataclass(frozen=True)
class Rollouts:
    """A group of G SIDs for each of B prompts, written by a policy. Made by ``decode/sample.py``.

    Padding (only where a method allows a smaller group): SID −1, length 0, log-prob −inf.
    """

    sids: np.ndarray  # (B, G) int64 SID numbers of the index, −1 = not an SID of it
    # (B, G, L) int32, −1 past the end, and in a free draw where a token is no code of its level
    codes: np.ndarray
    lengths: np.ndarray  # (B, G) int32
    logp: np.ndarray  # (B, G) float64, log π(y | x) under the policy that wrote it
    level_logp: np.ndarray  # (B, G, L + 1) float32, as Beams
    # (B, G) float64 inclusion weights p(y) / q(y) of a draw without replacement; None = all 1
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class Hits:
    """Ranked items per query, best first. ``rows`` (Q, k) int32, −1 = none; ``scores`` (Q, k)
    float32.

    ``sids`` (Q, k, L) int32 and ``level_logp`` (Q, k, L) say where an item came from; None for
    systems without SIDs.
    """

    rows: np.ndarray
    scores: np.ndarray
    sids: np.ndarray | None = None
    level_logp: np.ndarray | None = None

    def take(self, places: Sequence[int]) -> Hits:
        """The hits of some of the queries, by their places."""
        at = list(places)
        sids = None if self.sids is None else self.sids[at]
        steps = None if self.level_logp is None else self.level_logp[at]
        return Hits(self.rows[at], self.scores[at], sids, steps)


#: ``{query_id: [(item_id, score), …]}`` best first, scores strictly decreasing.
Run = dict[str, list[tuple[str, float]]]
#: ``{query_id: {item_id: grade}}``
Qrels = dict[str, dict[str, float]]
#: ``{measure: (Q,) per-query values}`` in the order of the query ids they were computed for.
Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class EvalSet:
    """Queries with graded truth.

    ``origin`` ∈ real, simulated, log is printed beside every number made from it.
    """

    name: str
    query_ids: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    qrels: Qrels
    origin: str = "real"
    slices: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (Q,) labels

    def __len__(self) -> int:
        return len(self.query_ids)


@dataclass(frozen=True)
class SidInputs:
    """What a tokenizer may look at.

    ``categories`` are paths, ``counts`` training-day popularity.
    """

    vectors: np.ndarray  # (N, D) float32
    categories: Sequence[Sequence[str]] | None = None
    counts: np.ndarray | None = None  # (N,)
    query_vectors: np.ndarray | None = None  # (M, D)
    query_item_pairs: np.ndarray | None = None  # (P, 2) query index, item row
    item_ids: Sequence[str] | None = None  # (N,); only `sid.method: table` asks for them


PathLike = str | Path
#: A JSON object: what a manifest, a report or a file of figures holds.
Json = dict[str, Any]

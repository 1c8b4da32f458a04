"""``ledger.parquet``: what an SID artefact remembers of every item, so that the next version can
say what changed.

Per item that has an SID: a hash of the vector that it was encoded from, the squared distance of
that vector to what its codes keep of it (of SARQ: before they were cut), whether the codebooks were
fitted to it, and why it has the SID that it has (:data:`CAUSES`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.sid.quality import row_hashes
from sidar.sid.tokenizer import Tokenizer
from sidar.types import PathLike, SemanticIds, SidInputs

FILE = "ledger.parquet"
SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("vector", pa.uint64()),
        ("error", pa.float32()),
        ("fitted", pa.bool_()),
        ("cause", pa.dictionary(pa.int8(), pa.string())),
    ]
)
#: Why an item has its SID. ``held``: its text changed, but not by more than `sid.keep_margin` pays
#: for a new SID.
CAUSES = ("fit", "new", "text", "held", "kept", "tokenizer", "category")


@dataclass(frozen=True)
class Ledger:
    """Columns over n items: ``vector`` (n,) uint64, ``error`` (n,) float32, ``fitted`` (n,) bool,
    ``cause`` (n,).
    """

    item_ids: np.ndarray
    vector: np.ndarray
    error: np.ndarray
    fitted: np.ndarray
    cause: np.ndarray

    def __len__(self) -> int:
        return len(self.item_ids)

    def places(self, item_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """(m,) int64 position of each item, −1 where the ledger lacks it."""
        at = {item: i for i, item in enumerate(self.item_ids)}
        return np.fromiter((at.get(item, -1) for item in item_ids), np.int64, count=len(item_ids))

    def save(self, folder: PathLike) -> None:
        """Write ``ledger.parquet`` into ``folder``."""
        code = {cause: i for i, cause in enumerate(CAUSES)}
        causes = pa.array([code[cause] for cause in self.cause], pa.int8())
        columns = [
            pa.array(self.item_ids, pa.string()),
            pa.array(self.vector, pa.uint64()),
            pa.array(self.error, pa.float32()),
            pa.array(self.fitted, pa.bool_()),
            pa.DictionaryArray.from_arrays(causes, pa.array(CAUSES)),
        ]
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), Path(folder) / FILE)

    @classmethod
    def load(cls, folder: PathLike) -> Ledger | None:
        """What :meth:`save` wrote; None where there is none (artefacts of earlier versions have
        none).
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        table = pq.read_table(path)
        if table.column_names != SCHEMA.names:
            raise ValueError(
                f"{path} is no ledger (columns {table.column_names}); run `sidar sid` again"
            )
        words = (
            np.asarray(table.column(name).to_pylist(), dtype=object)
            for name in ("item_id", "cause")
        )
        vector, error, fitted = (
            table.column(name).to_numpy() for name in ("vector", "error", "fitted")
        )
        return cls(next(words), vector, error, fitted, next(words))


def write_up(
    inputs: SidInputs,
    tokenizer: Tokenizer,
    sids: SemanticIds,
    fitted: np.ndarray,
    cause: np.ndarray,
) -> Ledger:
    """The ledger of ``sids`` (n items with ``item_ids`` that all have one) as ``tokenizer`` gave
    them to ``inputs``.
    """
    error = codebook_errors(tokenizer, inputs, sids)
    return Ledger(
        np.asarray(inputs.item_ids, dtype=object), row_hashes(inputs.vectors), error, fitted, cause
    )


def codebook_errors(tokenizer: Tokenizer, inputs: SidInputs, sids: SemanticIds) -> np.ndarray:
    """(n,) float32 |x − x̂|²: how well the codebooks fit items, as the drift alarm compares it.

    Where SIDs are cut codes of a base (SARQ), all codes of the base count: a new item is cold and
    so has a short SID, and what it loses by that says nothing about the codebooks.
    """
    base = tokenizer.base
    if base is None:
        return squared_errors(tokenizer, inputs.vectors, sids.codes)
    return squared_errors(base, inputs.vectors, base.encode(inputs).codes)


def squared_errors(tokenizer: Tokenizer, vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(n,) float32 |x − x̂|² of vectors (n, D) under codes (n, L), −1 past the end."""
    return np.square(np.asarray(vectors, np.float32) - tokenizer.reconstruct(codes)).sum(axis=1)
